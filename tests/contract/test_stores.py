"""What every audit store must do, run over each of them."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from e2i_serving.evidence import seal
from e2i_serving.exceptions import QueryError
from e2i_serving.record import (
    ChainEnd,
    Constant,
    Entry,
    Gap,
    Matrix,
    Outcome,
    PredictionFilter,
    StreamEnd,
    Values,
)
from e2i_serving.relay.explode import explode
from e2i_serving.typing import AuditQuery

EVERYTHING = PredictionFilter()


def ids(reader: AuditQuery, **conditions: Any) -> list[str]:
    """The ids of the predictions that meet conditions, sorted."""
    return sorted(row["prediction_id"] for row in reader.predictions(PredictionFilter(**conditions)))


def test_a_prediction_reads_back_as_it_was_written(store, entry):
    """Every kind of column survives: text, numbers, booleans, JSON and nothing."""
    written = entry(
        phases={"predict": 0.25},
        labels={"brand": "north"},
        attributes={"deep": [1.0, {"a": None}], "text": "naïve ☃"},
        sampled=True,
        redactions=("ssn",),
        request_bytes=2**40,
    )
    assert store.write(written) == 1
    (row,) = store.reader().predictions(EVERYTHING)
    assert (row["prediction_id"], row["time_ns"], row["duration"]) == ("p1", 1_790_000_000_000_000_001, 0.001)
    assert (row["outcome"], row["status"], row["service"], row["model"]) == ("ok", 200, "credit", "scorer")
    assert row["phases"] == {"predict": 0.25}
    assert row["labels"] == {"brand": "north"}
    assert row["attributes"] == {"deep": [1.0, {"a": None}], "text": "naïve ☃"}
    assert isinstance(row["attributes"]["deep"][0], float)
    assert row["redactions"] == ["ssn"]
    assert row["sampled"] is True
    assert row["request_bytes"] == 2**40
    assert row["principal"] is None
    assert (row["life"], row["sequence"], row["schema_version"]) == ("life-1", 1, 1)


def test_items_read_back_in_order(store, entry):
    """Each of many items keeps its inputs, outputs and typed columns."""
    store.write(
        entry(
            items=3,
            entities={"customer": Values(["a", "b", "c"])},
            inputs={"features": Matrix.of(np.arange(6.0).reshape(3, 2), ("x", "y"))},
            outputs={
                "prediction": Values([1, 1.0, "1"]),
                "score": Matrix.of(np.array([0.1, np.nan, np.inf])),
                "exploration": Values([True, False, None]),
                "reason": Values(["r0", "r1", "r2"]),
            },
        )
    )
    rows = store.reader().items(["p1", "unknown"])
    assert rows["unknown"] == []
    assert [row["item_index"] for row in rows["p1"]] == [0, 1, 2]
    assert [row["inputs"] for row in rows["p1"]] == [{"x": 0.0, "y": 1.0}, {"x": 2.0, "y": 3.0}, {"x": 4.0, "y": 5.0}]
    assert [row["prediction"] for row in rows["p1"]] == [1, 1.0, "1"]
    assert [type(row["prediction"]) for row in rows["p1"]] == [int, float, str]
    assert [row["score"] for row in rows["p1"]] == [0.1, None, math.inf]
    assert [row["exploration"] for row in rows["p1"]] == [True, False, None]
    assert [row["outputs"] for row in rows["p1"]] == [{"reason": f"r{index}"} for index in range(3)]
    assert [row["entity"] for row in rows["p1"]] == [{"customer": name} for name in "abc"]
    assert rows["p1"][0]["threshold"] is None


def test_a_prediction_that_is_there_is_left_as_it_was(store, entry):
    """A batch handed over again changes nothing, and only what is new counts."""
    first = entry(1, outputs={"score": Constant(0.5)}, entities={"customer": Constant("a")})
    again = entry(1, status=500, outputs={"score": Constant(0.9)}, entities={"customer": Constant("a")})
    assert store.write(first) == 1
    assert store.write(again, entry(2)) == 1
    assert store.write(first, first) == 0
    reader = store.reader()
    assert ids(reader) == ["p1", "p2"]
    assert ids(reader, entity="a") == ["p1"]
    assert next(reader.predictions(PredictionFilter(prediction_id="p1")))["status"] == 200
    assert [row["score"] for row in reader.items(["p1"])["p1"]] == [0.5]


def test_an_empty_batch_is_nothing(store):
    """Nothing written is nothing stored."""
    assert store.write() == 0
    assert store.reader().count(EVERYTHING) == 0


def test_the_end_of_a_stream_completes_its_start(store, entry, life):
    """A start reads interrupted until its end arrives, in the same batch or later; the first end holds."""
    end = StreamEnd("p1", duration=9.0, outcome=Outcome.CANCELLED, response_bytes=7, error_type="gone")
    late = StreamEnd("p1", duration=1.0, outcome=Outcome.OK)
    store.write(entry(1, outcome=Outcome.INTERRUPTED), entry(2, outcome=Outcome.INTERRUPTED), Entry(life, 3, end))
    store.write(Entry(life, 4, late))
    store.write(Entry(life, 5, StreamEnd("unknown", duration=1.0, outcome=Outcome.OK)))
    newest, oldest = store.reader().predictions(EVERYTHING)
    assert newest["outcome"] == "interrupted"
    assert (oldest["outcome"], oldest["duration"], oldest["response_bytes"]) == ("cancelled", 9.0, 7)
    assert (oldest["error_type"], oldest["error_message"], oldest["status"]) == ("gone", None, 200)


def test_how_an_answer_ended_counts_in_every_question(store, entry, life):
    """Filters, counts and durations go by the end, not by what the row said before it."""
    refused = StreamEnd("p2", duration=5.0, outcome=Outcome.REJECTED, status=503, error_type="unjournaled")
    store.write(
        entry(1, outcome=Outcome.INTERRUPTED),
        entry(2),
        entry(3, outcome=Outcome.ERROR, status=500),
        Entry(life, 4, StreamEnd("p1", duration=9.0, outcome=Outcome.OK)),
        Entry(life, 5, refused),
    )
    reader = store.reader()
    assert ids(reader, outcome="ok") == ["p1"]
    assert ids(reader, outcome="interrupted") == []
    assert ids(reader, status=503) == ids(reader, outcome="rejected", status=503) == ["p2"]
    assert ids(reader, status=200) == ["p1"]
    assert reader.count(PredictionFilter(status=200)) == reader.count(PredictionFilter(outcome="ok")) == 1
    assert reader.count(EVERYTHING) == 3
    assert reader.durations(EVERYTHING) == {("scorer", "v1"): [0.003, 5.0, 9.0]}
    assert reader.durations(PredictionFilter(outcome="rejected")) == {("scorer", "v1"): [5.0]}
    assert [row["status"] for row in reader.predictions(EVERYTHING)] == [500, 503, 200]


def test_an_ended_stream_is_not_reopened(store, entry, life):
    """Handing its start over again leaves the end standing."""
    start = entry(1, outcome=Outcome.INTERRUPTED)
    end = Entry(life, 2, StreamEnd("p1", duration=2.0, outcome=Outcome.OK))
    store.write(start, end)
    assert store.write(start, end) == 0
    assert next(store.reader().predictions(EVERYTHING))["outcome"] == "ok"


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({}, ["p1", "p2", "p3"]),
        ({"prediction_id": "p2"}, ["p2"]),
        ({"request_id": "shared"}, ["p1", "p2"]),
        ({"trace_id": f"{3:032x}"}, ["p3"]),
        ({"service": "credit"}, ["p1", "p2", "p3"]),
        ({"service": "other"}, []),
        ({"model": "scorer", "model_version": "v1"}, ["p1", "p2"]),
        ({"model": "other"}, ["p3"]),
        ({"outcome": "error"}, ["p2"]),
        ({"status": 500}, ["p2"]),
        ({"endpoint": "explain"}, ["p3"]),
        ({"labels": {"brand": "north"}}, ["p1", "p2"]),
        ({"labels": {"brand": "north", "tier": 'it\'s "gold"'}}, ["p2"]),
        ({"labels": {"brand' OR '1'='1": "north"}}, []),
        ({"labels": {"be.st": "ä"}}, ["p3"]),
        ({"entity": "c1"}, ["p1", "p2"]),
        ({"entity": "customer=c1"}, ["p1"]),
        ({"entity": "a=b"}, ["p3"]),
        ({"entity": "' OR 1=1 --"}, []),
        ({"request_id": "' OR 1=1 --"}, []),
        ({"since_ns": 1_790_000_000_000_000_002}, ["p2", "p3"]),
        ({"until_ns": 1_790_000_000_000_000_002}, ["p1"]),
        ({"outcome": "ok", "labels": {"brand": "north"}}, ["p1"]),
    ],
)
def test_conditions_choose(store, conditions, expected, entry):
    """Each condition holds alone and together with others; text from outside is only ever a value."""
    store.write(
        entry(1, request_id="shared", labels={"brand": "north"}, entities={"customer": Constant("c1")}),
        entry(
            2,
            request_id="shared",
            status=500,
            outcome=Outcome.ERROR,
            labels={"brand": "north", "tier": 'it\'s "gold"'},
            entities={"account": Constant("c1")},
        ),
        entry(
            3,
            model="other",
            model_version="v9",
            endpoint="explain",
            labels={"be.st": "ä"},
            entities={"pair": Constant("a=b")},
        ),
    )
    reader = store.reader()
    assert ids(reader, **conditions) == expected
    assert reader.count(PredictionFilter(**conditions)) == len(expected)


def test_order_and_limit(store, entry):
    """Predictions come by time of arrival, newest first unless asked otherwise."""
    store.write(*[entry(number) for number in (2, 1, 3)])
    reader = store.reader()
    assert [row["prediction_id"] for row in reader.predictions(EVERYTHING)] == ["p3", "p2", "p1"]
    oldest = reader.predictions(EVERYTHING, limit=2, newest_first=False)
    assert [row["prediction_id"] for row in oldest] == ["p1", "p2"]
    assert list(reader.predictions(EVERYTHING, limit=0)) == []


def test_durations_are_sorted_by_model(store, entry):
    """Durations come by model and version; a request without a model has empty names."""
    store.write(*[entry(number) for number in (3, 1, 2)], entry(9, model="other", model_version="v2"))
    assert store.reader().durations(EVERYTHING) == {("scorer", "v1"): [0.001, 0.002, 0.003], ("other", "v2"): [0.009]}


@pytest.mark.parametrize(
    "conditions",
    [
        {"outcome": "failed"},
        {"request_id": "nul\0"},
        {"request_id": "surrogate\ud800"},
        {"status": 2**40},
        {"since_ns": 2**70},
        {"labels": {'quo"te': "x"}},
        {"labels": {"brand": "\0"}},
    ],
)
def test_what_can_not_be_answered_is_refused_at_once(store, conditions):
    """A condition that no database takes is the asker's mistake, said before anything is read."""
    reader = store.reader()
    with pytest.raises(QueryError):
        reader.predictions(PredictionFilter(**conditions))
    with pytest.raises(QueryError):
        reader.count(PredictionFilter(**conditions))


def test_a_negative_limit_is_refused(store):
    """A limit below nought is a mistake, not everything."""
    with pytest.raises(QueryError, match="limit is -1"):
        store.reader().predictions(EVERYTHING, limit=-1)


def test_characters_that_a_database_refuses_do_not_stop_a_batch(store, entry):
    """The character NUL from outside, in text, keys and JSON, is replaced before it reaches a store."""
    store.write(
        entry(
            1,
            error_message="a\0b",
            labels={"brand": "x\0"},
            attributes={"k\0": ["\0", "\\u0000"]},
            entities={"customer": Values(["c\0"])},
            inputs={"name": Values(["n\0"])},
            outputs={"prediction": Values(["p\0"])},
        )
    )
    reader = store.reader()
    (row,) = reader.predictions(PredictionFilter(labels={"brand": "x\ufffd"}))
    assert row["error_message"] == "a\ufffdb"
    assert row["attributes"] == {"k\ufffd": ["\ufffd", "\\u0000"]}
    assert reader.items(["p1"])["p1"][0]["prediction"] == "p\ufffd"


def test_many_predictions_and_their_items(store, entry):
    """More rows than a database takes in one question come back complete."""
    store.write(*[entry(number, items=2) for number in range(1, 1202)])
    reader = store.reader()
    found = [row["prediction_id"] for row in reader.predictions(EVERYTHING)]
    assert len(found) == 1201
    assert [len(rows) for rows in reader.items(found).values()] == [2] * 1201


def test_the_end_of_a_chain_is_told(store, entry):
    """The last row of a life that has a hash, of whatever table, from a sequence number on."""
    life = entry().life
    event = Entry(life, 2, StreamEnd("p1", 0.1, Outcome.OK, salt=bytes(16)))
    gap = Entry(life, 4, Gap(3, 4, 1, "dead-lettered", b"d"))
    assert store.writer.chain_end(life.life, since=1, until=9) is None
    batch = explode([entry(), event])
    link = seal(batch, life.life, b"")
    store.writer.write(batch)
    assert store.writer.chain_end(life.life, since=2, until=9) == ChainEnd(2, link.hex())
    assert store.writer.chain_end(life.life, since=3, until=9) is None
    assert store.writer.chain_end("another", since=1, until=9) is None
    before = link.hex()
    batch = explode([gap])
    link = seal(batch, life.life, link)
    store.writer.write(batch)
    assert store.writer.chain_end(life.life, since=1, until=9) == ChainEnd(4, link.hex(), "dead-lettered", b"d".hex())
    assert store.writer.chain_end(life.life, since=1, until=3) == ChainEnd(2, before)
    unchained = Entry(life, 5, StreamEnd("p1", 0.2, Outcome.OK, salt=bytes(16)))
    store.writer.write(explode([unchained]))
    assert store.writer.chain_end(life.life, since=1, until=9) == ChainEnd(4, link.hex(), "dead-lettered", b"d".hex())
