"""What every audit store must do with what is appended beside predictions, run over each of them."""

from __future__ import annotations

from typing import Any

import pytest

from e2i_serving.exceptions import QueryError
from e2i_serving.record import (
    AccessEvent,
    Entry,
    Gap,
    LateResult,
    Life,
    Outcome,
    OutcomeEvent,
    OutcomeFilter,
    PredictionFilter,
    Values,
)

EVERYTHING = PredictionFilter()


def test_a_late_result_stands_beside_the_record(store, entry, life):
    """What a thread came to after a time-out changes nothing of what was answered, and can be read."""
    late = LateResult("p1", duration=7.5, outcome=Outcome.OK, items=1, outputs={"score": Values([0.5])})
    failed = LateResult("p1", duration=8.0, outcome=Outcome.ERROR, error_type="ValueError", error_message="late")
    written = entry(1, outcome=Outcome.TIMEOUT, status=504, error_type="timeout")
    store.write(written, Entry(life, 2, late), Entry(life, 3, failed))
    assert store.write(written, Entry(life, 2, late)) == 0
    reader = store.reader()
    (row,) = reader.predictions(PredictionFilter(outcome="timeout"))
    assert (row["status"], row["duration"], row["error_type"]) == (504, 0.001, "timeout")
    found = reader.late_results(["p1", "unknown"])
    assert found["unknown"] == []
    assert [event["kind"] for event in found["p1"]] == ["late", "late"]
    assert [event["outcome"] for event in found["p1"]] == ["ok", "error"]
    assert [event["error_message"] for event in found["p1"]] == [None, "late"]
    assert found["p1"][0]["outputs"] is not None


def outcome(life: Life, sequence: int, **changes: Any) -> Entry:
    """An outcome's journal entry; later numbers were recorded later."""
    fields = {"outcome_id": f"o{sequence}", "time_ns": sequence, "prediction_id": "p1", "item_index": 0, **changes}
    return Entry(life, sequence, OutcomeEvent(**fields))


def test_outcomes_read_back_as_they_were_written(store, life):
    """A truth of any plain kind, a score, and who said so, newest first."""
    store.write(
        outcome(life, 1, value=True, source="claims", comment="naïve ☃", observed_ns=5),
        outcome(life, 2, value={"of": ["any", 1.0]}, name="fate"),
        outcome(life, 3, score=0.25, name="quality", item_index=-1),
        outcome(life, 4, prediction_id="", request_id="r9", value=0),
    )
    rows = list(store.reader().outcomes(OutcomeFilter()))
    assert [row["outcome_id"] for row in rows] == ["o4", "o3", "o2", "o1"]
    assert [row["value"] for row in rows] == [0, None, {"of": ["any", 1.0]}, True]
    assert [row["score"] for row in rows] == [None, 0.25, None, None]
    assert [row["item_index"] for row in rows] == [0, -1, 0, 0]
    assert (rows[0]["prediction_id"], rows[0]["request_id"]) == (None, "r9")
    assert (rows[3]["source"], rows[3]["comment"], rows[3]["observed_ns"]) == ("claims", "naïve ☃", 5)


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        ({}, ["o4", "o3", "o2", "o1"]),
        ({"prediction_ids": ("p1",)}, ["o2", "o1"]),
        ({"prediction_ids": ("p2", "nobody")}, ["o3"]),
        ({"request_ids": ("r1",)}, ["o4"]),
        ({"prediction_ids": ("p2",), "request_ids": ("r1",)}, ["o4", "o3"]),
        ({"outcome_ids": ("o1", "o3")}, ["o3", "o1"]),
        ({"name": "fate"}, ["o2"]),
        ({"source": "claims"}, ["o1"]),
        ({"since_ns": 2, "until_ns": 4}, ["o3", "o2"]),
        ({"prediction_ids": ("' OR 1=1 --",)}, []),
    ],
)
def test_outcomes_are_chosen_by_conditions(store, life, conditions, expected):
    """Each condition holds; an outcome whose prediction is known is not found by its request id alone."""
    store.write(
        outcome(life, 1, source="claims", request_id="r1"),
        outcome(life, 2, name="fate"),
        outcome(life, 3, prediction_id="p2"),
        outcome(life, 4, prediction_id="", request_id="r1"),
    )
    found = [row["outcome_id"] for row in store.reader().outcomes(OutcomeFilter(**conditions))]
    assert found == expected
    assert [row["outcome_id"] for row in store.reader().outcomes(OutcomeFilter(**conditions), limit=1)] == expected[:1]


def test_an_outcome_recorded_twice_is_one(store, life):
    """Two lives that recorded the same one by its id both keep their row; a reader sees the first."""
    other = Life(life="life-2", service="credit", started_ns=1, pid=2)
    store.write(outcome(life, 1, outcome_id="same", value=1), outcome(life, 2, value=2))
    store.write(Entry(other, 1, OutcomeEvent("same", 9, prediction_id="p1", value=1)))
    rows = list(store.reader().outcomes(OutcomeFilter(prediction_ids=("p1",))))
    assert [(row["outcome_id"], row["life"]) for row in rows] == [("o2", "life-1"), ("same", "life-1")]


def test_accesses_are_listed_latest_first(store, life):
    """Who looked, when and at what, within a time."""
    events = [
        AccessEvent(f"a{n}", n, "ann", "host", "cli", "audit query", {"model": "m"}, predictions=n) for n in range(1, 4)
    ]
    store.write(*[Entry(life, event.time_ns, event) for event in events])
    assert store.write(Entry(life, 1, events[0])) == 0
    reader = store.reader()
    assert [row["access_id"] for row in reader.accesses()] == ["a3", "a2", "a1"]
    assert [row["access_id"] for row in reader.accesses(since_ns=2, limit=1)] == ["a3"]
    assert [row["access_id"] for row in reader.accesses(until_ns=2)] == ["a1"]
    (row,) = reader.accesses(until_ns=2)
    assert (row["principal"], row["source"], row["way"], row["action"]) == ("ann", "host", "cli", "audit query")
    assert (row["conditions"], row["predictions"]) == ({"model": "m"}, 1)


def test_a_gap_is_stored_once(store, life):
    """A tombstone is a row like others, and no prediction."""
    gap = Entry(life, 5, Gap(first=3, last=5, records=2, reason="damaged"))
    assert store.write(gap) == store.write(gap) == 0
    assert store.reader().count(EVERYTHING) == 0


def test_identities_are_found_by_either_id(store, entry):
    """Many ids at once, each prediction once, with the number of its items and its service."""
    store.write(entry(1, request_id="shared", items=2), entry(2, request_id="shared"), entry(3), entry(4))
    reader = store.reader()
    found = sorted(reader.identities(["p1", "p3", "nobody"], ["shared"]), key=lambda row: row["prediction_id"])
    assert [row["prediction_id"] for row in found] == ["p1", "p2", "p3"]
    assert found[0] == {"prediction_id": "p1", "request_id": "shared", "items": 2, "service": "credit"}
    assert reader.identities([], []) == []
    assert len(reader.identities([f"p{number}" for number in range(2000)], [])) == 4


@pytest.mark.parametrize(
    "conditions", [{"prediction_ids": ("\0",)}, {"name": "\ud800"}, {"since_ns": 2**70}, {"until_ns": -(2**70)}]
)
def test_an_outcome_that_can_not_be_asked_for_is_refused_at_once(store, conditions):
    """So are conditions on outcomes, and the times of accesses."""
    reader = store.reader()
    with pytest.raises(QueryError):
        reader.outcomes(OutcomeFilter(**conditions))
    with pytest.raises(QueryError):
        reader.accesses(since_ns=2**70)
    with pytest.raises(QueryError):
        reader.accesses(limit=-1)
