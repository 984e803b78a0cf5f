"""The request for predictions: decoded straight into arrays, or refused with a reason."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
from typing import Any

import msgspec
import numpy as np
import pytest
from _bentoml_impl.serde import ALL_SERDE
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from starlette.requests import Request

from e2i_serving.record import Values
from e2i_serving.services.requests import (
    EntityPredictionRequestBody,
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


def test_the_feature_that_is_wrong_is_named_among_others():
    """Where strings and numbers are taken, neither is what is wrong with a row."""
    with pytest.raises(ValidationError) as raised:
        mixed(instances=[{"city": "Graz", "member": True, "age": None, "tags": [1]}])
    assert raised.value.errors()[0]["loc"] == ("instances", 0, "tags")


@pytest.mark.parametrize(
    "body",
    [
        b'{"instances": [{"a": "x", "b": 1}], ',
        b'{"instances": [{"a": "x", "b": 1}], "instances": 5}',
        b'{"instances": [{"a": "x", "b": 1}], "instances": []}',
        b'{"instances": [{"a": "x", "a": 1}]}',
        b'{"instances": [{"a": "x", "b": 1}], "labels": {"a": "\xff"}}',
        b'{"instances": [{"a": "x", "b": 1}], "labels": ' + b"[" * 100_000,
    ],
)
def test_what_is_wrong_is_said_whatever_follows(body):
    """A wrong value is named by its row where the rest of the body can't be read, or says otherwise."""
    assert refusal(body) == ("Expected `float | null`, got `str`", ("instances", 0))


def test_the_name_of_a_field_is_no_place():
    """A field that is not known may have any name, even one that looks like a place."""
    name = " - at `$.instances[" + "9" * 5000 + "]"
    said, _ = refusal({"instances": [[1]], name: 1})
    assert said.startswith("Object contains unknown field")


@pytest.mark.parametrize(
    ("row", "where"), [([1.0, "x"], ("instances", 1, 1)), ({"a": 1.0, "b": "x"}, ("instances", 1, "b"))]
)
def test_text_is_no_number(row, where):
    """Where strings are taken, but not by the model, the one that it can't take is named."""
    request = mixed(instances=[[1.0, 2.0], row] if isinstance(row, list) else [{"a": 1.0, "b": 2.0}, row])
    with pytest.raises(ValidationError) as raised:
        request.matrix(("a", "b"))
    assert raised.value.errors()[0]["loc"] == where


VALID = [
    b'{"instances": [{"age": 1.5, "income": 2}, {"age": null, "income": -3e2}]}',
    b'{"instances": [[1, 2], [3, null]], "entities": [{"customer": "c-1"}, {"customer": 7}]}',
    b'{"instances": {"age": 1, "income": 2}, "entities": "c-1", "labels": {"brand": "n\\u00f6rd"}}',
    '{"instances": [["Gr\u00e4z", true]], "attributes": {"note": [1, {"x": null}]}}'.encode(),
    b'{"entities": [{"customer": "c-1"}], "instances": [{"age": "x"}]}',
]
PIECES = st.sampled_from([*b'{}[]",:\\\xff\xc3\x000-.eEn$`', 0x80]) | st.integers(0, 255)


@st.composite
def mutated(draw):
    """A body that was cut, doubled, overwritten or put together from others, here and there."""
    body = bytearray(draw(st.sampled_from(VALID)))
    for _ in range(draw(st.integers(1, 4))):
        begin = draw(st.integers(0, len(body)))
        end = draw(st.integers(begin, len(body)))
        match draw(st.sampled_from(["cut", "delete", "double", "overwrite", "insert", "member", "splice"])):
            case "cut":
                del body[begin:]
            case "delete":
                del body[begin:end]
            case "double":
                body[end:end] = body[begin:end]
            case "overwrite":
                body[begin : begin + 1] = bytes([draw(PIECES)])
            case "insert":
                body[begin:begin] = draw(st.binary(max_size=4))
            case "member":
                at = body.rfind(b"}")
                body[at:at] = draw(st.sampled_from([b', "instances": 5', b', "instances": [[]]', b', "labels": []']))
            case "splice":
                body[begin:end] = draw(st.sampled_from(VALID))[begin:end]
    return bytes(body)


BODIES = (PredictionRequestBody, MixedPredictionRequestBody, EntityPredictionRequestBody)


@pytest.mark.parametrize("kind", BODIES)
@settings(max_examples=500)
@given(body=mutated())
def test_a_damaged_body_is_decoded_or_refused(kind, body):
    """Whatever became of a body on its way, it is decoded, or refused as the caller's mistake."""
    for dtype in (float, object):
        for names in ((), ("age", "income")):
            with contextlib.suppress(ValidationError):
                decode(body, kind.body_decoder).matrix(names, dtype)


FORM = b'--x\r\nContent-Disposition: form-data; name="%b"\r\n\r\n%b\r\n--x--\r\n'


async def posted(kind: Any, body: bytes, content_type: str) -> PredictionRequest:
    """What becomes of a body that is posted as something else than JSON."""

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": body, "more_body": False}

    scope = {"type": "http", "method": "POST", "app": None, "headers": [(b"content-type", content_type.encode())]}
    return await kind.from_http_request(Request(scope, receive), ALL_SERDE[content_type.partition(";")[0]]())


@pytest.mark.parametrize("kind", BODIES)
@settings(max_examples=100)
@given(field=st.sampled_from([b"instances", b"entities", b"labels", b"other"]), body=mutated(), whole=st.booleans())
def test_a_damaged_form_is_decoded_or_refused(kind, field, body, whole):
    """The same holds of the forms that BentoML takes in place of JSON."""
    form = FORM % (field, body) if whole else body
    with contextlib.suppress(ValidationError):
        asyncio.run(posted(kind, form, "multipart/form-data; boundary=x"))
    with contextlib.suppress(ValidationError):
        asyncio.run(posted(kind, b"instances=" + body, "application/x-www-form-urlencoded"))


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (FORM % (b"instances", b"[[" + b"9" * 5000 + b", 1]]"), "multipart/form-data; boundary=x"),
        (FORM % (b"instances", b"[" * 100_000), "multipart/form-data; boundary=x"),
        (b"instances", "multipart/form-data"),
    ],
)
async def test_a_form_that_can_not_be_read_is_refused(body, content_type):
    """A form without a boundary, or of values that no number and no stack can hold, is the caller's mistake."""
    with pytest.raises(ValidationError, match="can't be read as multipart/form-data"):
        await posted(PredictionRequestBody, body, content_type)


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
