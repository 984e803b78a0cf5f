"""Entries as plain objects that any receiver can read."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import msgspec

from e2i_serving.exceptions import RefusedError
from e2i_serving.record import (
    Column,
    Constant,
    Entry,
    LateResult,
    Life,
    Matrix,
    OutcomeEvent,
    PredictionRecord,
    StreamEnd,
    Values,
)

PREDICTION, STREAM_END, LATE_RESULT, OUTCOME = "prediction", "stream-end", "late-result", "outcome"

_PRIVATE: Final = frozenset({"salt", "redactions", "entities", "inputs", "outputs"})
_CODES: Final = {"<f8": "d", "<f4": "f", "<i8": "q", "<i4": "i", "|b1": "?"} if sys.byteorder == "little" else {}
"""Types of matrices that a memory view reads as they are."""
_encoder: Final = msgspec.json.Encoder(enc_hook=str)


def as_json(value: Any) -> bytes:
    """A value as JSON; NaN and the infinities become null.

    Raises:
        RefusedError: It can't be written as JSON.
    """
    try:
        return _encoder.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise RefusedError(f"It can't be written as JSON: {error}") from error


def iso_time(time_ns: int) -> str:
    """Nanoseconds since the epoch as UTC in ISO 8601, to the microsecond.

    Raises:
        RefusedError: It is out of the range of dates.
    """
    seconds, rest = divmod(time_ns, 10**9)
    return f"{_second(seconds)}.{rest // 1000:06d}Z"


@lru_cache(maxsize=128)
def _second(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None).isoformat()
    except (OverflowError, ValueError, OSError) as error:
        raise RefusedError(f"{seconds} s is no time that a calendar has.") from error


def kind_of(entry: Entry) -> str | None:
    """What an entry is; ``None`` for what is not exported."""
    return _KINDS.get(type(entry.body))


def event_id(entry: Entry) -> str:
    """What an entry is known by, whenever it is sent: the life it stands in and its number there."""
    return f"{entry.life.life}/{entry.sequence}"


def event_time_ns(entry: Entry) -> int:
    """When it happened or was recorded, nanoseconds since the epoch; 0 when it does not say."""
    body = entry.body
    return body.time_ns if isinstance(body, PredictionRecord | OutcomeEvent) else 0


def document(entry: Entry) -> dict[str, Any]:
    """An entry as one object: ``kind``, ``id``, what its record says, and the life's part of it.

    The inputs, outputs and entities of a prediction are a list of ``items``, each an object by name.
    """
    body = entry.body
    fields: dict[str, Any] = {
        name: value
        for name in type(body).__struct_fields__
        if name not in _PRIVATE and (value := getattr(body, name)) not in ("", None, {}, ())
    }
    found: dict[str, Any] = {"kind": kind_of(entry), "id": event_id(entry)}
    if (time_ns := event_time_ns(entry)) > 0:
        found["time"] = iso_time(time_ns)
    found |= fields
    life = entry.life
    found |= {"service": life.service, "life": life.life, "sequence": entry.sequence, **where(life)}
    if isinstance(body, PredictionRecord):
        found["items"] = items_of(life, body)
        found["redactions"] = list(body.redactions)
    elif isinstance(body, LateResult):
        found["items"] = spread(body.outputs, body.items)
    return found


def items_of(life: Life, record: PredictionRecord) -> list[dict[str, Any]]:
    """The items of a record: each with ``entity``, ``input`` and ``output``, as far as they are known."""
    served = life.model
    is_served = (record.model or served.name, record.model_version or served.version) == (served.name, served.version)
    names, classes = (served.feature_names, served.classes) if is_served else ((), ())
    items = record.items
    parts: list[tuple[str, list[dict[str, Any]]]] = []
    if record.entities:
        parts.append(("entity", spread(record.entities, items)))
    if record.inputs:
        parts.append(("input", spread(record.inputs, items, "features", names)))
    if record.outputs:
        parts.append(("output", spread(record.outputs, items, "probabilities", classes)))
    if items == 1:
        return [{part: values[0] for part, values in parts}]
    return [{part: values[index] for part, values in parts} for index in range(items)]


def spread(
    columns: Mapping[str, Column], items: int, named: str = "", names: tuple[str, ...] = ()
) -> list[dict[str, Any]]:
    """Columns as one object an item; those that do not hold a value for each item are left out.

    Args:
        columns: The columns by name.
        items: How many items there are.
        named: The column whose second axis has names, where it brings none itself.
        names: These names.
    """
    fitting = [
        (name, values)
        for name, column in columns.items()
        if (values := _values(column, items, names if name == named else ())) is not None
    ]
    if items == 1:
        return [{name: values[0] for name, values in fitting}]
    return [{name: values[index] for name, values in fitting} for index in range(items)]


def _values(column: Column, items: int, names: tuple[str, ...]) -> list[Any] | None:
    """One plain value an item; ``None`` when the column does not say as many."""
    if isinstance(column, Values):
        return column.values if len(column.values) == items else None
    if isinstance(column, Constant):
        return [column.value] * items
    shape = column.shape
    if shape and shape[0] != items:
        return None
    try:
        rows = _plain(column)
        if not shape:  # a matrix without an axis holds for every item
            return [rows] * items
        names = column.names or (names if len(shape) > 1 and shape[1] == len(names) else ())
        return [dict(zip(names, row, strict=True)) for row in rows] if names else rows
    except (TypeError, ValueError):  # the bytes are not what the type and shape say
        return None


def _plain(column: Matrix) -> Any:
    """The elements in nested lists, by a view on the bytes, which costs a small matrix half of what NumPy does."""
    code = _CODES.get(column.dtype)
    if code is None or 0 in column.shape:
        return column.array().tolist()
    return memoryview(column.data).cast(code, column.shape).tolist()  # type: ignore[call-overload]


def where(life: Life) -> dict[str, str]:
    """What of a life tells where it was, as far as it is known."""
    place = life.deployment
    known = {
        "bento": life.bento,
        "bento_version": life.bento_version,
        "code_digest": life.code_digest,
        "model_digest": life.model.digest,
        "environment": place.environment,
        "namespace": place.namespace,
        "pod": place.pod,
        "revision": place.revision,
        "arm": place.arm,
    }
    return {name: value for name, value in known.items() if value}


_KINDS: Final[dict[type, str]] = {
    PredictionRecord: PREDICTION,
    StreamEnd: STREAM_END,
    LateResult: LATE_RESULT,
    OutcomeEvent: OUTCOME,
}
