"""Spreading columns out: one plain value an item, in bulk."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, Final

from e2i_serving.record import Column, Constant, Matrix, Values
from e2i_serving.relay.cells import json_lines, json_text

_NATIVE: Final = {"|b1": "?", "|u1": "B", "|i1": "b"} | {
    f"{'<' if sys.byteorder == 'little' else '>'}{kind}": code
    for kind, code in {"f4": "f", "f8": "d", "i2": "h", "u2": "H", "i4": "i", "u4": "I", "i8": "q", "u8": "Q"}.items()
}
"""NumPy's types that Python's own memory views read, which is three times as fast for one item."""


def spread_columns(
    columns: Mapping[str, Column], items: int, named: str, names: tuple[str, ...], misfits: list[str], kind: str
) -> dict[str, list[Any]]:
    """The columns that fit, as one value an item; the others are listed in ``misfits``.

    The column called ``named`` takes ``names`` when it has none of its own.
    """
    spread: dict[str, list[Any]] = {}
    for name, column in columns.items():
        values: list[Any] | None = None
        if isinstance(column, Matrix):
            if not column.shape or column.shape[0] == items:
                values = _spread_matrix(column, items, names if name == named else ())
        elif isinstance(column, Constant):
            values = [column.value] * items
        elif len(column.values) == items:
            values = column.values
        if values is None:
            misfits.append(f"{kind}.{name}")
        else:
            spread[name] = values
    return spread


def _spread_matrix(column: Matrix, items: int, names: tuple[str, ...]) -> list[Any] | None:
    shape = column.shape
    code: Any = _NATIVE.get(column.dtype)
    try:
        is_native = code is not None and 0 not in shape
        rows: Any = memoryview(column.data).cast(code, shape).tolist() if is_native else column.array().tolist()
    except (TypeError, ValueError):
        return None  # the bytes are not what the type and shape say
    if not shape:
        return [rows] * items
    names = column.names or names
    if len(shape) > 1 and shape[1] == len(names):
        named = [dict(zip(names, row)) for row in rows]  # noqa: B905  # equal by the line above, and timed
        if len(named[0]) == len(names):  # a name that stands twice would hide a value
            return named
    return rows  # type: ignore[no-any-return]


def misfit_length(column: Column) -> int:
    """How many items a column describes; 0 for one that fits any number."""
    if isinstance(column, Values):
        return len(column.values)
    return column.shape[0] if isinstance(column, Matrix) and column.shape else 0


def json_objects(columns: Mapping[str, list[Any]]) -> list[str | None]:
    """One JSON object an item, with a member a column."""
    if len(next(iter(columns.values()))) == 1:
        return [json_text({name: values[0] for name, values in columns.items()})]
    names = tuple(columns)
    return json_lines([dict(zip(names, row)) for row in zip(*columns.values())])  # noqa: B905  # all fit, and timed
