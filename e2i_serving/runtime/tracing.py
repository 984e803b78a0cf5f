"""OpenTelemetry in a worker: one provider, which spans are sampled, and what goes onward with outgoing calls."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from opentelemetry import baggage
from opentelemetry import context as otel_context
from opentelemetry import trace as otel_trace
from opentelemetry.context import Context
from opentelemetry.propagate import get_global_textmap, set_global_textmap
from opentelemetry.propagators.composite import CompositePropagator
from opentelemetry.propagators.textmap import (
    CarrierT,
    Getter,
    Setter,
    TextMapPropagator,
    default_getter,
    default_setter,
)

from e2i_serving.propagation import LABEL_PREFIX, PREDICTION_ID, REQUEST_ID
from e2i_serving.runtime.observation import Observation, observation
from e2i_serving.settings import Settings, tracing_variables, with_signal_variables

if TYPE_CHECKING:
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
    from opentelemetry.sdk.trace.export import SpanExporter

    from e2i_serving.observers.spans import SpanSink

logger = logging.getLogger("e2i_serving")

LONGEST_BAGGAGE: Final = 8192
"""Most characters of a ``baggage`` header; members beyond are left out, the caller's own first."""

_REQUEST: Final = otel_context.create_key("e2i-serving-request")


class Tracing:
    """What traces a worker's requests.

    Attributes:
        sample_rate: Fraction of the traces beginning here that are sampled.
        sink: Where finished predictions go as spans; ``None`` when no spans are exported.
        provider: What the service's own tracers come from; ``None`` when no spans are exported.
    """

    def __init__(
        self, sample_rate: float = 0.0, sink: SpanSink | None = None, provider: TracerProvider | None = None
    ) -> None:
        self.sample_rate = sample_rate
        self.sink = sink
        self.provider = provider

    def install(self, settings: Settings) -> None:
        """Make it this process's: the global provider, the global propagator, instrumented clients."""
        set_global_textmap(CompositePropagator([get_global_textmap(), OnwardPropagator()]))
        if self.provider is not None:
            otel_trace.set_tracer_provider(self.provider)
        for name in settings.instrument:
            try:
                _instrumentor(name).instrument(tracer_provider=self.provider)
            except ImportError as error:
                logger.warning("%s is not instrumented: %s. Install e2i-serving[otlp].", name, error)

    def close(self) -> None:
        """Export what is there; blocks for at most a few seconds."""
        if self.sink is not None:
            self.sink.shutdown()


def tracing_of(settings: Settings, service: Mapping[str, str], *, exporter: SpanExporter | None = None) -> Tracing:
    """The tracing that the settings ask for, and OpenTelemetry's variables where these leave it open.

    Args:
        settings: The settings.
        service: What is served, as OpenTelemetry resource attributes; its own variables win.
        exporter: Where spans go instead, for tests.

    Raises:
        ImportError: The exporter is not installed.
    """
    variables = tracing_variables()
    if variables.disabled:
        return Tracing()
    settings = with_signal_variables(settings)
    rate = settings.trace_sample_rate
    if exporter is None:
        if settings.trace_exporter == "none":
            return Tracing(rate)
        exporter = exporter_of(settings.trace_exporter)
    from e2i_serving.observers.spans import SpanSink  # noqa: PLC0415  # only where spans are made

    resource = resource_of(service)
    sink = SpanSink(
        exporter,
        resource,
        queue_size=variables.queue_size,
        batch_size=variables.batch_size,
        delay_seconds=variables.delay_seconds,
    )
    return Tracing(rate, sink, provider_of(sink, resource, rate))


def resource_of(service: Mapping[str, str]) -> Resource:
    """What spans are spans of.

    Args:
        service: OpenTelemetry resource attributes; its own variables win.
    """
    from opentelemetry.sdk.resources import OTELResourceDetector, Resource  # noqa: PLC0415  # only where spans are made

    return Resource.create(service).merge(OTELResourceDetector().detect())


def provider_of(processor: SpanProcessor, resource: Resource, sample_rate: float) -> TracerProvider:
    """What makes spans.

    Args:
        processor: Takes them when they have ended; shut down by whoever made it.
        resource: What they are spans of.
        sample_rate: Fraction of the traces beginning here that are sampled.
    """
    from opentelemetry.sdk.trace import (  # noqa: PLC0415  # only where spans are made
        SynchronousMultiSpanProcessor,
        TracerProvider,
    )
    from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased  # noqa: PLC0415  # likewise

    processors = SynchronousMultiSpanProcessor()  # type: ignore[no-untyped-call]  # OpenTelemetry leaves it so
    processors.add_span_processor(processor)
    return TracerProvider(
        sampler=ParentBased(TraceIdRatioBased(sample_rate)),
        resource=resource,
        active_span_processor=processors,
        shutdown_on_exit=False,
    )


def exporter_of(name: str, timeout_seconds: float | None = None) -> SpanExporter:
    """The exporter of this name, with endpoint and headers by OpenTelemetry's own variables.

    Args:
        name: ``console``, ``otlp-grpc`` or ``otlp-http``.
        timeout_seconds: Longest that a request may take; ``None``: as OpenTelemetry's own variables say.

    Raises:
        ImportError: It is not installed.
    """
    if name == "console":
        from opentelemetry.sdk.trace.export import ConsoleSpanExporter  # noqa: PLC0415  # only the one asked for

        return ConsoleSpanExporter()
    if name == "otlp-grpc":
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter  # noqa: PLC0415
    else:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import (  # type: ignore[assignment]  # noqa: PLC0415
            OTLPSpanExporter,
        )
    exporter: SpanExporter = OTLPSpanExporter(timeout=timeout_seconds)
    return exporter


class StampedPhases(dict[str, float]):
    """The phases of a request, and when each was noted, by the monotonic clock."""

    __slots__ = ("_clock", "noted")

    def __init__(self, clock: Callable[[], float]) -> None:
        super().__init__()
        self._clock = clock
        self.noted: dict[str, float] = {}

    def __setitem__(self, phase: str, seconds: float) -> None:
        self.noted[phase] = self._clock()
        super().__setitem__(phase, seconds)


def phase_ends() -> dict[str, float]:
    """When the phases of the request being served ended, in seconds since it arrived."""
    current = observation.get()
    phases = current.phases if current is not None else None
    if current is None or not isinstance(phases, StampedPhases):
        return {}
    # A copy: after a time-out the thread that runs the model still adds to them.
    return {phase: noted - current.arrived for phase, noted in phases.noted.copy().items()}


def request_span(request: Observation) -> Context:
    """A context in which this request's ids are the current span: outgoing calls propagate them.

    The span itself is made once the request has ended; until then it stands for it.
    """
    context = request.context
    span = otel_trace.NonRecordingSpan(
        otel_trace.SpanContext(
            int(context.trace_id, 16),
            int(context.span_id, 16),
            is_remote=False,
            trace_flags=otel_trace.TraceFlags(1 if context.sampled else 0),
        )
    )
    return otel_context.set_value(_REQUEST, request, otel_trace.set_span_in_context(span))


def request_of(context: Context | None = None) -> Observation | None:
    """The request being served, in threads too to which only OpenTelemetry's context was carried."""
    found = observation.get()
    if found is None:
        carried: Any = otel_context.get_value(_REQUEST, context)
        found = carried
    return found


class OnwardPropagator(TextMapPropagator):
    """Tells the services that are called who calls: the request's ids and labels, and the caller's own baggage.

    Made into a header when a call goes out, so that a request that calls nobody pays nothing.
    """

    def extract(
        self,
        carrier: CarrierT,  # noqa: ARG002  # OpenTelemetry's signature
        context: Context | None = None,
        getter: Getter[CarrierT] = default_getter,  # noqa: ARG002  # likewise
    ) -> Context:
        """Nothing: the layer reads what comes in."""
        return context if context is not None else Context()

    def inject(
        self,
        carrier: CarrierT,
        context: Context | None = None,
        setter: Setter[CarrierT] = default_setter,
    ) -> None:
        """Write ``baggage``."""
        request = request_of(context)
        if request is None:
            return
        labels = request.labels.copy()
        members = {REQUEST_ID: request.context.request_id}
        if request.endpoint.name:
            members[PREDICTION_ID] = request.context.prediction_id
        members |= {LABEL_PREFIX + name: value for name, value in labels.items()}
        for others in (baggage.get_all(context), request.context.baggage):
            for name, value in others.items():
                members.setdefault(name, str(value))
        setter.set(carrier, "baggage", _header(members))

    @property
    def fields(self) -> set[str]:
        """The headers it writes."""
        return {"baggage"}


def _header(members: dict[str, str]) -> str:
    parts: list[str] = []
    left = LONGEST_BAGGAGE
    for name, value in members.items():
        part = f"{name}={quote(value, safe='')}"
        left -= len(part) + 1
        if left < 0:
            break
        parts.append(part)
    return ",".join(parts)


def _instrumentor(name: str) -> Any:
    if name == "httpx":
        from opentelemetry.instrumentation.httpx import HTTPXClientInstrumentor  # noqa: PLC0415  # of an extra

        return HTTPXClientInstrumentor()
    if name == "requests":
        from opentelemetry.instrumentation.requests import RequestsInstrumentor  # noqa: PLC0415  # of an extra

        return RequestsInstrumentor()
    from opentelemetry.instrumentation.threading import ThreadingInstrumentor  # noqa: PLC0415  # of an extra

    return ThreadingInstrumentor()
