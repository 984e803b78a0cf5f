"""From journal entries to rows."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2i_serving.record import (
    AccessEvent,
    Column,
    Constant,
    Deployment,
    Entry,
    Gap,
    LateResult,
    Life,
    Matrix,
    ModelInfo,
    Outcome,
    OutcomeEvent,
    PredictionRecord,
    RowBatch,
    StreamEnd,
    Values,
)
from e2i_serving.record.rows import ITEM_OUTPUT_COLUMNS
from e2i_serving.relay.explode import ENTITY_LENGTH, INCONSISTENT_COLUMNS, explode
from e2i_serving.stores import tables

LIFE = Life(
    life="life-1",
    service="credit",
    started_ns=1,
    pid=1,
    release="1.2.3",
    code_digest="c0de",
    model=ModelInfo("scorer", "v1", "d1ge57", "classification", feature_names=("age", "income"), classes=("no", "yes")),
    deployment=Deployment(environment="production", arm="canary"),
)


def exploded(*, life: Life = LIFE, **changes: Any) -> RowBatch:
    """The rows of one record."""
    fields: dict[str, Any] = {
        "prediction_id": "p1",
        "time_ns": 5,
        "duration": 0.5,
        "outcome": Outcome.OK,
        "status": 200,
        "items": 1,
        **changes,
    }
    return explode([Entry(life, 7, PredictionRecord(**fields))])


def inputs_of(batch: RowBatch) -> list[Any]:
    """Each item's inputs as objects."""
    return [None if row["inputs"] is None else json.loads(row["inputs"]) for row in batch.items]


def test_a_prediction_row_says_who_served_it():
    """What is the same for a whole life stands in each row; what is not known is NULL."""
    (row,) = exploded(
        request_id="r1", labels={"brand": "north"}, phases={"predict": 0.1}, redactions=("ssn",), request_bytes=0
    ).predictions
    assert (row["service"], row["code_digest"], row["release"], row["life"]) == ("credit", "c0de", "1.2.3", "life-1")
    assert (row["model"], row["model_version"], row["model_digest"]) == ("scorer", "v1", "d1ge57")
    assert (row["task"], row["environment"], row["arm"]) == ("classification", "production", "canary")
    assert (row["sequence"], row["schema_version"], row["outcome"]) == (7, 1, "ok")
    assert (row["labels"], row["phases"], row["redactions"]) == ('{"brand":"north"}', '{"predict":0.1}', '["ssn"]')
    assert (row["request_bytes"], row["response_bytes"]) == (0, None)
    assert [row[name] for name in ("attributes", "pod", "principal", "trace_id", "error_type", "error_message")] == (
        [None] * 6
    )


def test_another_model_than_the_life_s_keeps_its_own_name():
    """A digest and feature names are only those of the model that answered."""
    features = Matrix.of(np.array([[1.0, 2.0]]))
    batch = exploded(model="other", model_version="v1", inputs={"features": features})
    row = batch.predictions[0]
    assert (row["model"], row["model_version"], row["model_digest"], row["task"]) == ("other", "v1", None, None)
    assert inputs_of(batch) == [{"features": [1.0, 2.0]}]


def test_the_life_names_features_and_classes():
    """A matrix without names takes the model's, for the columns called features and probabilities."""
    batch = exploded(
        items=2,
        inputs={"features": Matrix.of(np.array([[30, 1], [40, 2]]))},
        outputs={"probabilities": Matrix.of(np.array([[0.25, 0.75], [0.5, 0.5]])), "other": Matrix.of(np.eye(2))},
    )
    assert inputs_of(batch) == [{"age": 30, "income": 1}, {"age": 40, "income": 2}]
    assert [json.loads(row["outputs"]) for row in batch.items] == [
        {"probabilities": {"no": 0.25, "yes": 0.75}, "other": [1.0, 0.0]},
        {"probabilities": {"no": 0.5, "yes": 0.5}, "other": [0.0, 1.0]},
    ]


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [
        ({"features": Matrix.of(np.ones((1, 2)), ("a", "b"))}, {"a": 1.0, "b": 1.0}),
        ({"features": Matrix.of(np.ones((1, 3)))}, {"features": [1.0, 1.0, 1.0]}),
        ({"features": Matrix.of(np.ones((1, 2)), ("a", "a"))}, {"features": [1.0, 1.0]}),
        ({"features": Matrix.of(np.ones(1), ("a",))}, {"features": 1.0}),
        ({"features": Values([{"a": 1}])}, {"features": {"a": 1}}),
        ({"x": Matrix.of(np.ones((1, 2)), ("a", "b"))}, {"x": {"a": 1.0, "b": 1.0}}),
        (
            {"features": Matrix.of(np.ones((1, 2)), ("a", "b")), "text": Values(["t"])},
            {"features": {"a": 1.0, "b": 1.0}, "text": "t"},
        ),
        ({"image": Matrix.of(np.zeros((1, 1, 2), "u1"))}, {"image": [[0, 0]]}),
        ({"flag": Matrix("|b1", (), b"\x01")}, {"flag": True}),
        ({"features": Matrix.of(np.array([[np.nan, np.inf]]))}, {"age": None, "income": None}),
        ({"line": Values(['a\nnull\n"b"'])}, {"line": 'a\nnull\n"b"'}),
        ({}, None),
    ],
)
def test_inputs_by_name(inputs, expected):
    """A matrix of features alone is flattened; other inputs stand under their name."""
    assert inputs_of(exploded(inputs=inputs)) == [expected]
    doubled = {name: _twice(column) for name, column in inputs.items()}
    assert inputs_of(exploded(items=2, inputs=doubled)) == [expected, expected]


def _twice(column: Column) -> Column:
    if isinstance(column, Values):
        return Values(column.values * 2)
    if isinstance(column, Matrix) and column.shape:
        return Matrix(column.dtype, (2, *column.shape[1:]), column.data * 2, column.names)
    return column


@pytest.mark.parametrize(
    ("name", "column", "expected"),
    [
        ("score", Matrix.of(np.array([1], "i4")), 1.0),
        ("score", Values([None]), None),
        ("score", Values([float("nan")]), None),
        ("lower", Values([float("-inf")]), float("-inf")),
        ("threshold", Constant(0.5), 0.5),
        ("prediction", Values(["yes"]), '"yes"'),
        ("prediction", Values([1.0]), "1.0"),
        ("prediction", Values([None]), None),
        ("decision", Values(["approve"]), "approve"),
        ("decision", Values([True]), "true"),
        ("treatment", Values([1]), "1"),
        ("exploration", Values([False]), False),
    ],
)
def test_outputs_with_a_column_of_their_own(name, column, expected):
    """Typed outputs are in their column, and nowhere else."""
    (row,) = exploded(outputs={name: column}).items
    assert row[name] == expected
    assert type(row[name]) is type(expected)
    assert row["outputs"] is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("score", "high"), ("score", [0.1, 0.2]), ("effect", {"a": 1}), ("score", 2**80), ("exploration", "yes")],
)
def test_an_output_of_another_type_is_kept_with_the_others(name, value):
    """What does not fit a typed column is not lost and can't stop the batch."""
    (row,) = exploded(outputs={name: Values([value])}).items
    assert row[name] is None
    assert json.loads(row["outputs"]) == {name: value}


def test_entities_are_rows_of_their_own():
    """Each entity key of each item can be looked up; what is missing or endless is not."""
    batch = exploded(
        items=3,
        entities={"customer": Values(["a", None, "x" * (ENTITY_LENGTH + 1)]), "account": Values([7, 8.5, True])},
    )
    assert [(row["name"], row["value"], row["item_index"]) for row in batch.entities] == [
        ("customer", "a", 0),
        ("account", "7", 0),
        ("account", "8.5", 1),
        ("account", "true", 2),
    ]
    assert {(row["prediction_id"], row["time_ns"], row["model"]) for row in batch.entities} == {("p1", 5, "scorer")}
    assert json.loads(batch.items[1]["entity"]) == {"customer": None, "account": 8.5}


@pytest.mark.parametrize(
    "misfit",
    [
        Values([1, 2]),
        Values([]),
        Matrix.of(np.ones((3, 2))),
        Matrix("<f8", (1, 2), b"short"),
        Matrix("nonsense", (1,), b"12345678"),
    ],
)
def test_columns_that_do_not_fit_lose_and_invent_no_rows(misfit):
    """The columns that fit are taken, and the prediction says which did not."""
    batch = exploded(inputs={"good": Values(["g"]), "bad": misfit})
    assert inputs_of(batch) == [{"good": "g"}]
    (row,) = batch.predictions
    assert row["error_type"] == INCONSISTENT_COLUMNS
    assert "inputs.bad" in row["error_message"]
    assert exploded(items=0, inputs={"bad": Values([1])}).predictions[0]["error_type"] == INCONSISTENT_COLUMNS


def test_an_error_of_its_own_is_not_overwritten():
    """A prediction that failed keeps its error whatever its columns are."""
    batch = exploded(error_type="ValueError", error_message="boom", inputs={"bad": Values([])}, items=2)
    assert [(row["error_type"], row["error_message"]) for row in batch.predictions] == [("ValueError", "boom")]
    assert len(batch.items) == 2


def test_a_request_without_items_has_no_item_rows():
    """What could not be decoded is a prediction with no items."""
    batch = exploded(items=0, outcome=Outcome.INVALID)
    assert (len(batch.predictions), batch.items, batch.entities) == (1, [], [])
    assert batch.predictions[0]["error_type"] is None


def test_items_without_columns_are_still_rows():
    """A record too large to keep its payload keeps its items."""
    batch = exploded(items=3)
    assert [row["item_index"] for row in batch.items] == [0, 1, 2]
    assert set(batch.items[0]) == {
        *("prediction_id", "item_index", "time_ns", "model", "model_version", "entity", "inputs", "outputs"),
        *("salt", "erased"),
        *ITEM_OUTPUT_COLUMNS,
    }


def test_every_row_holds_every_column_of_its_table():
    """A store binds rows as they are, and a hash covers the columns that are there."""
    batch = explode(
        [
            Entry(LIFE, 1, PredictionRecord("p1", 5, 1, Outcome.OK, 200, items=2, entities={"c": Values(["a", "b"])})),
            Entry(LIFE, 2, StreamEnd("p1", 2, Outcome.OK)),
            Entry(LIFE, 3, LateResult("p1", 2, Outcome.OK)),
            Entry(LIFE, 4, OutcomeEvent("o1", 9)),
            Entry(LIFE, 5, AccessEvent("a1", 9)),
            Entry(LIFE, 7, Gap(6, 7, 1, "damaged")),
        ]
    )
    for name in ("predictions", "items", "entities", "events", "outcomes", "accesses", "gaps"):
        rows = getattr(batch, name)
        assert rows
        for row in rows:
            assert set(row) == set(tables.metadata.tables[name].columns.keys())


def test_numbers_are_of_their_column_s_type():
    """What a hash is made over reads back the same."""
    batch = explode(
        [
            Entry(LIFE, 1, PredictionRecord("p1", 5, 1, Outcome.OK, 200, sampling_fraction=1)),
            Entry(LIFE, 2, StreamEnd("p1", 2, Outcome.OK)),
            Entry(LIFE, 3, OutcomeEvent("o1", 9, score=1)),
        ]
    )
    (prediction,), (event,), (outcome,) = batch.predictions, batch.events, batch.outcomes
    floats = (prediction["duration"], prediction["sampling_fraction"], event["duration"], outcome["score"])
    assert [type(value) for value in floats] == [float] * 4


def test_salts_are_of_each_row_alone():
    """The same record gives the same salts, and no two rows share one."""
    first, again = (exploded(items=3, salt=b"s" * 16, retention="standard") for _ in range(2))
    (row,) = first.predictions
    salts = [row["salt"][:32], row["salt"][32:], *(item["salt"] for item in first.items)]
    assert first == again
    assert len(set(salts)) == 5
    assert {len(salt) for salt in salts} == {32}
    assert (row["retention"], row["erased"], row["hash"]) == ("standard", None, None)


def test_ends_and_late_results_are_events():
    """How an answer ended, and what its thread came to, are rows beside the prediction's."""
    batch = explode(
        [
            Entry(LIFE, 1, StreamEnd("p1", 2.5, Outcome.CANCELLED, error_type="gone", status=499)),
            Entry(
                LIFE, 2, LateResult("p2", 9.5, Outcome.OK, items=2, outputs={"score": Matrix.of(np.array([0.5, 1]))})
            ),
        ]
    )
    end, late = batch.events
    assert (end["life"], end["sequence"], end["prediction_id"], end["kind"]) == ("life-1", 1, "p1", "end")
    assert (end["duration"], end["outcome"], end["status"], end["error_type"]) == (2.5, "cancelled", 499, "gone")
    assert (end["response_bytes"], end["error_message"], end["outputs"]) == (None, None, None)
    assert (late["sequence"], late["prediction_id"], late["kind"], late["status"]) == (2, "p2", "late", None)
    assert json.loads(late["outputs"]) == {"score": [0.5, 1.0]}


def test_outcomes_accesses_and_gaps_are_rows():
    """What is appended beside predictions keeps all it says."""
    batch = explode(
        [
            Entry(LIFE, 1, OutcomeEvent("o1", 9, "p1", 3, value={"a": 1}, score=float("nan"), source="clinic")),
            Entry(LIFE, 2, AccessEvent("a1", 9, "ann", "host", "cli", "audit query", {"model": "m"}, 7)),
            Entry(LIFE, 5, Gap(3, 5, 2, "dead-lettered", b"\x01\x02")),
        ]
    )
    (outcome,), (access,), (gap,) = batch.outcomes, batch.accesses, batch.gaps
    assert (outcome["prediction_id"], outcome["item_index"], outcome["name"]) == ("p1", 3, "truth")
    assert (outcome["value"], outcome["score"], outcome["source"]) == ('{"a":1}', None, "clinic")
    assert (outcome["request_id"], outcome["observed_ns"]) == (None, None)
    assert (access["principal"], access["conditions"], access["predictions"]) == ("ann", '{"model":"m"}', 7)
    assert gap == {
        "life": "life-1",
        "first": 3,
        "last": 5,
        "records": 2,
        "reason": "dead-lettered",
        "digest": "0102",
        "removal": None,
        "hash": None,
    }


def test_entries_of_several_lives_keep_apart():
    """Each row is of the life that served it."""
    other = Life(life="life-2", service="fraud", started_ns=1, pid=2)
    record = PredictionRecord("p", 1, 0.1, Outcome.OK, 200)
    rows = explode([Entry(LIFE, 1, record), Entry(other, 1, record), Entry(LIFE, 2, record)]).predictions
    assert [(row["service"], row["life"], row["sequence"]) for row in rows] == [
        ("credit", "life-1", 1),
        ("fraud", "life-2", 1),
        ("credit", "life-1", 2),
    ]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (datetime(2030, 1, 2, tzinfo=UTC), "2030-01-02T00:00:00Z"),
        (b"\x00\xff", "AP8="),
        (1 + 2j, "(1+2j)"),
        ({None: 1}, {"None": 1}),
        ("a\0b", "a\ufffdb"),
        ("\ud800", "'\\ud800'"),
    ],
)
def test_what_is_no_json_is_kept_as_text(value, expected):
    """No value that a service may attach stops a batch."""
    batch = exploded(items=2, inputs={"x": Values([value, value])}, outputs={"other": Values([value, 1])})
    assert json.loads(batch.items[0]["outputs"]) in ({"other": expected}, ascii({"other": value}))
    assert batch.items[0]["inputs"] is not None


_json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**63 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8", exclude_characters="\0")),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(st.sampled_from("abc"), max_size=2), inner),
    max_leaves=5,
)


@given(st.lists(_json_values, min_size=1, max_size=4))
def test_any_values_come_back(values):
    """Whatever JSON values a request holds, each item has its own, in order."""
    batch = exploded(items=len(values), inputs={"x": Values(values)}, outputs={"prediction": Values(values)})
    assert inputs_of(batch) == [{"x": value} for value in values]
    assert [None if row["prediction"] is None else json.loads(row["prediction"]) for row in batch.items] == values


@given(
    items=st.integers(0, 4),
    lengths=st.lists(st.integers(0, 4), max_size=3),
)
def test_there_are_as_many_items_as_the_record_says(items, lengths):
    """Whatever the columns' lengths, no item row is lost or invented."""
    columns: dict[str, Column] = {f"c{place}": Values([0.5] * length) for place, length in enumerate(lengths)}
    outputs = dict(zip(("score", "x", "decision"), columns.values(), strict=False))
    batch = exploded(items=items, inputs=columns, outputs=outputs)
    assert len(batch.items) == items
    inconsistent = batch.predictions[0]["error_type"] == INCONSISTENT_COLUMNS
    assert inconsistent == any(length != items for length in lengths)
