"""From journal entries to rows: one a request, one an item, one an entity key of an item.

Runs for every prediction served. The common case, one item a request, decides how it is written:
columns are spread out in bulk and zipped into rows, with as little Python an item as can be.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from e2i_serving.evidence import item_salts, prediction_salt
from e2i_serving.record import SCHEMA_VERSION, Column, Entry, Life, Matrix, PredictionRecord, Row, RowBatch
from e2i_serving.record.rows import ITEM_OUTPUT_COLUMNS
from e2i_serving.relay.cells import (
    boolean_cells,
    json_lines,
    json_text,
    number_cells,
    size_cell,
    text_cell,
    text_cells,
)
from e2i_serving.relay.event_rows import add_event
from e2i_serving.relay.spreading import json_objects, misfit_length, spread_columns

INCONSISTENT_COLUMNS: Final = "inconsistent_columns"
"""The error type of a prediction some of whose columns do not fit its number of items."""

ENTITY_LENGTH: Final = 256
"""Most characters of an entity's name or value that can be looked up: database indexes bound their
keys. A longer one still stands in the item's ``entity``."""

_BLANK_ITEM: Final[Row] = {
    **dict.fromkeys(("prediction_id", "time_ns", "model", "model_version", "entity", "inputs", "outputs")),
    **dict.fromkeys(ITEM_OUTPUT_COLUMNS),
    **dict.fromkeys(("salt", "erased")),
    "item_index": 0,
}


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
        if not isinstance(body, PredictionRecord):
            add_event(batch, entry.life.life, entry.sequence, body)
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
        row["model_digest"] = row["task"] = row["lineage"] = None
    misfits: list[str] = []
    items = record.items
    if items > 0:
        entities = spread_columns(record.entities, items, "", (), misfits, "entities")
        inputs = spread_columns(record.inputs, items, "features", names, misfits, "inputs")
        outputs = spread_columns(record.outputs, items, "probabilities", classes, misfits, "outputs")
        batch.items += _item_rows(record, row["model"], row["model_version"], entities, inputs, outputs)
        for name, values in entities.items():
            batch.entities += _entity_rows(record, name, values, row["model"])
    elif record.entities or record.inputs or record.outputs:
        for kind, columns in (("entities", record.entities), ("inputs", record.inputs), ("outputs", record.outputs)):
            misfits += [f"{kind}.{name}" for name, column in columns.items() if misfit_length(column)]
    _fill_prediction_row(row, record)
    row["sequence"] = entry.sequence
    if misfits:
        row["error_type"] = row["error_type"] or INCONSISTENT_COLUMNS
        row["error_message"] = row["error_message"] or _misfit_message(misfits, items)
    batch.predictions.append(row)


def _fill_prediction_row(row: Row, record: PredictionRecord) -> None:
    row["prediction_id"] = record.prediction_id
    row["time_ns"] = record.time_ns
    row["duration"] = float(record.duration)  # as it is read back, whatever it was made from
    row["outcome"] = record.outcome._value_  # a fifth of what .value costs
    row["status"] = record.status
    row["endpoint"] = record.endpoint or None
    row["route"] = record.route or None
    row["method"] = record.method or None
    row["request_id"] = text_cell(record.request_id)
    row["trace_id"] = record.trace_id or None
    row["span_id"] = record.span_id or None
    row["parent_span_id"] = record.parent_span_id or None
    row["sampled"] = record.sampled
    row["items"] = record.items
    row["sampling_fraction"] = float(record.sampling_fraction)
    row["phases"] = json_text(record.phases) if record.phases else None
    row["labels"] = json_text(record.labels) if record.labels else None
    row["attributes"] = json_text(record.attributes) if record.attributes else None
    row["redactions"] = json_text(record.redactions) if record.redactions else None
    row["parent_request_id"] = text_cell(record.parent_request_id)
    row["principal"] = text_cell(record.principal)
    row["principal_source"] = record.principal_source or None
    row["task"] = record.task or row["task"]
    row["error_type"] = text_cell(record.error_type)
    row["error_message"] = text_cell(record.error_message)
    row["request_bytes"] = size_cell(record.request_bytes)
    row["response_bytes"] = size_cell(record.response_bytes)
    row["retention"] = record.retention or None
    row["salt"] = prediction_salt(record.salt)
    if record.feature_provenance is not None:
        row["feature_provenance"] = json_text(record.feature_provenance)


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
        "payload_digest": None,
        "erased": None,
        "hash": None,
        "feature_provenance": None,
        "lineage": json_text(served.lineage) if served.lineage else None,
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
        columns["inputs"] = json_lines(features)
    elif inputs:
        columns["inputs"] = json_objects(inputs)
    if entities:
        columns["entity"] = json_objects(entities)
    if others:
        columns["outputs"] = json_objects(others)
    first = _BLANK_ITEM.copy()
    first["prediction_id"] = record.prediction_id
    first["time_ns"] = record.time_ns
    first["model"] = model
    first["model_version"] = version
    if record.items == 1:
        for name, cells in columns.items():
            first[name] = cells[0]
        (first["salt"],) = item_salts(record.salt, 1)
        return [first]
    names = ("item_index", "salt", *columns)
    rows = zip(range(record.items), item_salts(record.salt, record.items), *columns.values())  # noqa: B905  # all fit
    return [{**first, **dict(zip(names, row))} for row in rows]  # noqa: B905  # likewise, and timed


def _entity_rows(record: PredictionRecord, name: str, values: list[Any], model: str | None) -> Iterable[Row]:
    name = text_cell(name) or ""
    return [
        {
            "name": name,
            "value": text,
            "prediction_id": record.prediction_id,
            "item_index": index,
            "time_ns": record.time_ns,
            "model": model,
        }
        for index, text in enumerate(text_cells(values))
        if text and len(text) <= ENTITY_LENGTH and len(name) <= ENTITY_LENGTH
    ]


def _is_named(column: Column, values: list[Any]) -> bool:
    return isinstance(column, Matrix) and isinstance(values[0], dict)


def _misfit_message(misfits: list[str], items: int) -> str | None:
    if not misfits:
        return None
    return text_cell(f"Left out, as they do not hold one value for each of {items} items: {', '.join(misfits)}")


_TYPED: Final[dict[str, Callable[[list[Any]], Sequence[Any] | None]]] = {
    **dict.fromkeys(ITEM_OUTPUT_COLUMNS, number_cells),
    "prediction": json_lines,
    "decision": text_cells,
    "treatment": text_cells,
    "policy": text_cells,
    "exploration": boolean_cells,
}
