"""Entries as plain objects that any receiver can read."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Final

import msgspec

from e2i_serving.exceptions import RefusedError
from e2i_serving.record import (
    Column,
    Entry,
    LateResult,
    Life,
    Matrix,
    OutcomeEvent,
    PredictionRecord,
    StreamEnd,
    column_length,
    column_values,
)

PREDICTION, STREAM_END, LATE_RESULT, OUTCOME = "prediction", "stream-end", "late-result", "outcome"

_PRIVATE: Final = frozenset({"salt", "redactions", "entities", "inputs", "outputs"})
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
    columns = (
        ("entity", record.entities),
        ("input", _named(record.inputs, "features", names)),
        ("output", _named(record.outputs, "probabilities", classes)),
    )
    parts = [(part, spread(by_name, record.items)) for part, by_name in columns if by_name]
    return [{part: values[index] for part, values in parts} for index in range(record.items)]


def spread(columns: Mapping[str, Column], items: int) -> list[dict[str, Any]]:
    """Columns as one object an item; those that do not hold a value for each item are left out."""
    fitting: dict[str, list[Any]] = {}
    for name, column in columns.items():
        if column_length(column) in (None, items):
            try:
                # A matrix without an axis holds for every item.
                values = (
                    [column.array().item()] * items
                    if isinstance(column, Matrix) and not column.shape
                    else column_values(column, items)
                )
            except (TypeError, ValueError):  # the bytes are not what the type and shape say
                continue
            fitting[name] = values
    return [{name: values[index] for name, values in fitting.items()} for index in range(items)]


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


def _named(columns: dict[str, Column], name: str, names: tuple[str, ...]) -> dict[str, Column]:
    column = columns.get(name)
    if not isinstance(column, Matrix) or column.names or len(column.shape) < 2 or column.shape[1] != len(names):  # noqa: PLR2004  # the second axis
        return columns
    return {**columns, name: msgspec.structs.replace(column, names=names)}


_KINDS: Final[dict[type, str]] = {
    PredictionRecord: PREDICTION,
    StreamEnd: STREAM_END,
    LateResult: LATE_RESULT,
    OutcomeEvent: OUTCOME,
}
