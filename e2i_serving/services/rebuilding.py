"""From the inputs on record back to features, in the form in which the steps of a service take them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from types import NoneType
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from e2i_serving.services.base import PredictionService
from e2i_serving.services.frames import frame_of

_DESCRIPTION: Final = frozenset({"type", "dtype", "shape", "bytes", "sha256", "size", "length", "name"})
"""Members of what stands for a value that has no plain form."""


class Form(NamedTuple):
    """A form in which recorded inputs may have been features.

    Attributes:
        name: Its name, the same for all predictions.
        make: Makes the features; raises whatever comes of it where they can't be had in this form.
    """

    name: str
    make: Callable[[], Any]


def forms(service: PredictionService, inputs: Sequence[Any]) -> list[Form]:
    """The forms in which inputs may have been features, the likeliest first.

    Where the base's ``features`` made them, there is one. What a ``features`` of the service's own gave is on record by
    its values, not by its form: it may have been an array of either precision, a frame, a mapping, a tuple or a list.

    Args:
        service: The service, loaded.
        inputs: What is on record of each item.

    Returns:
        The forms; none where the inputs are no rows, or hold descriptions in place of values.
    """
    rows = [each["features"] if isinstance(each, dict) and each.keys() == {"features"} else each for each in inputs]
    names: tuple[str, ...] = ()
    if isinstance(rows[0], dict):
        names = service.feature_names if rows[0].keys() == set(service.feature_names) else tuple(rows[0])
        if any(not isinstance(row, dict) or row.keys() != set(names) for row in rows):
            return []
    table = [[row[name] for name in names] for row in rows] if names else rows
    if type(service).features is PredictionService.features:
        return _declared(service, table, names)
    if _is_description(rows[0]) or any(map(_is_description, table)):
        return []
    arrays = [Form(f"array {dtype.__name__}", _array(table, dtype)) for dtype in _dtypes(table)]
    by_name = _by_name(table, names) if names else []
    is_named = service.as_frame or names != service.feature_names
    return [*by_name, *arrays, Form("list", lambda: rows)] if is_named else [*arrays, *by_name]


def _declared(service: PredictionService, table: list[Any], names: tuple[str, ...]) -> list[Form]:
    try:
        matrix: NDArray[Any] = np.array(table, dtype=service.feature_dtype)
    except (TypeError, ValueError):
        return []
    return [Form("declared", lambda: frame_of(matrix, names) if service.as_frame else matrix)]


def _by_name(table: list[list[Any]], names: tuple[str, ...]) -> list[Form]:
    columns = {name: [row[at] for row in table] for at, name in enumerate(names)}
    made: list[Form] = []
    for single in (False, True):
        dtypes = {name: _dtypes(values) for name, values in columns.items()}
        if single and not any(np.float32 in each for each in dtypes.values()):
            continue
        arrays = {
            name: _array(columns[name], np.float32 if single and np.float32 in each else each[0])
            for name, each in dtypes.items()
        }
        ending = " float32" if single else ""
        made.append(Form(f"frame{ending}", partial(_frame, arrays)))
        made.append(Form(f"mapping{ending}", partial(_mapping, arrays)))
        if names == tuple(map(str, range(len(names)))):
            made.insert(0, Form(f"tuple{ending}", partial(_tuple, arrays)))
    return made


def _frame(arrays: dict[str, Callable[[], NDArray[Any]]]) -> Any:
    import pandas as pd  # noqa: PLC0415  # only services that use it have it

    return pd.DataFrame(_mapping(arrays))


def _mapping(arrays: dict[str, Callable[[], NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    return {name: make() for name, make in arrays.items()}


def _tuple(arrays: dict[str, Callable[[], NDArray[Any]]]) -> tuple[NDArray[Any], ...]:
    return tuple(make() for make in arrays.values())


def _array(values: list[Any], dtype: type) -> Callable[[], NDArray[Any]]:
    return partial(np.array, values, dtype=dtype)


def _dtypes(values: list[Any]) -> list[type]:
    """The types that an array of these values may have had, the likeliest first."""
    array = np.array(values, dtype=object)
    kinds = {type(each) for each in array.flat}
    if not kinds <= {bool, int, float, NoneType}:
        return [object]
    if kinds <= {bool}:
        return [np.bool_]
    if kinds <= {bool, int}:
        return [np.int64, np.float64]
    doubles = array.astype(np.float64)
    with np.errstate(over="ignore"):
        singles = doubles.astype(np.float32)
    if not np.array_equal(singles, doubles, equal_nan=True):
        return [np.float64]
    # A number with few digits is the same in both; one that has many, and still is, was a float32.
    were_singles = any(float(str(single)) != float(single) for single in _finite(singles))
    return [np.float32, np.float64] if were_singles else [np.float64, np.float32]


def _finite(array: NDArray[Any]) -> Iterator[Any]:
    return iter(array[np.isfinite(array)])


def _is_description(value: Any) -> bool:
    """Whether a value, or one in a row, only says what stood there."""
    if isinstance(value, list):
        return any(isinstance(each, dict) and _is_description(each) for each in value)
    return isinstance(value, dict) and isinstance(value.get("type"), str) and value.keys() <= _DESCRIPTION
