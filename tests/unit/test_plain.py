"""Plain data: any value becomes something that a record can hold."""

from __future__ import annotations

import enum
import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from types import MappingProxyType
from typing import Any
from uuid import UUID

import msgspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from pydantic import BaseModel

from e2i_serving.record import Column, Matrix, Values, column_values
from e2i_serving.runtime.plain import MAX_DEPTH, MAX_ELEMENTS, columns, plain

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(st.characters())
    | st.binary()
    | st.dates()
    | st.datetimes()
    | st.timedeltas()
    | st.decimals()
    | st.uuids()
    | st.complex_numbers()
    | hnp.from_dtype(np.dtype("f4"))
    | hnp.from_dtype(np.dtype("f8"))
    | hnp.from_dtype(np.dtype("i8"))
    | hnp.from_dtype(np.dtype("?"))
    | hnp.from_dtype(np.dtype("U5"))
    | hnp.from_dtype(np.dtype("M8[D]"))
    | hnp.arrays(hnp.scalar_dtypes(), hnp.array_shapes(max_dims=3, max_side=3))
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text() | st.integers() | st.floats() | st.dates(), inner, max_size=3)
    ),
    max_leaves=8,
)
ENCODER = msgspec.msgpack.Encoder()


class Colour(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


class Kind(enum.Enum):
    SINCE = date(2030, 3, 17)
    PAIR = (1, "a")


@dataclass
class Point:
    x: int
    label: Any = None


@dataclass(slots=True)
class Unset:
    x: int = field(init=False)


class Body(BaseModel):
    age: int
    tags: list[str]


@given(ANYTHING)
def test_any_value_can_be_journaled(value):
    """Whatever comes in, what comes out has an encoded form, the same when it is made again of itself."""
    made = plain(value)
    encoded = ENCODER.encode(made)
    decoded = msgspec.msgpack.decode(encoded)
    assert ENCODER.encode(decoded) == encoded
    assert ENCODER.encode(plain(made)) == encoded


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=10,
    )
)
def test_what_is_plain_already_stays_as_it_is(value):
    """Plain data is copied, not changed."""
    assert plain(value) == value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.float64(1.5), 1.5),
        (np.float32(0.5), 0.5),
        (np.int64(-3), -3),
        (np.bool_(True), True),
        (np.str_("a"), "a"),
        (Colour.RED, "red"),
        (Level.HIGH, 3),
        (True, True),
        ((1, 2), [1, 2]),
        ({"x"}, ["x"]),
        (OrderedDict(a=1), {"a": 1}),
        (MappingProxyType({1: 2}), {"1": 2}),
        (np.array([[1, 2], [3, 4]]), [[1, 2], [3, 4]]),
        (np.array(5.0), 5.0),
        (np.array(["a", None], dtype=object), ["a", None]),
        (datetime(2030, 3, 17, 17, 46, 40, tzinfo=UTC), "2030-03-17T17:46:40+00:00"),
        (date(2030, 3, 17), "2030-03-17"),
        (time(17, 46), "17:46:00"),
        (np.datetime64("2030-03-17"), "2030-03-17"),
        (timedelta(minutes=1, milliseconds=500), 60.5),
        (timedelta(days=-1), -86400.0),
        (pd.Timedelta(seconds=2), 2.0),
        (Decimal("1.50"), "1.50"),
        (Decimal("sNaN"), "sNaN"),
        (UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (Kind.SINCE, "2030-03-17"),
        (Kind.PAIR, [1, "a"]),
        (Point(1, Point(2, Decimal(3))), {"x": 1, "label": {"x": 2, "label": "3"}}),
        (Body(age=3, tags=["x"]), {"age": 3, "tags": ["x"]}),
        (2**64, str(2**64)),
        (-(2**63) - 1, str(-(2**63) - 1)),
        (2**64 - 1, 2**64 - 1),
        ("\ud800x", "\\ud800x"),
    ],
    ids=repr,
)
def test_values_of_known_kinds_keep_their_meaning(value, expected):
    """Each kind has one plain form, of exactly the built-in type."""
    made = plain(value)
    assert made == expected
    assert type(made) is type(expected)


def test_a_number_too_long_to_write_is_no_trouble():
    """Python refuses to write very long integers in decimal; here they are written all the same."""
    assert plain(2**20_000) == hex(2**20_000)


def test_content_is_described_and_not_kept():
    """Bytes, files and large arrays leave their type, size and digest."""
    content = b"secret" * 100
    for value in (content, bytearray(content), memoryview(content)):
        assert plain(value) == {
            "type": type(value).__name__,
            "bytes": 600,
            "sha256": hashlib.sha256(content).hexdigest(),
        }
    assert plain(Path("/data/x-ray.png")) == {
        "type": f"{type(Path()).__module__}.{type(Path()).__name__}",
        "name": "x-ray.png",
    }
    image = np.zeros((200, 200, 3), dtype=np.uint8)
    assert plain(image) == {
        "type": "numpy.ndarray",
        "dtype": "|u1",
        "shape": [200, 200, 3],
        "bytes": 120_000,
        "sha256": hashlib.sha256(image.tobytes()).hexdigest(),
    }
    assert plain(image[:, ::2])["sha256"] == hashlib.sha256(image[:, ::2].tobytes()).hexdigest()
    assert "sha256" not in plain(bytes(5 * 1024 * 1024))
    assert plain(list(range(MAX_ELEMENTS + 1))) == {"type": "list", "length": MAX_ELEMENTS + 1}
    assert plain(list(range(MAX_ELEMENTS))) == list(range(MAX_ELEMENTS))
    assert len(plain(dict.fromkeys(range(MAX_ELEMENTS + 1), 1))) == MAX_ELEMENTS


def test_what_is_not_known_is_named():
    """Any other object leaves its type, and its size or shape if it has one."""

    class Picture:
        size = (640, 480)

    class Tensor:
        shape = (2, np.int64(3))

    assert plain(Picture())["size"] == [640, 480]
    assert plain(Picture())["type"].endswith("Picture")
    assert plain(Tensor())["shape"] == [2, 3]
    assert plain(object()) == {"type": "object"}
    assert plain(len)["type"] == "builtin_function_or_method"
    assert plain(Point) == {"type": "type"}


def test_an_object_that_raises_when_looked_at_is_named():
    """A prediction never fails because a value could not be recorded."""

    class Odd:
        @property
        def size(self) -> int:
            raise RuntimeError("not now")

    class Symbolic:
        shape = (None, 3)

    class Broken(dict[str, int]):
        def items(self) -> Any:
            raise RuntimeError("not now")

    for value in (Odd(), Symbolic(), Broken(a=1), Unset()):
        assert plain(value) == {"type": f"{__name__}.{type(value).__qualname__}"}
        assert plain([value, 1])[1] == 1


def test_what_contains_itself_ends():
    """Depth is bounded, so that no cycle runs on."""
    value: list[Any] = []
    value.append(value)
    made = plain(value)
    depth = 0
    while isinstance(made, list):
        (made,) = made
        depth += 1
    assert depth == MAX_DEPTH
    assert made == {"type": "list", "length": 1}
    point = Point(1)
    point.label = point
    assert str(plain(point)).count("'label'") == MAX_DEPTH


def test_a_copy_does_not_follow_later_changes():
    """What is recorded is what was there then."""
    inner = [1]
    value = {"a": inner}
    made = plain(value)
    inner.append(2)
    assert made == {"a": [1]}


def spread(found: tuple[dict[str, Column], int] | None) -> dict[str, list[Any]]:
    """Columns as values an item."""
    assert found is not None
    made, items = found
    return {name: column_values(column, items) for name, column in made.items()}


def test_arrays_frames_and_lists_become_columns():
    """The first axis is the item, of numbers as one matrix, of anything else as values."""
    array = np.array([[1.0, 2.0], [3.0, 4.0]])
    made = columns({"x": array, "y": np.array([1, 0])})
    assert made is not None
    assert all(isinstance(column, Matrix) for column in made[0].values())
    assert spread(made) == {"x": [[1.0, 2.0], [3.0, 4.0]], "y": [1, 0]}
    array[0, 0] = 99
    assert spread(made)["x"][0] == [1.0, 2.0]
    assert spread(columns({"x": np.array(["a", "b"])})) == {"x": ["a", "b"]}
    assert spread(columns({"x": ["a", np.float64(1.0)]})) == {"x": ["a", 1.0]}
    frame = pd.DataFrame({"age": [1, 2], "name": ["a", "b"]})
    assert spread(columns({"frame": frame})) == {"age": [1, 2], "name": ["a", "b"]}


def test_values_of_columns_stay_one_an_item_however_many():
    """Long columns are not described away: a record has as many values as items."""
    many = MAX_ELEMENTS + 1
    found = columns({"x": np.array(["a"] * many, dtype=object), "y": ["b"] * many})
    assert found is not None
    assert found[1] == many
    assert all(isinstance(column, Values) and len(column.values) == many for column in found[0].values())
    assert isinstance(msgspec.msgpack.decode(ENCODER.encode(found[0]["x"]), type=Column), Values)


def test_a_frame_with_odd_columns_is_no_trouble():
    """Names may stand twice, or be no strings."""
    twice = pd.DataFrame([[1, 2], [3, 4]], columns=["a", "a"])
    assert set(spread(columns({"frame": twice}))) == {"a"}
    numbered = pd.DataFrame([[1, 2], [3, 4]])
    assert spread(columns({"frame": numbered})) == {"0": [1, 3], "1": [2, 4]}
    levels = pd.DataFrame([[1, 2]], columns=pd.MultiIndex.from_tuples([("a", "b"), ("a", "c")]))
    assert spread(columns({"frame": levels})) == {"('a', 'b')": [1], "('a', 'c')": [2]}


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"x": np.array(3.0)},
        {"x": 3.0},
        {"x": "text"},
        {"x": {"a": [1]}},
        {"x": Point(1)},
        {"x": []},
        {"x": np.zeros((0, 3))},
        {"x": [1, 2], "y": [1]},
        {"x": [1, 2], "threshold": 0.5},
    ],
    ids=repr,
)
def test_what_has_no_common_first_axis_has_no_columns(values):
    """Scalars, objects, nothing, and lengths that differ are not spread out."""
    assert columns(values) is None
