"""From journal entries to rows: one a request, one an item, one an entity key of an item.

Runs for every prediction served. The common case, one item a request, decides how it is written:
columns are spread out in bulk and zipped into rows, with as little Python an item as can be.
"""

from __future__ import annotations

import sys
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

_BLANK_ITEM: Final[Row] = {
    **dict.fromkeys(("prediction_id", "time_ns", "model", "model_version", "entity", "inputs", "outputs")),
    **dict.fromkeys(ITEM_OUTPUT_COLUMNS),
    "item_index": 0,
}
_LARGEST: Final = 2**53
_NATIVE: Final = {"|b1": "?", "|u1": "B", "|i1": "b"} | {
    f"{'<' if sys.byteorder == 'little' else '>'}{kind}": code
    for kind, code in {"f4": "f", "f8": "d", "i2": "h", "u2": "H", "i4": "i", "u4": "I", "i8": "q", "u8": "Q"}.items()
}
"""NumPy's types that Python's own memory views read, which is three times as fast for one item."""
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
            of_life = _life_row(life)
        _explode_record(batch, entry, body, of_life)
    return batch


def _explode_record(batch: RowBatch, entry: Entry, record: PredictionRecord, of_life: Row) -> None:
    row = of_life.copy()
    served = entry.life.model
    names, classes = served.feature_names, served.classes
    model = record.model or served.name
    version = record.model_version or served.version
    if model != served.name or version != served.version:
        names = classes = ()
        row["model"] = model or None
        row["model_version"] = version or None
        row["model_digest"] = row["task"] = None
    misfits: list[str] = []
    items = record.items
    if items > 0:
        entities = _spread_all(record.entities, items, "", (), misfits, "entities")
        inputs = _spread_all(record.inputs, items, "features", names, misfits, "inputs")
        outputs = _spread_all(record.outputs, items, "probabilities", classes, misfits, "outputs")
        batch.items += _item_rows(record, row["model"], row["model_version"], entities, inputs, outputs)
        for name, values in entities.items():
            batch.entities += _entity_rows(record, name, values, row["model"])
    elif record.entities or record.inputs or record.outputs:
        for kind, columns in (("entities", record.entities), ("inputs", record.inputs), ("outputs", record.outputs)):
            misfits += [f"{kind}.{name}" for name, column in columns.items() if _length(column)]
    _fill_prediction_row(row, record)
    row["sequence"] = entry.sequence
    if misfits:
        row["error_type"] = row["error_type"] or INCONSISTENT_COLUMNS
        row["error_message"] = row["error_message"] or _misfit_message(misfits, items)
    batch.predictions.append(row)


def _fill_prediction_row(row: Row, record: PredictionRecord) -> None:
    row["prediction_id"] = record.prediction_id
    row["time_ns"] = record.time_ns
    row["duration"] = record.duration
    row["outcome"] = record.outcome._value_  # a fifth of what .value costs
    row["status"] = record.status
    row["endpoint"] = record.endpoint or None
    row["route"] = record.route or None
    row["method"] = record.method or None
    row["request_id"] = _text(record.request_id)
    row["trace_id"] = record.trace_id or None
    row["span_id"] = record.span_id or None
    row["parent_span_id"] = record.parent_span_id or None
    row["sampled"] = record.sampled
    row["items"] = record.items
    row["sampling_fraction"] = record.sampling_fraction
    row["phases"] = _json(record.phases) if record.phases else None
    row["labels"] = _json(record.labels) if record.labels else None
    row["attributes"] = _json(record.attributes) if record.attributes else None
    row["redactions"] = _json(record.redactions) if record.redactions else None
    row["parent_request_id"] = _text(record.parent_request_id)
    row["principal"] = _text(record.principal)
    row["principal_source"] = record.principal_source or None
    row["task"] = record.task or row["task"]
    row["error_type"] = _text(record.error_type)
    row["error_message"] = _text(record.error_message)
    row["request_bytes"] = _size(record.request_bytes)
    row["response_bytes"] = _size(record.response_bytes)


def _life_row(life: Life) -> Row:
    """The part of a prediction's row that the life tells."""
    served = life.model
    where = life.deployment
    return {
        "model": served.name or None,
        "model_version": served.version or None,
        "model_digest": served.digest or None,
        "task": served.task or None,
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
    first = _BLANK_ITEM.copy()
    first["prediction_id"] = record.prediction_id
    first["time_ns"] = record.time_ns
    first["model"] = model
    first["model_version"] = version
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
    if len(next(iter(columns.values()))) == 1:
        return [_json({name: values[0] for name, values in columns.items()})]
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
    return _stored(text) if text == "null" or "\\u0000" in text else text


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
    return (value.replace("\0", "\ufffd") if "\0" in value else value) if value else None


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
