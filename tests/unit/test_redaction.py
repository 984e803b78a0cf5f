"""Rules, the allow-list, and what is left of a record."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from redacting import KEY, MODEL, record, redactor

from e2i_serving.record import (
    Constant,
    Matrix,
    ModelInfo,
    Values,
    column_values,
)
from e2i_serving.redaction import redactor_of
from e2i_serving.settings import Settings

ROWS = np.array([[37.0, 51234.5, 10115.0], [64.0, 1e300, np.nan]])


def features(*rules: tuple[Any, ...], array: Any = ROWS, model: ModelInfo = MODEL, names: tuple[str, ...] = ()) -> Any:
    """What is left of a matrix of features."""
    kept = redactor(*rules, model=model).record(record(items=2, inputs={"features": Matrix.of(array, names)}))
    return kept.inputs["features"]


def attributes(given: dict[str, Any], *rules: tuple[Any, ...], **settings: Any) -> Any:
    """What is left of attributes."""
    return redactor(*rules, **settings).record(record(attributes=given)).attributes


def test_nothing_asked_for_is_nothing_made():
    """Without rules there is no redactor, and so no cost; a key alone changes nothing."""
    assert redactor_of(Settings(), MODEL) is None
    assert redactor_of(Settings(redaction_key=KEY), MODEL) is None
    assert redactor_of(Settings(redaction_rules=[{"path": "inputs.a", "action": "drop"}]), MODEL, "audit-store") is None


def test_what_is_not_named_stays_as_it_is():
    """A record that no rule touches is the same record."""
    given = record(
        items=2, inputs={"features": Matrix.of(ROWS)}, labels={"brand": "a"}, attributes={"a": [1, {"b": None}]}
    )
    kept = redactor(("inputs.other", "drop"), ("attributes.c", "mask")).record(given)
    assert kept.attributes == given.attributes
    assert kept.labels is given.labels
    assert kept.redactions == ()


@pytest.mark.parametrize("path", ["inputs.age", "inputs.features.age", "inputs.**.age"])
def test_a_named_feature_is_dropped_from_the_matrix(path):
    """It is not a number any more; the others stay numbers in the same array."""
    kept = features((path, "drop"))
    assert isinstance(kept, Matrix)
    np.testing.assert_array_equal(kept.array(), [[np.nan, 51234.5, 10115.0], [np.nan, 1e300, np.nan]])


def test_a_name_with_a_dot_is_found_by_its_path():
    """A dot in a name separates, as it does in a path."""
    assert np.isnan(features(("inputs.zip.code", "drop")).array()[:, 2]).all()
    assert attributes({"a.b": 1, "a": {"b": 2, "c": 3}}, ("attributes.a.b", "drop")) == {"a": {"c": 3}}


def test_rounding_stays_in_the_array():
    """Numbers too large for decimals stay, and so does what is not a number."""
    kept = features(("inputs.income", "round", -3), ("inputs.age", "round", -1))
    np.testing.assert_array_equal(kept.array(), [[40.0, 51000.0, 10115.0], [60.0, 1e300, np.nan]])
    whole = features(("inputs.features", "round", 0), array=ROWS[:1].astype("f4"))
    assert whole.dtype == "<f4"
    assert whole.array()[0].tolist() == [37.0, 51234.0, 10115.0]


def test_whole_numbers_become_floats_where_one_is_dropped():
    """An integer can't be missing; one too large for a float is kept exactly."""
    small = features(("inputs.age", "drop"), array=np.array([[1, 2, 3]], dtype="i4"))
    assert (small.dtype, small.array()[0, 1:].tolist()) == ("<f8", [2.0, 3.0])
    large = features(("inputs.age", "drop"), array=np.array([[1, 2**62 + 1, 3]]))
    assert large == Values([{"age": None, "income": 2**62 + 1, "zip.code": 3}])
    rounded = features(("inputs.income", "round", -2), array=np.array([[1, 1250, 3]]))
    assert rounded.values == [{"age": 1, "income": 1200, "zip.code": 3}]


def test_a_hashed_feature_makes_values_of_the_matrix():
    """Text does not fit into an array: each item is an object by name."""
    kept = features(("inputs.age", "hash"), ("inputs.income", "mask"))
    assert [set(row) for row in kept.values] == [set(MODEL.feature_names)] * 2
    assert kept.values[0]["age"].startswith("hmac:")
    assert len(kept.values[0]["age"]) == len("hmac:") + 32
    assert kept.values[0]["income"] == "***"
    assert kept.values[0]["zip.code"] == 10115.0


def test_names_in_the_column_come_before_the_models():
    """A column that brings its own names is read by them."""
    kept = features(("inputs.third", "drop"), names=("first", "second", "third"))
    assert np.isnan(kept.array()[:, 2]).all()
    assert kept.names == ("first", "second", "third")


@pytest.mark.parametrize("model", [ModelInfo(), ModelInfo("m", feature_names=("age",))])
def test_features_without_names_are_not_kept_when_a_rule_needs_them(model, caplog):
    """Nobody knows which column is the age, so none is kept, and one warning says so."""
    made = redactor(("inputs.age", "mask"), model=model)
    for column in (Matrix.of(ROWS), Values(ROWS.tolist())):
        kept = made.record(record(items=2, inputs={"features": column}))
        assert kept.inputs["features"] == Values([None, None])
        assert kept.redactions == ("unnamed-parts",)
    assert len([each for each in caplog.records if "have no names" in each.message]) == 1


def test_features_without_names_stay_when_the_rule_is_of_another_column():
    """A rule that names a column of the request is not about the features."""
    given = {"features": Matrix.of(ROWS), "age": Values([1, 2])}
    kept = redactor(("inputs.age", "mask"), model=ModelInfo()).record(record(items=2, inputs=given))
    assert kept.inputs == {"features": given["features"], "age": Values(["***", "***"])}


def test_another_models_features_are_not_named_by_this_one():
    """The life's model names only what it served."""
    kept = redactor(("inputs.age", "mask")).record(record(items=2, model="other", inputs={"features": Matrix.of(ROWS)}))
    assert kept.redactions == ("unnamed-parts",)


@pytest.mark.parametrize(
    "column",
    [Matrix.of(ROWS), Matrix.of(ROWS[:, 0]), Values([1, "a"]), Values([{"a": 1}, [2]])],
    ids=["matrix", "vector", "values", "nested"],
)
@pytest.mark.parametrize("action", ["drop", "mask", "hash"])
@pytest.mark.parametrize("path", ["inputs.x", "inputs.*", "inputs.**"])
def test_a_whole_column_keeps_its_length(column, action, path):
    """Each item has what is left of its value."""
    kept = redactor((path, action)).record(record(items=2, inputs={"x": column})).inputs["x"]
    values = column_values(kept, 2)
    assert len(values) == 2
    if action == "hash":
        assert all(value.startswith("hmac:") for value in values)
    else:
        assert values == [None if action == "drop" else "***"] * 2


def test_constants_stay_constants():
    """A value that holds for all items is changed once."""
    given = {
        "threshold": Constant(0.51),
        "policy": Constant({"owner": "Bob"}),
        "point": Matrix("<f8", (), np.float64(2).tobytes()),
    }
    made = redactor(("outputs.threshold", "round", 1), ("outputs.policy.owner", "mask"), ("outputs.point", "drop"))
    kept = made.record(record(items=3, outputs=given)).outputs
    assert kept == {"threshold": Constant(0.5), "policy": Constant({"owner": "***"}), "point": Constant(None)}


def test_classes_name_the_probabilities():
    """A class's probability is found by the class."""
    given = {"probabilities": Matrix.of(np.array([[0.25, 0.75]]))}
    kept = redactor(("outputs.probabilities.yes", "drop")).record(record(items=1, outputs=given))
    np.testing.assert_array_equal(kept.outputs["probabilities"].array(), [[0.25, np.nan]])


def test_attributes_are_walked_to_any_depth():
    """Stars stand for one name, double stars for any number; a list is as its parts."""
    given = {"patients": [{"name": "Bob", "ssn": 1, "deep": {"er": {"ssn": 2}}}, {"name": "Eve"}], "ssn": 3, "n": 1.26}
    assert attributes(given, ("attributes.patients.name", "mask"), ("attributes.**.ssn", "drop")) == {
        "patients": [{"name": "***", "deep": {"er": {}}}, {"name": "***"}],
        "n": 1.26,
    }
    assert attributes({"a": {"x": {"id": 1}, "y": {"id": 2, "no": 3}}}, ("attributes.a.*.id", "drop")) == {
        "a": {"x": {}, "y": {"no": 3}}
    }
    assert attributes(given, ("attributes.patients", "mask"))["patients"] == "***"
    assert attributes({"tags": ["x", "y"]}, ("attributes.tags.*", "mask")) == {"tags": ["***", "***"]}
    assert given["n"] == 1.26


def test_rounding_a_container_rounds_what_is_in_it():
    """Numbers in text are rounded as text; what is no number is masked, for it can't be rounded."""
    given = {"a": {"x": 1.26, "n": None, "b": True, "list": [2.71, "3.14", "ten", "17"]}}
    assert attributes(given, ("attributes.a", "round", 1)) == {
        "a": {"x": 1.3, "n": None, "b": True, "list": [2.7, "3.1", "***", "17"]}
    }
    assert attributes({"a": 1251}, ("attributes.a", "round", -2)) == {"a": 1300}


def test_the_strongest_rule_wins():
    """Whatever their order, what one rule drops no other rule keeps."""
    rules = [
        ("attributes.a", "round", 1),
        ("attributes.*", "hash"),
        ("attributes.a", "drop"),
        ("attributes.**", "mask"),
    ]
    for order in (rules, rules[::-1]):
        assert attributes({"a": 1.5, "b": 2}, *order) == {"b": "***"}
    assert attributes({"a": 1.55}, ("attributes.a", "round", 1), ("attributes.a", "round", 0)) == {"a": 2.0}


def test_a_hash_is_keyed_and_always_the_same():
    """Equal values are equal, by any spelling of a whole number; another key gives another hash."""
    hashed = attributes(
        {"a": 42, "b": 42.0, "c": "42", "d": 43, "e": [1], "f": None, "g": float("nan")}, ("attributes.*", "hash")
    )
    assert hashed["a"] == hashed["b"] == hashed["c"] != hashed["d"]
    assert hashed["f"] is hashed["g"] is None
    assert attributes({"a": 42}, ("attributes.a", "hash"), key="another key, long")["a"] != hashed["a"]


def test_texts_of_a_record_are_replaced():
    """Ids and messages are text before and after; what was empty stays empty."""
    given = record(
        request_id="bob",
        parent_request_id="eve",
        principal="",
        error_message="bad Bob",
        labels={"brand": "b", "shop": "9.87"},
    )
    made = redactor(
        ("request_id", "hash"),
        ("parent_request_id", "drop"),
        ("principal", "mask"),
        ("error_message", "mask"),
        ("labels.brand", "drop"),
        ("labels.shop", "round", 1),
    )
    kept = made.record(given)
    assert kept.request_id == made.request_id("bob") != "bob"
    assert (kept.parent_request_id, kept.principal, kept.error_message) == ("", "", "***")
    assert kept.labels == {"shop": "9.9"}
    assert kept.redactions == ("labels.brand", "labels.shop", "request_id", "parent_request_id", "error_message")


def test_what_made_a_change_is_named_within_bounds():
    """Very many rules are not all listed."""
    kept = redactor(*[(f"attributes.a{number}", "mask") for number in range(100)]).record(
        record(attributes={f"a{number}": 1 for number in range(100)}, redactions=("before",))
    )
    assert kept.redactions[:2] == ("before", "attributes.a0")
    assert kept.redactions[-1] == "..."
    assert len(kept.redactions) == 33


def test_only_what_is_allowed_is_kept():
    """Of inputs, outputs, entities, attributes and labels; a record's other fields are not its business."""
    given = record(
        items=2,
        request_id="r1",
        inputs={"features": Matrix.of(ROWS), "note": Values(["x", "y"])},
        outputs={"prediction": Values([1, 0]), "score": Matrix.of(ROWS[:, 0]), "threshold": Constant(0.5)},
        entities={"id": Values(["a", "b"]), "other": Values(["c", "d"])},
        attributes={"patient": {"ward": "7", "name": "Bob"}, "list": [{"a": 1, "b": 2}, 3], "else": 1},
        labels={"brand": "n", "shop": "s"},
    )
    allow = (
        "inputs.income",
        "outputs.prediction",
        "entities.id",
        "attributes.patient.ward",
        "attributes.list.a",
        "labels.brand",
    )
    kept = redactor(redaction_allow=allow).record(given)
    np.testing.assert_array_equal(kept.inputs["features"].array(), [[np.nan, 51234.5, np.nan], [np.nan, 1e300, np.nan]])
    assert kept.inputs["note"] == Values([None, None])
    assert kept.outputs == {
        "prediction": Values([1, 0]),
        "score": Values([None, None]),
        "threshold": Constant(None),
    }
    assert kept.entities == {"id": Values(["a", "b"]), "other": Values([None, None])}
    assert kept.attributes == {"patient": {"ward": "7"}, "list": [{"a": 1}, None]}
    assert kept.labels == {"brand": "n"}
    assert kept.request_id == "r1"
    assert set(kept.redactions) == {
        f"{root}.allow-list" for root in ("inputs", "outputs", "entities", "attributes", "labels")
    }


def test_an_allow_list_that_names_nothing_of_a_kind_drops_all_of_it():
    """Of unnamed features too, unless all of them are allowed."""
    given = record(items=2, inputs={"features": Matrix.of(ROWS)}, attributes={"a": 1})
    kept = redactor(redaction_allow=("labels.*",)).record(given)
    assert (kept.inputs, kept.attributes) == ({"features": Values([None, None])}, {})
    unnamed = redactor(redaction_allow=("inputs.age",), model=ModelInfo()).record(given)
    assert unnamed.inputs == {"features": Values([None, None])}
    for path in ("inputs.features", "inputs.*", "inputs.**", "inputs.features.*"):
        assert redactor(redaction_allow=(path,), model=ModelInfo()).record(given).inputs == given.inputs


def test_rules_hold_for_what_is_allowed():
    """What the allow-list keeps is redacted like anything else."""
    assert attributes({"a": "x", "b": "y"}, ("attributes.a", "mask"), redaction_allow=("attributes.a",)) == {"a": "***"}
