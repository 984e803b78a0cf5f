"""Columns: how a request of N rows keeps N addressable items without N objects on the path.

A record holds its inputs and outputs by column, the first axis of each being the item. Arrays travel
as their raw bytes, which costs a tenth of encoding the numbers; the relay explodes them into item rows.
"""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray


class Matrix(msgspec.Struct, frozen=True, tag="matrix", tag_field="kind", omit_defaults=True):
    """An array whose first axis is the item.

    Attributes:
        dtype: NumPy's type string with byte order, such as ``"<f8"``.
        shape: ``(n,)`` for a scalar an item, ``(n, k)`` for a vector an item, and so on.
        data: The elements in C order.
        names: Names of the second axis (features, classes); empty when it has none.
    """

    dtype: str
    shape: tuple[int, ...]
    data: bytes
    names: tuple[str, ...] = ()

    @classmethod
    def of(cls, array: NDArray[Any], names: tuple[str, ...] = ()) -> Matrix:
        """Copy an array of numbers or booleans.

        Args:
            array: Shape ``(n, ...)``, of a boolean, integer or floating type.
            names: Names of the second axis.

        Returns:
            The column; later changes to ``array`` do not reach it.
        """
        return cls(array.dtype.str, array.shape, array.tobytes(), names)

    def array(self) -> NDArray[Any]:
        """The elements as a read-only array of the recorded shape."""
        return np.frombuffer(self.data, dtype=self.dtype).reshape(self.shape)


class Values(msgspec.Struct, frozen=True, tag="values", tag_field="kind"):
    """One plain value (string, number, boolean, null, or a list or object of them) an item."""

    values: list[Any]


class Constant(msgspec.Struct, frozen=True, tag="constant", tag_field="kind"):
    """One plain value that holds for every item of the request, a threshold for instance."""

    value: Any


Column = Matrix | Values | Constant


def column_length(column: Column) -> int | None:
    """How many items a column describes; ``None`` for a constant, which fits any number."""
    if isinstance(column, Matrix):
        return column.shape[0] if column.shape else None
    if isinstance(column, Values):
        return len(column.values)
    return None


def column_values(column: Column, items: int) -> list[Any]:
    """A column as one plain Python value an item.

    Args:
        column: The column to spread out.
        items: How many items the request has.

    Returns:
        ``items`` values. A matrix with names gives an object by name an item; without, a list.
    """
    if isinstance(column, Constant):
        return [column.value] * items
    if isinstance(column, Values):
        return column.values
    rows: list[Any] = column.array().tolist()
    if column.names:
        names = column.names
        return [dict(zip(names, row, strict=True)) for row in rows]
    return rows
