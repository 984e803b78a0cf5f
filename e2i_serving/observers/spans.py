"""Spans of finished predictions, made and exported by a thread of their own."""

from __future__ import annotations

import logging
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from opentelemetry.context import Context
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import Event, ReadableSpan, Span, SpanProcessor
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import SpanContext, SpanKind, Status, StatusCode, TraceFlags

import e2i_serving
from e2i_serving.record import Outcome, PredictionRecord

logger = logging.getLogger("e2i_serving")

SCOPE: Final = InstrumentationScope("e2i_serving", e2i_serving.__version__)
REPEAT_AFTER_SECONDS: Final = 60.0
FEATURES: Final = "features"
"""The phase in which features are fetched."""

_SAMPLED: Final = TraceFlags(TraceFlags.SAMPLED)
_ATTRIBUTES: Final = {
    "prediction_id": "e2i.prediction_id",
    "request_id": "e2i.request_id",
    "parent_request_id": "e2i.parent_request_id",
    "outcome": "e2i.outcome",
    "endpoint": "e2i.endpoint",
    "model": "e2i.model",
    "model_version": "e2i.model_version",
    "task": "e2i.task",
    "items": "e2i.items",
}

PhaseEnds = Mapping[str, float]
"""When each phase ended, in seconds since the request arrived."""


class SpanSink(SpanProcessor):
    """Takes the spans that a service makes itself, and finished predictions to make spans of.

    What is taken waits in a bounded queue; a thread makes the spans and exports them in batches. Nothing here
    blocks who puts something in: what finds the queue full, or can't be exported, is counted in ``dropped``.

    Args:
        exporter: Where spans go. Called from the thread only.
        resource: What the spans are spans of.
        queue_size: Most things that wait.
        batch_size: Most that are taken from the queue at once.
        delay_seconds: Longest that one waits while the exporter keeps up.
        last_seconds: Longest that ``shutdown`` waits for what is there to be exported.
        log: Where it says that spans are lost.
    """

    def __init__(
        self,
        exporter: SpanExporter,
        resource: Resource,
        *,
        queue_size: int = 2048,
        batch_size: int = 128,
        delay_seconds: float = 1.0,
        last_seconds: float = 5.0,
        log: logging.Logger = logger,
    ) -> None:
        self._exporter = exporter
        self._resource = resource
        self._queue: deque[ReadableSpan | tuple[PredictionRecord, PhaseEnds]] = deque()
        self._queue_size = queue_size
        self._batch_size = batch_size
        self._delay = delay_seconds
        self._last_seconds = last_seconds
        self._log = log
        self._counting = threading.Lock()
        self._awake = threading.Event()
        self._exporting = threading.Lock()
        self._closed = False
        self._said = -REPEAT_AFTER_SECONDS
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="e2i-spans", daemon=True)
        self._thread.start()

    def on_end(self, span: ReadableSpan) -> None:
        """Take a finished span, if it is sampled. From any thread; never blocks."""
        if span.context is not None and span.context.trace_flags.sampled:
            self._put(span)

    def take(self, record: PredictionRecord, ends: PhaseEnds) -> None:
        """Take a finished prediction. From any thread; never blocks.

        Args:
            record: The prediction.
            ends: When its phases ended, as far as that is known.
        """
        self._put((record, ends))

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:
        """Nothing: a span is looked at when it has ended."""

    def shutdown(self) -> None:
        """Export what is there and end the thread; for at most a few seconds. What comes later is dropped."""
        if self._closed:
            return
        self._closed = True
        self._awake.set()
        self._thread.join(self._last_seconds)
        self._exporter.shutdown()

    def force_flush(self, timeout_millis: int = 30000) -> bool:
        """Export what is there, in the calling thread.

        Args:
            timeout_millis: Longest to take.

        Returns:
            Whether all of it was taken from the queue in that time.
        """
        deadline = time.monotonic() + timeout_millis / 1000
        while self._queue and time.monotonic() < deadline:
            self._export_batch()
        return not self._queue

    def _put(self, item: Any) -> None:
        waiting = len(self._queue)
        if waiting >= self._queue_size or self._closed:
            self._drop(1)
            return
        self._queue.append(item)
        if waiting + 1 == self._batch_size:
            self._awake.set()

    def _drop(self, count: int) -> None:
        with self._counting:
            self.dropped += count

    def _run(self) -> None:
        # Else the exporter's own calls would be traced.
        with suppress_instrumentation():
            while not self._closed:
                self._awake.wait(self._delay)
                self._awake.clear()
                while self._queue and not self._closed:
                    self._export_batch()
            if self._queue:
                self._export_batch(len(self._queue))

    def _export_batch(self, size: int | None = None) -> None:
        with self._exporting:
            taken: list[ReadableSpan | tuple[PredictionRecord, PhaseEnds]] = []
            while self._queue and len(taken) < (size or self._batch_size):
                taken.append(self._queue.popleft())
            spans: list[ReadableSpan] = []
            for item in taken:
                if isinstance(item, ReadableSpan):
                    spans.append(item)
                else:
                    spans += spans_of(*item, self._resource)
            try:
                kept = self._exporter.export(spans) is SpanExportResult.SUCCESS
            except Exception as error:  # noqa: BLE001  # promise 4: observability never harms
                kept = False
                self._log.debug("The exporter of spans failed.", exc_info=error)
        if not kept:
            self._drop(len(spans))
            now = time.monotonic()
            if now - self._said >= REPEAT_AFTER_SECONDS:
                self._said = now
                self._log.warning(
                    "Spans can't be exported; %d lost so far. Predictions go on, and so does their record. Is "
                    "OTEL_EXPORTER_OTLP_ENDPOINT right, and its receiver up?",
                    self.dropped,
                )


class SpanObserver:
    """Hands sampled predictions to a sink, which makes their spans.

    Args:
        sink: What makes and exports them.
        phase_ends: Tells when the phases of the request that ends here and now ended, as far as that is known.
    """

    def __init__(self, sink: SpanSink, phase_ends: Callable[[], PhaseEnds] = dict) -> None:
        self._sink = sink
        self._phase_ends = phase_ends

    def on_end(self, record: PredictionRecord) -> None:
        """Take a finished prediction, if it is sampled."""
        if record.sampled:
            self._sink.take(record, self._phase_ends())


def spans_of(record: PredictionRecord, ends: PhaseEnds, resource: Resource) -> Sequence[ReadableSpan]:
    """The server span of a prediction, and one a phase.

    Args:
        record: The prediction.
        ends: When its phases ended; those that are not known are taken to end where the next one begins.
        resource: What the spans are spans of.
    """
    trace_id = int(record.trace_id, 16)
    context = SpanContext(trace_id, int(record.span_id, 16), is_remote=False, trace_flags=_SAMPLED)
    parent = None
    if record.parent_span_id:
        parent = SpanContext(trace_id, int(record.parent_span_id, 16), is_remote=True, trace_flags=_SAMPLED)
    start = record.time_ns
    end = start + int(record.duration * 1e9)
    is_fault = record.outcome in (Outcome.ERROR, Outcome.TIMEOUT)
    events: tuple[Event, ...] = ()
    if is_fault and record.error_type:
        described = {"exception.type": record.error_type, "exception.message": record.error_message}
        events = (Event("exception", described, timestamp=end),)
    server = ReadableSpan(
        f"{record.method} {record.route}",
        context,
        parent,
        resource,
        _attributes(record),
        events,
        kind=SpanKind.SERVER,
        status=Status(StatusCode.ERROR) if is_fault else Status(StatusCode.UNSET),
        start_time=start,
        end_time=end,
        instrumentation_scope=SCOPE,
    )
    spans = [server]
    fetched = _feature_attributes(record)
    # Backwards, because several phases may be noted at once, when the last of them ends.
    latest = end
    for phase, seconds in reversed(record.phases.items()):
        ended = ends.get(phase)
        if ended is not None:
            latest = min(latest, start + int(ended * 1e9))
        began = max(latest - int(seconds * 1e9), start)
        spans.append(_phase_span(phase, trace_id, context, resource, (began, latest), fetched))
        latest = began
    return spans


def _phase_span(
    phase: str,
    trace_id: int,
    parent: SpanContext,
    resource: Resource,
    period: tuple[int, int],
    fetched: dict[str, Any],
) -> ReadableSpan:
    return ReadableSpan(
        phase,
        SpanContext(trace_id, random.getrandbits(64) or 1, is_remote=False, trace_flags=_SAMPLED),
        parent,
        resource,
        {"e2i.phase": phase, **(fetched if phase == FEATURES else {})},
        start_time=period[0],
        end_time=period[1],
        instrumentation_scope=SCOPE,
    )


def _attributes(record: PredictionRecord) -> dict[str, Any]:
    """OpenTelemetry's names where it has one, ours otherwise."""
    found: dict[str, Any] = {"http.request.method": record.method, "http.route": record.route, "url.path": record.route}
    if record.status:
        found["http.response.status_code"] = record.status
    if record.error_type:
        found["error.type"] = record.error_type
    if record.request_bytes >= 0:
        found["http.request.body.size"] = record.request_bytes
    if record.response_bytes >= 0:
        found["http.response.body.size"] = record.response_bytes
    for name, attribute in _ATTRIBUTES.items():
        value = getattr(record, name)
        if value not in ("", None):
            found[attribute] = str(value) if isinstance(value, str) else value
    for name, value in record.labels.items():
        found[f"e2i.label.{name}"] = value
    if FEATURES not in record.phases:
        found |= _feature_attributes(record)
    return found


def _feature_attributes(record: PredictionRecord) -> dict[str, Any]:
    """How features were fetched; nothing where none were."""
    fetched = record.feature_provenance
    if fetched is None:
        return {}
    values: Counter[str] = Counter()
    for view in fetched.views.values():
        values.update(view.outcomes)
    found: dict[str, Any] = {
        "store": fetched.store,
        "service": fetched.service,
        "entities": record.items,
        "duration": fetched.duration,
        **values,
    }
    if fetched.cache_hits or fetched.cache_misses:
        found |= {"cache_hits": fetched.cache_hits, "cache_misses": fetched.cache_misses}
    if fetched.error_type:
        found["error_type"] = fetched.error_type
    return {f"e2i.features.{name}": value for name, value in found.items()}
