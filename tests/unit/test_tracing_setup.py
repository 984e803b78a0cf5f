"""How OpenTelemetry is set up by our settings and by its own variables, and what goes onward."""

from __future__ import annotations

import asyncio
import contextvars
import importlib.util
import sys
import threading
import time

import pytest
from opentelemetry import baggage, propagate
from opentelemetry import context as otel_context
from opentelemetry import trace as otel_trace
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from e2i_serving.context import RequestContext, current_context
from e2i_serving.propagation import BaggagePropagator
from e2i_serving.runtime.checks import _errors, _tracing
from e2i_serving.runtime.definition import ServiceDefinition
from e2i_serving.runtime.instrument import _unattributed
from e2i_serving.runtime.observation import Endpoint, Observation, observation
from e2i_serving.runtime.telemetry import start_telemetry
from e2i_serving.runtime.tracing import (
    OnwardPropagator,
    StampedPhases,
    exporter_of,
    phase_ends,
    request_of,
    request_span,
    tracing_of,
)
from e2i_serving.settings import load_settings, sentry_variable, tracing_variables

CONTEXT = RequestContext(
    "p-1", "order 17", "a" * 32, "b" * 16, sampled=True, baggage={"tenant": "x,y", "e2i.request_id": "no"}
)


@pytest.fixture
def request_():
    """A request being served."""
    made = Observation(Endpoint("predict", "/predict"), CONTEXT, "POST")
    made.labels = {"brand": "alpha"}
    return made


def tracing(**arguments):
    """Tracing by settings, to memory."""
    return tracing_of(
        load_settings(arguments, environ={}).settings, {"service.name": "credit"}, exporter=InMemorySpanExporter()
    )


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, (False, None, None)),
        ({"OTEL_SDK_DISABLED": "TRUE"}, (True, None, None)),
        ({"OTEL_TRACES_EXPORTER": "otlp"}, (False, "otlp-http", None)),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, (False, "otlp-grpc", None)),
        ({"OTEL_TRACES_EXPORTER": "console"}, (False, "console", None)),
        ({"OTEL_TRACES_EXPORTER": "zipkin"}, (False, None, None)),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_on"}, (False, None, 1.0)),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25"}, (False, None, 0.25)),
        ({"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "much"}, (False, None, 1.0)),
        ({"OTEL_TRACES_SAMPLER": "own"}, (False, None, None)),
    ],
)
def test_opentelemetrys_variables(environ, expected):
    """Each variable that its SDK leaves to us is read, and a malformed one counts as not said."""
    found = tracing_variables(environ)
    assert (found.disabled, found.exporter, found.sample_rate) == expected


def test_bounds_of_the_queue_are_opentelemetrys():
    """The batch processor's variables bound our queue as well."""
    found = tracing_variables(
        {
            "OTEL_BSP_MAX_QUEUE_SIZE": "100",
            "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "0",
            "OTEL_BSP_SCHEDULE_DELAY": "250",
        }
    )
    assert (found.queue_size, found.batch_size, found.delay_seconds) == (100, 1, 0.25)


def test_settings_win_over_variables(monkeypatch):
    """A variable fills in for a setting that nobody set, and never overrides one that somebody did."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_on")
    assert tracing().sample_rate == 1.0
    assert tracing(trace_sample_rate=0).sample_rate == 0.0
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert tracing(trace_sample_rate=0.5).sink is None


def test_resource_tells_the_service_and_its_variables_win(monkeypatch):
    """The resource names the service, unless OpenTelemetry's variables name it otherwise."""
    made = tracing()
    assert made.provider.resource.attributes["service.name"] == "credit"
    made.close()
    monkeypatch.setenv("OTEL_SERVICE_NAME", "renamed")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "team=risk")
    made = tracing()
    assert made.provider.resource.attributes["service.name"] == "renamed"
    assert made.provider.resource.attributes["team"] == "risk"
    made.close()


def test_own_span_is_a_child_of_the_request(request_):
    """A span that the service makes in a sampled request is exported as a child of the request's own span."""
    made = tracing()
    token = otel_context.attach(request_span(request_))
    try:
        with made.provider.get_tracer("own").start_as_current_span("look up") as span:
            assert f"{span.parent.span_id:016x}" == "b" * 16
            assert f"{span.context.trace_id:032x}" == "a" * 32
            assert span.is_recording()
    finally:
        otel_context.detach(token)
        made.close()


@pytest.mark.parametrize("name", ["console", "otlp-http", "otlp-grpc"])
def test_exporters_can_be_made(name):
    """Each exporter that can be named can be made."""
    exporter_of(name).shutdown()


def test_onward_baggage_has_ids_labels_and_the_callers_members(request_):
    """Whoever is called gets the ids, the labels and what the caller and the service itself put in the baggage."""
    context = baggage.set_baggage("own", "1", request_span(request_))
    carrier = {}
    OnwardPropagator().inject(carrier, context)
    into = {}
    BaggagePropagator().extract({b"baggage": carrier["baggage"].encode()}, into)
    assert into["baggage"] == {
        "e2i.request_id": "order 17",
        "e2i.prediction_id": "p-1",
        "e2i.label.brand": "alpha",
        "own": "1",
        "tenant": "x,y",
    }
    assert into["parent_request_id"] == "p-1"


def test_onward_baggage_is_bounded(request_):
    """A long baggage of the caller's never pushes our ids out, nor grows the header beyond what receivers take."""
    request_.context = RequestContext("p-1", "r-1", "a" * 32, "b" * 16, baggage={f"k{n}": "v" * 400 for n in range(60)})
    carrier = {}
    OnwardPropagator().inject(carrier, request_span(request_))
    assert len(carrier["baggage"]) <= 8192
    assert carrier["baggage"].startswith("e2i.request_id=r-1,e2i.prediction_id=p-1,e2i.label.brand=alpha,k0=")


def test_nothing_goes_onward_outside_a_request():
    """Outside a request no header is written."""
    carrier = {}
    OnwardPropagator().inject(carrier, otel_context.Context())
    assert carrier == {}


def test_request_is_found_by_opentelemetrys_context_alone(request_):
    """Where only OpenTelemetry's context was carried into a thread, the request is found by it."""
    found = []

    def run():
        token = otel_context.attach(carried)
        found.append(request_of())
        otel_context.detach(token)
        found.append(request_of())

    carried = request_span(request_)
    thread = threading.Thread(target=contextvars.Context().run, args=(run,))
    thread.start()
    thread.join()
    assert found == [request_, None]


def test_phases_are_stamped_when_noted(request_):
    """Stamped phases know when each was noted, count from the request's arrival, and copy as a plain dict."""
    token = observation.set(request_)
    try:
        assert phase_ends() == {}
        request_.phases = StampedPhases(time.perf_counter)
        request_.phases["decode"] = 0.5
        assert set(phase_ends()) == {"decode"}
        assert 0 <= phase_ends()["decode"] < 60
        assert type(request_.phases.copy()) is dict
    finally:
        observation.reset(token)


async def test_batch_belongs_to_no_request(request_):
    """A batched function, which runs in the context of whichever request came first, finds none; the caller does."""
    seen = []

    def work(rows):
        seen.append((request_of(), current_context()))
        return rows

    async def work_later(rows):
        return work(rows)

    token, span = observation.set(request_), otel_context.attach(request_span(request_))
    assert contextvars.copy_context().run(_unattributed(work), [1]) == [1]
    assert await asyncio.create_task(_unattributed(work_later)([1])) == [1]
    assert request_of() is request_
    otel_context.detach(span)
    observation.reset(token)
    assert seen == [(None, None), (None, None)]


@pytest.mark.parametrize(
    ("check", "arguments"),
    [(_tracing, {"trace_exporter": "otlp-grpc"}), (_errors, {"sentry_dsn": "http://public@127.0.0.1:9/1"})],
)
def test_missing_package_is_a_problem_at_start(check, arguments, monkeypatch):
    """What is asked for and not installed is a problem before any worker starts; what is not asked for is none."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (problem,) = check(None, load_settings(arguments, environ={}))
    assert "e2i-serving[" in problem.mend
    assert not list(check(None, load_settings({}, environ={})))


def test_worker_without_the_exporter_serves_on(tmp_path, caplog, monkeypatch):
    """A worker whose exporter is not installed says so and goes on without spans."""
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    propagator = propagate.get_global_textmap()
    options = {"trace_exporter": "otlp-http", "log_format": "off", "data_dir": str(tmp_path)}
    try:
        found = start_telemetry(ServiceDefinition("credit", object, options), ("credit", ""))
    finally:
        propagate.set_global_textmap(propagator)
    assert (found.tracing.sink, found.logs) == (None, None)
    assert "e2i-serving[otlp]" in caplog.text


def test_sentrys_variable():
    """The DSN may come from Sentry's own variable."""
    assert sentry_variable({"SENTRY_DSN": "x"}) == "x"
    assert sentry_variable({}) == ""


def test_span_of_the_request_is_current(request_):
    """The request's ids are those of the current span, sampled as the trace is."""
    span = otel_trace.get_current_span(request_span(request_)).get_span_context()
    assert f"{span.span_id:016x}" == "b" * 16
    assert span.trace_flags.sampled
