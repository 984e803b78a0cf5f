"""Values of any kind as plain data that a record can hold: bounded, and never by reference."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from pathlib import PurePath
from typing import Any
from uuid import UUID

import msgspec
import numpy as np
from pydantic import BaseModel

from e2i_serving.record import Column, Constant, Matrix, Values
from e2i_serving.record.kept import whole_text

MAX_DEPTH = 16
MAX_ELEMENTS = 10_000
"""Most elements of an array or a list that are recorded in full inside a value."""
DIGEST_BYTES = 4 * 1024 * 1024
"""Largest content of which a digest is taken on the path."""

MAX_CONSTANT = 1024
"""Most bytes, as JSON, of a value that is recorded once and stored with each of several items."""

_LONG = 4096
"""Bits above which an integer is written in hexadecimal: Python refuses the decimal of a very long one."""
_NUMERIC_KINDS = "biuf"
_PLAIN_TYPES = frozenset({float, bool, type(None)})
_encoder = msgspec.json.Encoder()


def plain(value: Any, depth: int = 0) -> Any:
    """A copy of a value made of null, booleans, numbers, strings, lists and objects.

    Models and dataclasses become objects of their fields, enumerations their value, times text in ISO 8601,
    durations seconds, decimals and UUIDs text.
    Arrays and lists above ``MAX_ELEMENTS``, bytes, files, images and what is not known otherwise become a
    description: type, shape or size, and digest. Never raises, whatever a user's object does when it is looked at.
    """
    try:
        return _plain(value, depth)
    except Exception:  # noqa: BLE001  # promise 4: observability never harms
        return _named(value)


def _plain(value: Any, depth: int) -> Any:  # noqa: PLR0911  # one return a kind of value
    if value is None or isinstance(value, str | bool | int | float):
        return _scalar(value)
    if depth >= MAX_DEPTH:
        return _described(value)
    names = _field_names(value)
    if names is not None:
        return {name: plain(getattr(value, name), depth + 1) for name in names}
    if isinstance(value, Mapping):
        return {_scalar(str(key)): plain(inner, depth + 1) for key, inner in list(value.items())[:MAX_ELEMENTS]}
    if isinstance(value, list | tuple | set | frozenset):
        if len(value) > MAX_ELEMENTS:
            return _described(value)
        return _plain_list(value, depth + 1)
    if isinstance(value, np.generic):
        return plain(value.item(), depth + 1)
    if isinstance(value, np.ndarray):
        return plain(value.tolist(), depth + 1) if value.size <= MAX_ELEMENTS else _described(value)
    return plain(value.value, depth + 1) if isinstance(value, Enum) else _leaf(value)


def _plain_list(values: Iterable[Any], depth: int) -> list[Any]:
    # Rows of numbers, which most requests are made of, are plain as they are.
    if set(map(type, values)) <= _PLAIN_TYPES:
        return list(values)
    return [plain(each, depth) for each in values]


def _field_names(value: Any) -> Iterable[str] | None:
    """The names of a model's or a dataclass's fields; ``None`` of anything else."""
    if isinstance(value, BaseModel):
        return type(value).model_fields
    if is_dataclass(value) and not isinstance(value, type):
        return [field.name for field in fields(value)]
    return None


def _leaf(value: Any) -> Any:
    if isinstance(value, datetime | date | time):
        return value.isoformat()
    if isinstance(value, timedelta):
        return value.total_seconds()
    if isinstance(value, Decimal | UUID):
        return str(value)
    return _described(value)


def _scalar(value: Any) -> Any:
    """The value itself, free of subclasses (NumPy's scalars, enumerations), which the journal's encoder refuses."""
    if isinstance(value, str):
        return whole_text(str.__str__(value))
    if isinstance(value, float):
        return float(value)
    if isinstance(value, int) and not isinstance(value, bool):
        number = int(value)
        return number if -(2**63) <= number < 2**64 else hex(number) if number.bit_length() > _LONG else str(number)
    return value


def columns(values: Mapping[str, Any]) -> tuple[dict[str, Column], int] | None:
    """Arguments or results as columns, if they have a common first axis: one row an item.

    Args:
        values: Values by name.

    Returns:
        The columns and the number of items; ``None`` if they are not all arrays, frames or (for results)
        lists of the same length.
    """
    found: dict[str, Column] = {}
    items: int | None = None
    for name, value in values.items():
        made = _column(name, value)
        if made is None or items not in (None, len(value)):
            return None
        items = len(value)
        found.update(made)
    return (found, items) if items else None


def member_columns(members: Mapping[Any, Any], items: int) -> dict[str, Column] | None:
    """What the several inputs of a model hold, by column; beside them what is none, once for all items.

    Args:
        members: The inputs by name.
        items: How many items they are for.

    Returns:
        The columns; ``None`` if no member is an array, a frame or a list of one value an item. Never raises.
    """
    found: dict[str, Column] = {}
    others: dict[str, Any] = {}
    try:
        for key, value in members.items():
            made = columns({str(key): value})
            if made is None or made[1] != items:
                others[str(key)] = value
            else:
                # Frames may have columns of one name; none takes another's place.
                found.update((f"{key}.{name}" if name in found else name, column) for name, column in made[0].items())
    except Exception:  # noqa: BLE001  # as plain
        return None
    if not found:
        return None
    kept = once(others, items)
    if kept.keys() == others.keys():
        return {**{name: Constant(value) for name, value in kept.items()}, **found}
    return {"others": Constant(kept), **found}


def once(value: Any, items: int) -> Any:
    """A plain value that stands for all of a request's items: whole where it is small, else a description.

    It is stored with each item; were it as large as the request, that would take the square of its size.
    """
    made = plain(value)
    if items == 1 or len(_encoder.encode(made)) <= MAX_CONSTANT:
        return made
    return _named(value) if isinstance(value, str) else plain(value, MAX_DEPTH)


def _column(name: str, value: Any) -> dict[str, Column] | None:
    if isinstance(value, np.ndarray) and value.ndim:
        if value.dtype.kind in _NUMERIC_KINDS:
            return {name: Matrix.of(value)}
        value = value.tolist()
    if isinstance(value, list):
        return {name: Values(_plain_list(value, 0))}
    if _is_frame(value):
        # By place, because names may stand twice.
        return {str(key): Values(_plain_list(value.iloc[:, at].tolist(), 0)) for at, key in enumerate(value.columns)}
    return None


def _is_frame(value: Any) -> bool:
    return type(value).__name__ == "DataFrame" and hasattr(value, "columns") and hasattr(value, "iloc")


def _named(value: Any) -> dict[str, Any]:
    kind = type(value)
    return {"type": f"{kind.__module__}.{kind.__qualname__}".removeprefix("builtins.")}


def _described(value: Any) -> dict[str, Any]:
    description = _named(value)
    if isinstance(value, np.ndarray):
        description |= {"dtype": value.dtype.str, "shape": list(value.shape), "bytes": value.nbytes}
        if value.nbytes <= DIGEST_BYTES and not value.dtype.hasobject:
            description["sha256"] = hashlib.sha256(np.ascontiguousarray(value).data).hexdigest()
    elif isinstance(value, bytes | bytearray | memoryview):
        description["bytes"] = len(value)
        if len(value) <= DIGEST_BYTES:
            description["sha256"] = hashlib.sha256(value).hexdigest()
    elif isinstance(value, PurePath):
        description["name"] = value.name
    elif hasattr(value, "size") and isinstance(value.size, int | tuple):
        description["size"] = plain(value.size, MAX_DEPTH - 1)
    elif hasattr(value, "shape"):
        description["shape"] = [int(axis) for axis in value.shape]
    elif isinstance(value, list | tuple | set | frozenset | Mapping):
        description["length"] = len(value)
    return description
