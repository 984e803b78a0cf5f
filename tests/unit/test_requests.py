"""The request for predictions: decoded straight into arrays, or refused with a reason."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from e2i_serving.record import Values
from e2i_serving.services.requests import (
    MixedPredictionRequestBody,
    PredictionRequest,
    PredictionRequestBody,
    decode,
)

NUMBERS = st.floats(allow_nan=False, allow_infinity=False)


def decoded(**body: Any) -> PredictionRequest:
    """A body of these fields, decoded."""
    return decode(json.dumps(body).encode())


def mixed(**body: Any) -> PredictionRequest:
    """The same, where values may be strings."""
    return decode(json.dumps(body).encode(), MixedPredictionRequestBody.body_decoder)


def refusal(body: bytes | dict[str, Any], names: tuple[str, ...] = ()) -> tuple[str, tuple[Any, ...]]:
    """What is said of a body that is refused, and where."""
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    with pytest.raises(ValidationError) as raised:
        decode(content).matrix(names)
    (error,) = raised.value.errors()
    assert error["input"] is None
    return error["msg"], error["loc"]


@given(st.integers(1, 4).flatmap(lambda width: st.lists(st.lists(NUMBERS, min_size=width, max_size=width), min_size=1)))
def test_rows_become_an_array(rows):
    """Numbers arrive as they were sent, one row an instance."""
    matrix = decoded(instances=rows).matrix(())
    assert matrix.dtype == np.float64
    assert matrix.tolist() == rows


def test_one_row_may_stand_for_itself():
    """A single list of numbers, or a single object, is one instance."""
    assert decoded(instances=[1, 2, 3]).instances == [[1.0, 2.0, 3.0]]
    assert decoded(instances=[1]).instances == [[1.0]]
    assert decoded(instances={"b": 2, "a": 1}).matrix(("a", "b")).tolist() == [[1.0, 2.0]]
    assert decoded(instances=[None, 1]).instances == [[None, 1.0]]


def test_objects_are_put_in_the_models_order():
    """Features by name may come in any order, each instance in its own."""
    request = decoded(instances=[{"a": 1, "b": 2}, {"b": 4, "a": 3}])
    assert request.matrix(("b", "a")).tolist() == [[2.0, 1.0], [4.0, 3.0]]


def test_null_is_a_missing_value():
    """Null becomes NaN where the model takes numbers, and None where it takes anything."""
    matrix = decoded(instances=[[1, None]]).matrix(())
    assert math.isnan(matrix[0, 1])
    assert mixed(instances=[["x", None, True, 2]]).matrix((), object).tolist() == [["x", None, True, 2.0]]


def test_integers_beyond_a_double_are_rounded():
    """Numbers are doubles, as in any JSON."""
    assert decoded(instances=[[2**63, 10**300]]).matrix(()).tolist() == [[float(2**63), 1e300]]


@pytest.mark.parametrize(
    ("body", "names", "message", "where"),
    [
        (b"", (), "The body is not valid JSON: Input data was truncated", ()),
        (b"\xff", (), "The body is not valid JSON", ()),
        (b"{", (), "The body is not valid JSON", ()),
        (b'{"instances": [[NaN]]}', (), "The body is not valid JSON", ()),
        (b'{"instances": [[1]]} {}', (), "The body is not valid JSON", ()),
        (b'{"instances": [["\xff"]]}', (), "", ()),
        (b"[]", (), "Expected `object`, got `array`", ()),
        (b"null", (), "Expected `object`, got `null`", ()),
        ({}, (), "Object missing required field `instances`", ()),
        ({"instances": None}, (), "Expected `object | array`, got `null`", ("instances",)),
        ({"instances": 5}, (), "Expected `object | array`, got `int`", ("instances",)),
        ({"instances": []}, (), "At least one instance is needed", ("instances",)),
        ({"instances": [["x"]]}, (), "Expected `float | null`, got `str`", ("instances", 0, 0)),
        ({"instances": [[1], [2, True]]}, (), "Expected `float | null`, got `bool`", ("instances", 1, 1)),
        ({"instances": [[[1]]]}, (), "Expected `float | null`, got `array`", ("instances", 0, 0)),
        ({"instances": [[1, 2], [3]]}, (), "Expected 2 values, got 1 values", ("instances", 1)),
        ({"instances": [[1, 2]]}, ("a",), "Expected 1 values, got 2 values", ("instances", 0)),
        ({"instances": [[1], {"a": 1}]}, (), "Expected 1 values, got an object among arrays", ("instances", 1)),
        ({"instances": [[1], 2]}, (), "Expected 1 values, got", ("instances", 1)),
        ({"instances": [1, [2]]}, (), "Expected a single value like the first one", ("instances", 1)),
        ({"instances": [None, {"a": 1}]}, ("a", "b"), "Expected a single value like the first one", ("instances", 1)),
        ({"instances": [{"a": 1}, [1]]}, ("a",), "Expected an object like the first instance", ("instances", 1)),
        ({"instances": [{"a": 1}]}, (), "The model's feature names are not known", ("instances", 0)),
        ({"instances": [{"a": 1}]}, ("a", "b"), "The features are not the model's: missing b", ("instances", 0)),
        ({"instances": [{"a": 1, "c": 2}]}, ("a",), "The features are not the model's: unknown c", ("instances", 0)),
        (
            {"instances": [{"a": 1, "b": 1}, {"x": 1, "b": 2}]},
            ("a", "b"),
            "The features are not the model's: missing a; unknown x",
            ("instances", 1),
        ),
        ({"instances": [[1]], "labels": {"brand": 7}}, (), "Expected `str`, got `int`", ("labels", "...")),
        ({"instances": [[1]], "labels": ["brand"]}, (), "Expected `object`, got `array`", ("labels",)),
        ({"instances": [[1]], "entities": 5.5}, (), "Expected `int | str | object | array | null`", ("entities",)),
        ({"instances": [[1]], "entities": []}, (), "Expected one entity an instance, 1, got 0", ("entities",)),
        ({"instances": [[1], [2]], "entities": "a"}, (), "Expected one entity an instance, 2, got 1", ("entities",)),
        (
            {"instances": [[1], [2]], "entities": ["a", {}]},
            (),
            "Entities must be all ids or all objects",
            ("entities",),
        ),
        ({"instances": [[1]], "entities": {"a": 1.5}}, (), "Expected `int | str`, got `float`", ("entities", "...")),
    ],
)
def test_a_refusal_says_what_is_wrong_and_where(body, names, message, where):
    """Each mistake has a message of its own, the path to it, and never the input."""
    said, found = refusal(body, names)
    assert said.startswith(message)
    assert found == where or not message


@pytest.mark.parametrize("field", ["instances", "entities", "labels", "attributes"])
def test_deep_nesting_is_refused(field):
    """A body that nests deeper than the decoder goes is the caller's mistake, not the service's."""
    body = b'{"instances": [[1]], "%b": ' % field.encode() + b'{"a":' * 100_000 + b"1" + b"}" * 100_000 + b"}"
    assert refusal(body)


def test_a_refusal_never_quotes_the_input():
    """What was sent may be personal, so no message repeats a value of it."""
    for body in (
        {"instances": [["secret"]]},
        {"instances": [[1]], "labels": {"secret": 5}},
        {"instances": [[1]], "entities": [{"secret": 1.5}]},
        {"instances": "secret"},
    ):
        with pytest.raises(ValidationError) as raised:
            decode(json.dumps(body).encode())
        assert "secret" not in str(raised.value)


def test_a_feature_of_a_wrong_type_is_named():
    """A row by name tells which of its features is meant."""
    with pytest.raises(ValidationError) as raised:
        decoded(instances=[{"age": 1.0, "income": 2.0}, {"age": 3.0, "income": "much"}])
    assert raised.value.errors()[0]["loc"] == ("instances", 1, "income")


def test_a_field_that_is_not_known_is_refused():
    """A mistyped field would lose what it holds."""
    with pytest.raises(ValidationError, match="unknown field `entitys`"):
        decoded(instances=[[1]], entitys=["c-1"])


def test_entities_are_columns_by_key():
    """An id is the key ``id``; objects may lack a key here and there."""
    assert decoded(instances=[[1]]).entities == {}
    assert decoded(instances=[[1]], entities="c-1").entities == {"id": Values(["c-1"])}
    assert decoded(instances=[[1], [2]], entities=["c-1", "c-2"]).entities == {"id": Values(["c-1", "c-2"])}
    assert decoded(instances=[1, 2], entities={"customer": 7}).entities == {"customer": Values([7])}
    assert decoded(instances=[[1], [2]], entities=[{"b": "x", "a": 1}, {"b": "y"}]).entities == {
        "a": Values([1, None]),
        "b": Values(["x", "y"]),
    }


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | NUMBERS | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=15,
    )
)
def test_any_json_is_decoded_or_refused(value):
    """No body raises anything but the error that is answered with 400, and what is accepted can be journaled."""
    for field in ("instances", "entities", "labels", "attributes"):
        body = json.dumps({"instances": [[1.0]], field: value}).encode()
        for decoder in (PredictionRequestBody.body_decoder, MixedPredictionRequestBody.body_decoder):
            try:
                request = decode(body, decoder)
                request.matrix((), object)
                if decoder is PredictionRequestBody.body_decoder:
                    request.matrix(())
            except ValidationError:
                continue
            msgspec.msgpack.encode(request.entities)
            assert all(isinstance(label, str) for label in request.labels.values())


@given(st.binary(max_size=100))
def test_any_bytes_are_decoded_or_refused(body):
    """What is no JSON at all is refused in the same way."""
    with pytest.raises(ValidationError):
        decode(body)


def test_a_key_of_any_size_can_be_put_on_record():
    """A number that no database has a type for is kept as its digits, so that no caller can escape the record."""
    request = decoded(instances=[[1]], entities={"customer": 10**30})
    assert request.entities == {"customer": Values([str(10**30)])}
    msgspec.msgpack.encode(request.entities)
    assert decoded(instances=[[1], [2]], entities=[7, 10**30]).entities == {"id": Values([7, str(10**30)])}


def test_labels_and_attributes_come_as_sent():
    """Which of them count is the service's to say."""
    request = decoded(instances=[[1]], labels={"brand": "north"}, attributes={"note": [1, {"x": None}]})
    assert (request.labels, request.attributes) == ({"brand": "north"}, {"note": [1, {"x": None}]})


def test_the_schema_says_what_is_taken():
    """The documented body is the one that is decoded."""
    for body in (PredictionRequestBody, MixedPredictionRequestBody):
        schema = body.model_json_schema()
        assert schema["title"] == "PredictionRequest"
        assert set(schema["properties"]) == {"instances", "entities", "labels", "attributes"}
        assert schema["required"] == ["instances"]
    example = PredictionRequestBody.model_json_schema()["example"]
    assert len(decoded(**example).instances) == 1
