"""Predictions as Opik's traces, spans and feedback scores."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final, Literal
from uuid import UUID

import msgspec

from e2i_serving.exceptions import RefusedError
from e2i_serving.exporters.documents import iso_time, items_of, spread, where
from e2i_serving.record import (
    Entry,
    FeatureProvenance,
    LateResult,
    Life,
    Outcome,
    OutcomeEvent,
    PredictionRecord,
    StreamEnd,
)

PARENT_TRACE: Final = "opik_trace_id"
"""The header, and the attribute of a record, with the trace of a caller whose child the prediction is."""
PARENT_SPAN: Final = "opik_parent_span_id"
"""Likewise, with the span in it."""

LARGEST_SCORE: Final = 1e9
"""The largest feedback score that Opik takes, and its negative the least."""

_TAG: Final = 100
_ENDED_WELL: Final = frozenset({Outcome.OK, Outcome.INTERRUPTED})
_MILLISECONDS_BITS: Final = 80


@dataclass(frozen=True, slots=True)
class TraceStyle:
    """How predictions are made into traces.

    Attributes:
        project: The project; empty for the service's name.
        per: What a trace is.
        thread: The entity or label that is the thread of a trace; empty for none.
        payload_bytes: Largest record whose inputs and outputs are sent, in bytes.
    """

    project: str = ""
    per: Literal["request", "item"] = "request"
    thread: str = ""
    payload_bytes: int = 1024 * 1024

    def project_of(self, life: Life) -> str:
        """The project of a life's traces."""
        return self.project or life.service or "e2i-serving"


class LifeFacts:
    """What all traces of a life have in common.

    Args:
        life: The life.
        style: How traces are made.
    """

    __slots__ = ("life", "metadata", "project", "shared")

    def __init__(self, life: Life, style: TraceStyle) -> None:
        place = life.deployment
        self.life = life
        self.project = style.project_of(life)
        known = {"service": life.service, "release": life.release, **where(life)}
        self.metadata = {name: value for name, value in known.items() if value}
        self.shared = {"environment": place.environment} if place.environment else {}


def derived_id(prediction_id: str, part: str) -> str:
    """The UUIDv7 of a part of a prediction: always the same, and of the prediction's time.

    Raises:
        RefusedError: The prediction's id is no UUID.
    """
    source = _uuid(prediction_id).bytes
    digest = hashlib.sha256(source + part.encode()).digest()
    changed = bytes([0x70 | digest[0] & 0x0F, digest[1], 0x80 | digest[2] & 0x3F])
    return str(UUID(bytes=source[:6] + changed + digest[3:10]))


def item_trace_id(prediction_id: str, index: int) -> str:
    """The trace of an item; the first item's is the prediction's own, which a request of one item has either way."""
    return derived_id(prediction_id, f"item/{index}") if index > 0 else prediction_id


def traces_of(
    entry: Entry, record: PredictionRecord, end: StreamEnd | None, style: TraceStyle, facts: LifeFacts
) -> list[dict[str, Any]]:
    """The traces of a prediction.

    Args:
        entry: The entry that holds it.
        record: The prediction.
        end: How its answer ended, if it is known by now.
        style: How they are made.
        facts: What the traces of its life have in common.

    Raises:
        RefusedError: It can't be made into traces.
    """
    trace = _whole(record, end, facts)
    if entry.size > style.payload_bytes:
        trace["input"] = _kept_in_trail(entry, record.prediction_id)
        return [trace]
    items = items_of(entry.life, record)
    threads = [_thread(style.thread, record, item) for item in items[:1] if style.thread]
    if style.per == "item" and len(items) > 1:
        return list(_item_traces(trace, record, items, style))
    if threads and threads[0]:
        trace["thread_id"] = threads[0]
    if len(items) == 1:
        _fill(trace, items[0])
    elif items:
        inputs, outputs = [each.get("input") for each in items], [each.get("output") for each in items]
        trace |= {"input": {"items": inputs}} if any(inputs) else {}
        trace |= {"output": {"items": outputs}} if any(outputs) else {}
    return [trace]


def phase_spans(trace: dict[str, Any], record: PredictionRecord) -> Iterator[dict[str, Any]]:
    """A span for each phase, one after another from the arrival on."""
    start_ns = record.time_ns
    for name, seconds in record.phases.items():
        end_ns = start_ns + max(int(seconds * 1e9), 0)
        yield {
            "id": derived_id(record.prediction_id, f"phase/{name}"),
            "trace_id": trace["id"],
            "project_name": trace["project_name"],
            "name": name,
            "type": "tool" if name == "features" else "general",
            "start_time": iso_time(start_ns),
            "end_time": iso_time(end_ns),
            "source": "sdk",
        }
        start_ns = end_ns


def _given_id(value: object) -> str | None:
    """An id that came from outside; ``None`` if it is none, for one bad id has Opik refuse a whole batch."""
    try:
        return str(UUID(value)) if isinstance(value, str) else None
    except ValueError:
        return None


def child_span(trace: dict[str, Any], record: PredictionRecord) -> dict[str, Any] | None:
    """The span that a prediction is in its caller's trace; ``None`` when the caller named none."""
    parent = _given_id(record.attributes.get(PARENT_TRACE))
    if parent is None:
        return None
    kept = ("project_name", "name", "start_time", "end_time", "input", "output", "error_info", "tags", "source")
    span = {name: trace[name] for name in kept if name in trace}
    span |= {"id": derived_id(record.prediction_id, "child"), "trace_id": parent, "type": "general"}
    if above := _given_id(record.attributes.get(PARENT_SPAN)):
        span["parent_span_id"] = above
    span["metadata"] = {"prediction_id": record.prediction_id, **trace["metadata"]}
    return span


def late_spans(entry: Entry, late: LateResult, style: TraceStyle) -> Iterator[dict[str, Any]]:
    """What a request came to after its answer, as a span of its trace, or of each of its traces.

    Raises:
        RefusedError: The prediction's id is no UUIDv7.
    """
    started_ns = _started_ns(late.prediction_id)
    span: dict[str, Any] = {
        "project_name": style.project_of(entry.life),
        "name": "late result",
        "type": "general",
        "start_time": iso_time(started_ns),
        "end_time": iso_time(started_ns + int(late.duration * 1e9)),
        "source": "sdk",
    }
    if late.outcome not in _ENDED_WELL:
        span["error_info"] = _error(late.error_type or late.outcome.value, late.error_message)
    outputs: list[Any] = spread(late.outputs, late.items) if late.outputs else []
    if entry.size > style.payload_bytes:
        outputs = [_kept_in_trail(entry, late.prediction_id)]
    elif style.per == "request" and len(outputs) > 1:
        outputs = [{"items": outputs}]
    for index, output in enumerate(outputs or [None]):
        of_item = {**span, "trace_id": item_trace_id(late.prediction_id, index)}
        of_item["id"] = derived_id(late.prediction_id, f"late/{index}")
        yield {**of_item, "output": output} if output else of_item


def ending(entry: Entry, end: StreamEnd, style: TraceStyle) -> dict[str, Any]:
    """What changes in a trace that was sent before its answer ended.

    Raises:
        RefusedError: The prediction's id is no UUIDv7.
    """
    started_ns = _started_ns(end.prediction_id)
    update: dict[str, Any] = {
        "project_name": style.project_of(entry.life),
        "end_time": iso_time(started_ns + int(end.duration * 1e9)),
        "tags_to_add": [end.outcome.value],
    }
    if end.outcome not in _ENDED_WELL:
        update["error_info"] = _error(end.error_type or end.outcome.value, end.error_message)
    return update


def feedback_score(entry: Entry, outcome: OutcomeEvent, style: TraceStyle) -> dict[str, Any]:
    """An outcome as a feedback score of the prediction's trace.

    A truth that is no number is a category with the value 1.

    Raises:
        RefusedError: It names no prediction, its number is out of what Opik takes, or it says nothing.
    """
    if not outcome.prediction_id:
        raise RefusedError(f"The outcome {outcome.outcome_id} names the request {outcome.request_id!r} alone.")
    is_named = style.per == "item" or outcome.item_index < 0
    score: dict[str, Any] = {
        "id": item_trace_id(outcome.prediction_id, outcome.item_index if style.per == "item" else 0),
        "project_name": style.project_of(entry.life),
        "name": outcome.name if is_named else f"{outcome.name}[{outcome.item_index}]",
        "source": "sdk",
    }
    value = outcome.value if outcome.score is None else outcome.score
    if value is None:
        raise RefusedError(f"The outcome {outcome.outcome_id} has neither a value nor a score.")
    if isinstance(value, int | float):
        if not abs(value) <= LARGEST_SCORE:
            raise RefusedError(f"The outcome {outcome.outcome_id} is {value}; Opik takes up to {LARGEST_SCORE:g}.")
        score["value"] = float(value)
    else:
        score |= {"value": 1.0, "category_name": str(value)}
    reason = ": ".join(text for text in (outcome.source, outcome.comment) if text)
    return {**score, "reason": reason} if reason else score


def _whole(record: PredictionRecord, end: StreamEnd | None, facts: LifeFacts) -> dict[str, Any]:
    """A trace without inputs and outputs."""
    life = facts.life
    told = end or record
    outcome = told.outcome
    model, version = record.model or life.model.name, record.model_version or life.model.version
    provenance = record.feature_provenance
    outcome_name = outcome.value
    metadata: dict[str, Any] = {
        "outcome": outcome_name,
        "status": told.status or record.status,
        "items": record.items,
        "model": model,
        "model_version": version,
        "task": record.task or life.model.task,
        "request_id": record.request_id,
        "parent_request_id": record.parent_request_id,
        "trace_id": record.trace_id,
        "span_id": record.span_id,
        "phases": record.phases,
        "labels": record.labels,
        "attributes": record.attributes,
        "feature_provenance": _sources(provenance) if provenance is not None else None,
        "redactions": record.redactions,
        "principal": record.principal,
        "sampling_fraction": record.sampling_fraction,
    }
    place = life.deployment
    tags = (life.service, model, place.environment, place.arm, outcome_name)
    trace: dict[str, Any] = {
        "id": record.prediction_id,
        "project_name": facts.project,
        "name": record.endpoint or "predict",
        "start_time": iso_time(record.time_ns),
        "end_time": iso_time(record.time_ns + max(int(told.duration * 1e9), 0)),
        "metadata": {name: value for name, value in metadata.items() if value or value == 0} | facts.metadata,
        "tags": [tag[:_TAG] for tag in dict.fromkeys(tags) if tag],
        "source": "sdk",
        **facts.shared,
    }
    if outcome not in _ENDED_WELL:
        trace["error_info"] = _error(told.error_type or outcome_name, told.error_message)
    return trace


def _item_traces(
    trace: dict[str, Any], record: PredictionRecord, items: list[dict[str, Any]], style: TraceStyle
) -> Iterator[dict[str, Any]]:
    for index, item in enumerate(items):
        of_item = {**trace, "id": item_trace_id(record.prediction_id, index)}
        of_item["metadata"] = {**trace["metadata"], "prediction_id": record.prediction_id, "item_index": index}
        of_item["thread_id"] = (_thread(style.thread, record, item) if style.thread else "") or record.prediction_id
        _fill(of_item, item)
        yield of_item


def _fill(trace: dict[str, Any], item: dict[str, Any]) -> None:
    inputs = item.get("input")
    if inputs:
        features = inputs.get("features")
        trace["input"] = features if len(inputs) == 1 and isinstance(features, dict) else inputs
    if outputs := item.get("output"):
        trace["output"] = outputs
    if entity := item.get("entity"):
        trace["metadata"] = {**trace["metadata"], "entity": entity}


def _thread(name: str, record: PredictionRecord, item: dict[str, Any]) -> str:
    value = item.get("entity", {}).get(name)
    return str(value) if value is not None else record.labels.get(name, "")


def _error(kind: str, message: str) -> dict[str, Any]:
    # Opik asks for a traceback, and a record has none.
    return {"exception_type": kind, "message": message, "traceback": f"{kind}: {message}" if message else kind}


def _sources(provenance: FeatureProvenance) -> dict[str, Any]:
    """Where the features came from, and of when they are."""
    found: dict[str, Any] = msgspec.to_builtins(provenance)
    for view in found.get("views", {}).values():
        view["event_times"] = [iso_time(time_ns) if time_ns else None for time_ns in view.pop("event_ns", ())]
    return found


def _kept_in_trail(entry: Entry, prediction_id: str) -> dict[str, Any]:
    return {"kept_in": "audit trail", "prediction_id": prediction_id, "bytes": entry.size}


def _started_ns(prediction_id: str) -> int:
    """When a prediction arrived, by its id: to the millisecond."""
    return (_uuid(prediction_id).int >> _MILLISECONDS_BITS) * 1_000_000


def _uuid(prediction_id: str) -> UUID:
    try:
        return UUID(prediction_id)
    except ValueError as error:
        raise RefusedError(f"The prediction's id {prediction_id!r} is no UUID.") from error
