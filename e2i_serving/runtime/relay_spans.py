"""Spans of batches: one for each that is delivered, and below it one for each call of the database."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, set_span_in_context

import e2i_serving
from e2i_serving.guard import FailureGuard
from e2i_serving.record import Entry, Life, PredictionRecord
from e2i_serving.runtime.telemetry import service_attributes
from e2i_serving.runtime.tracing import provider_of, resource_of
from e2i_serving.settings import Settings, instance_name
from e2i_serving.stores.calls import DatabaseCall


class BatchSpans:
    """Makes the spans of batches once they are over, so that a delivery neither waits for them nor fails by them.

    Each batch is a trace of its own: its records are of many requests, and none of these waits for it. Any thread may
    deliver; a call belongs to the batch that its thread delivers.

    Args:
        processor: Takes the spans; must not block.
        settings: They say which fraction of the batches is sampled, and where the relay runs.
    """

    def __init__(self, processor: SpanProcessor, settings: Settings) -> None:
        self._processor = processor
        self._settings = settings
        self._guard = FailureGuard()
        self._tracers: dict[tuple[str, str, str], Tracer] = {}
        self._current = threading.local()

    def on_call(self, call: DatabaseCall) -> None:
        """Take a call of the database; one outside a batch is left out."""
        calls: list[DatabaseCall] | None = getattr(self._current, "calls", None)
        if calls is not None:
            calls.append(call)

    @contextmanager
    def batch(self, destination: str, entries: Sequence[Entry]) -> Iterator[None]:
        """A batch is delivered within. What is raised there goes on as it is.

        Args:
            destination: Who is handed it.
            entries: Of one life. At least one.
        """
        began_ns, error_type = time.time_ns(), ""
        calls: list[DatabaseCall] = []
        self._current.calls = calls
        try:
            yield
        except BaseException as error:
            error_type = type(error).__name__
            raise
        finally:
            self._current.calls = None
            try:
                self._make(destination, entries, (began_ns, time.time_ns()), error_type, calls)
            except Exception as error:  # noqa: BLE001  # promise 4: observability never harms
                self._guard.caught("relay's tracing", error)

    def close(self) -> None:
        """Export what is there; blocks for as long as the processor does."""
        self._processor.shutdown()

    def _make(
        self,
        destination: str,
        entries: Sequence[Entry],
        period: tuple[int, int],
        error_type: str,
        calls: Sequence[DatabaseCall],
    ) -> None:
        life = entries[0].life
        tracer = self._tracer(life)
        batch = tracer.start_span(f"deliver {destination}", Context(), SpanKind.INTERNAL, start_time=period[0])
        if not batch.is_recording():
            return
        batch.set_attributes(
            {
                "e2i.destination": destination,
                "e2i.life": life.life,
                "e2i.entries": len(entries),
                "e2i.records": sum(isinstance(entry.body, PredictionRecord) for entry in entries),
                "e2i.bytes": sum(entry.size for entry in entries),
            }
        )
        _end(batch, error_type, period[1])
        # After their parent: where the queue is full, a child may be missing, never what it is a child of.
        below = set_span_in_context(batch, Context())
        for call in calls:
            batched = "BATCH " if call.rows > 1 else ""
            span = tracer.start_span(
                f"{batched}{call.operation} {call.table}".rstrip(),
                below,
                SpanKind.CLIENT,
                _attributes(call, f"{batched}{call.operation}"),
                start_time=call.began_ns,
            )
            _end(span, call.error_type, call.ended_ns)

    def _tracer(self, life: Life) -> Tracer:
        """The tracer for a life's batches; the releases of a service that share a data directory each have one."""
        key = life.service, life.bento, life.bento_version
        if key not in self._tracers:
            settings = self._settings
            attributes = service_attributes(life.service, (life.bento, life.bento_version), settings)
            attributes["service.instance.id"] = f"{settings.pod or instance_name(settings)}/relay"
            provider = provider_of(self._processor, resource_of(attributes), settings.trace_sample_rate)
            self._tracers[key] = provider.get_tracer("e2i_serving", e2i_serving.__version__)
        return self._tracers[key]


def _end(span: Span, error_type: str, end_ns: int) -> None:
    if error_type:
        # Without the message, which may quote a row.
        span.set_attribute("error.type", error_type)
        span.set_status(StatusCode.ERROR)
    span.end(end_ns)


def _attributes(call: DatabaseCall, operation: str) -> dict[str, Any]:
    """OpenTelemetry's names for calls of a database."""
    database = call.database
    found: dict[str, Any] = {
        "db.system.name": database.system,
        "db.namespace": database.name,
        "db.operation.name": operation,
        "db.collection.name": call.table,
        "db.operation.batch.size": call.rows if call.rows > 1 else 0,
        "db.response.status_code": call.status,
        "server.address": database.host,
        "server.port": database.port,
    }
    return {name: value for name, value in found.items() if value}
