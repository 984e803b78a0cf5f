"""From journal entries to rows: one a request, one an item, one an entity key of an item.

Runs for every prediction served. The common case, one item a request, decides how it is written:
columns are spread out in bulk and zipped into rows, with as little Python an item as can be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from e2i_serving.record import (
    SCHEMA_VERSION,
    Column,
    Constant,
    Entry,
    Life,
    Matrix,
    PredictionRecord,
    Row,
    RowBatch,
    StreamEnd,
    Values,
)
from e2i_serving.record.rows import ITEM_OUTPUT_COLUMNS

INCONSISTENT_COLUMNS: Final = "inconsistent_columns"
"""The error type of a prediction some of whose columns do not fit its number of items."""

ENTITY_LENGTH: Final = 256
"""Most characters of an entity's name or value that can be looked up: database indexes bound their
keys. A longer one still stands in the item's ``entity``."""

_BLANK_ITEM: Final[Row] = dict.fromkeys(("entity", "inputs", "outputs", *ITEM_OUTPUT_COLUMNS))
_LARGEST: Final = 2**53
_encoder: Final = msgspec.json.Encoder(enc_hook=str)


def explode(entries: Sequence[Entry]) -> RowBatch:
    """Turn journal entries into the rows that a store writes.

    Args:
        entries: In the order of their journal.

    Returns:
        The rows, in the same order. A prediction has exactly as many item rows as the record says;
        a column of another length is left out, and the prediction's error type says so.
    """
    batch = RowBatch()
    life: Life | None = None
    of_life: Row = {}
    for entry in entries:
        body = entry.body
        if isinstance(body, StreamEnd):
            batch.stream_ends.append(_stream_end_row(body))
            continue
        if entry.life is not life:
            life = entry.life
            of_life = _life_columns(life)
        _explode_record(batch, entry, body, of_life)
    return batch


def _explode_record(batch: RowBatch, entry: Entry, record: PredictionRecord, of_life: Row) -> None:
    served = entry.life.model
    model = record.model or served.name
    version = record.model_version or served.version
    is_served = model == served.name and version == served.version
    misfits: list[str] = []
    if record.items > 0:
        names = served.feature_names if is_served else ()
        classes = served.classes if is_served else ()
        entities = _spread_all(record.entities, record.items, {}, misfits, "entities")
        inputs = _spread_all(record.inputs, record.items, {"features": names}, misfits, "inputs")
        outputs = _spread_all(record.outputs, record.items, {"probabilities": classes}, misfits, "outputs")
        batch.items += _item_rows(record, model or None, version or None, entities, inputs, outputs)
        for name, values in entities.items():
            batch.entities += _entity_rows(record, name, values, model or None)
    elif record.entities or record.inputs or record.outputs:
        for kind, columns in (("entities", record.entities), ("inputs", record.inputs), ("outputs", record.outputs)):
            misfits += [f"{kind}.{name}" for name, column in columns.items() if _length(column)]
    batch.predictions.append(
        {
            "prediction_id": record.prediction_id,
            "time_ns": record.time_ns,
            "duration": record.duration,
            "outcome": record.outcome.value,
            "status": record.status,
            "endpoint": record.endpoint or None,
            "route": record.route or None,
            "method": record.method or None,
            "request_id": _text(record.request_id),
            "trace_id": record.trace_id or None,
            "span_id": record.span_id or None,
            "parent_span_id": record.parent_span_id or None,
            "parent_request_id": _text(record.parent_request_id),
            "sampled": record.sampled,
            "principal": _text(record.principal),
            "principal_source": record.principal_source or None,
            "phases": _json(record.phases) if record.phases else None,
            "model": model or None,
            "model_version": version or None,
            "model_digest": (served.digest or None) if is_served else None,
            "task": record.task or (served.task if is_served else "") or None,
            "error_type": _text(record.error_type) or (INCONSISTENT_COLUMNS if misfits else None),
            "error_message": _text(record.error_message) or _misfit_message(misfits, record.items),
            "labels": _json(record.labels) if record.labels else None,
            "attributes": _json(record.attributes) if record.attributes else None,
            "items": record.items,
            "request_bytes": _size(record.request_bytes),
            "response_bytes": _size(record.response_bytes),
            "sampling_fraction": record.sampling_fraction,
            "redactions": _json(record.redactions) if record.redactions else None,
            "sequence": entry.sequence,
            **of_life,
        }
    )


def _life_columns(life: Life) -> Row:
    where = life.deployment
    return {
        "service": life.service or None,
        "code_digest": life.code_digest or None,
        "bento": life.bento or None,
        "bento_version": life.bento_version or None,
        "environment": where.environment or None,
        "namespace": where.namespace or None,
        "pod": where.pod or None,
        "revision": where.revision or None,
        "arm": where.arm or None,
        "release": life.release or None,
        "schema_version": SCHEMA_VERSION,
        "life": life.life,
    }


def _stream_end_row(end: StreamEnd) -> Row:
    return {
        "prediction_id": end.prediction_id,
        "duration": end.duration,
        "outcome": end.outcome.value,
        "response_bytes": _size(end.response_bytes),
        "error_type": _text(end.error_type),
        "error_message": _text(end.error_message),
    }


def _item_rows(
    record: PredictionRecord,
    model: str | None,
    version: str | None,
    entities: Mapping[str, list[Any]],
    inputs: Mapping[str, list[Any]],
    outputs: Mapping[str, list[Any]],
) -> Iterable[Row]:
    columns: dict[str, Sequence[Any]] = {}
    others: dict[str, list[Any]] = {}
    for name, values in outputs.items():
        convert = _TYPED.get(name)
        typed = convert(values) if convert else None
        if typed is None:
            others[name] = values
        else:
            columns[name] = typed
    features = inputs.get("features")
    if features is not None and len(record.inputs) == 1 and _is_named(record.inputs["features"], features):
        columns["inputs"] = _json_lines(features)
    elif inputs:
        columns["inputs"] = _objects(inputs)
    if entities:
        columns["entity"] = _objects(entities)
    if others:
        columns["outputs"] = _objects(others)
    first = {
        **_BLANK_ITEM,
        "prediction_id": record.prediction_id,
        "item_index": 0,
        "time_ns": record.time_ns,
        "model": model,
        "model_version": version,
    }
    if record.items == 1:
        for name, cells in columns.items():
            first[name] = cells[0]
        return [first]
    indexes = range(record.items)
    if not columns:
        return [{**first, "item_index": index} for index in indexes]
    names = ("item_index", *columns)
    return [{**first, **dict(zip(names, row))} for row in zip(indexes, *columns.values())]  # noqa: B905  # as above


def _entity_rows(record: PredictionRecord, name: str, values: list[Any], model: str | None) -> Iterable[Row]:
    name = _text(name) or ""
    return [
        {
            "name": name,
            "value": text,
            "prediction_id": record.prediction_id,
            "item_index": index,
            "time_ns": record.time_ns,
            "model": model,
        }
        for index, text in enumerate(_texts(values))
        if text and len(text) <= ENTITY_LENGTH and len(name) <= ENTITY_LENGTH
    ]


def _spread_all(
    columns: Mapping[str, Column], items: int, names: Mapping[str, tuple[str, ...]], misfits: list[str], kind: str
) -> dict[str, list[Any]]:
    """The columns that fit, as one value an item; the others are named in ``misfits``."""
    spread: dict[str, list[Any]] = {}
    for name, column in columns.items():
        values = _spread(column, items, names.get(name, ()))
        if values is None:
            misfits.append(f"{kind}.{name}")
        else:
            spread[name] = values
    return spread


def _spread(column: Column, items: int, names: tuple[str, ...]) -> list[Any] | None:
    if isinstance(column, Constant):
        return [column.value] * items
    if isinstance(column, Values):
        return column.values if len(column.values) == items else None
    return _spread_matrix(column, items, names) if not column.shape or column.shape[0] == items else None


def _spread_matrix(column: Matrix, items: int, names: tuple[str, ...]) -> list[Any] | None:
    shape = column.shape
    try:
        rows: Any = column.array().tolist()
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


def _length(column: Column) -> int:
    if isinstance(column, Values):
        return len(column.values)
    return column.shape[0] if isinstance(column, Matrix) and column.shape else 0


def _is_named(column: Column, values: list[Any]) -> bool:
    return isinstance(column, Matrix) and isinstance(values[0], dict)


def _misfit_message(misfits: list[str], items: int) -> str | None:
    if not misfits:
        return None
    return _text(f"Left out, as they do not hold one value for each of {items} items: {', '.join(misfits)}")


def _objects(columns: Mapping[str, list[Any]]) -> list[str | None]:
    names = tuple(columns)
    return _json_lines([dict(zip(names, row)) for row in zip(*columns.values())])  # noqa: B905  # all fit, and timed


def _json_lines(values: list[Any]) -> list[str | None]:
    """One JSON text a value; ``None`` for what reads ``null``."""
    if len(values) == 1:
        return [_json(values[0])]
    try:
        text = _encoder.encode_lines(values).decode()
    except (TypeError, ValueError, RecursionError):
        return [_json(value) for value in values]
    lines: list[str | None] = text.split("\n")[:-1]  # type: ignore[assignment]  # a new list, widened at once
    if "\\u0000" in text or "null\n" in text:
        return [_stored(line) for line in lines if line is not None]
    return lines


def _json(value: Any) -> str | None:
    try:
        text = _encoder.encode(value).decode()
    except (TypeError, ValueError, RecursionError):
        text = _encoder.encode(ascii(value)).decode()  # keeps what can't be JSON as the text of it
    return _stored(text)


def _stored(text: str) -> str | None:
    if "\\u0000" in text:  # PostgreSQL refuses the character NUL, in JSON as in text
        text = _encoder.encode(_without_nul(msgspec.json.decode(text))).decode()
    return None if text == "null" else text


def _without_nul(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "\ufffd")
    if isinstance(value, list):
        return [_without_nul(inner) for inner in value]
    if isinstance(value, dict):
        return {_without_nul(key): _without_nul(inner) for key, inner in value.items()}
    return value


def _text(value: str) -> str | None:
    return (value.replace("\0", "\ufffd") if "\0" in value else value) or None


def _size(value: int) -> int | None:
    return value if value >= 0 else None


def _texts(values: list[Any]) -> list[str | None]:
    return [_text(value) if isinstance(value, str) else _json(value) for value in values]


def _numbers(values: list[Any]) -> list[float | None] | None:
    """Numbers, with ``None`` for a missing one; ``None`` when they are not numbers."""
    numbers: list[float | None] = []
    for value in values:
        if type(value) is float:
            numbers.append(value if value == value else None)  # noqa: PLR0124  # not-a-number, and timed
        elif value is None:
            numbers.append(None)
        elif isinstance(value, int) and -_LARGEST <= value <= _LARGEST:
            numbers.append(float(value))
        else:
            return None
    return numbers


def _booleans(values: list[Any]) -> list[bool | None] | None:
    return values if all(value is None or isinstance(value, bool) for value in values) else None


_TYPED: Final[dict[str, Callable[[list[Any]], Sequence[Any] | None]]] = {
    **dict.fromkeys(ITEM_OUTPUT_COLUMNS, _numbers),
    "prediction": _json_lines,
    "decision": _texts,
    "treatment": _texts,
    "policy": _texts,
    "exploration": _booleans,
}
