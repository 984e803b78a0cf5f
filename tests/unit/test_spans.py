"""What spans a finished prediction becomes, and what happens to them."""

from __future__ import annotations

import threading

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode

from e2i_serving.observers.spans import SpanObserver, SpanSink, spans_of
from e2i_serving.record import FeatureProvenance, Outcome, PredictionRecord, ViewReading

RESOURCE = Resource({"service.name": "credit"})
SECOND = 1_000_000_000


def record(outcome=Outcome.OK, status=200, **fields):
    """A sampled prediction that took a second."""
    values = {
        "endpoint": "predict",
        "route": "/predict",
        "method": "POST",
        "request_id": "order-17",
        "trace_id": "0af7651916cd43dd8448eb211c80319c",
        "span_id": "00000000000000aa",
        "parent_span_id": "00000000000000bb",
        "sampled": True,
        "phases": {"decode": 0.1, "queue": 0.2, "features": 0.1, "predict": 0.3},
        "model": "scorer",
        "labels": {"brand": "alpha"},
        "items": 3,
    }
    return PredictionRecord("p1", 100 * SECOND, 1.0, outcome, status, **(values | fields))


class Blocked(SpanExporter):
    """An exporter that answers only once it is told to, with what it is told to."""

    def __init__(self, result=SpanExportResult.SUCCESS):
        self.free = threading.Event()
        self.entered = threading.Event()
        self.result = result

    def export(self, spans):
        self.entered.set()
        self.free.wait(10)
        if isinstance(self.result, Exception):
            raise self.result
        return self.result

    def shutdown(self):
        self.free.set()


@pytest.fixture
def exporter():
    """An exporter that keeps what it is given."""
    return InMemorySpanExporter()


@pytest.fixture
def sink(exporter):
    """A sink to that exporter."""
    made = SpanSink(exporter, RESOURCE, delay_seconds=0.01)
    yield made
    made.shutdown()


FETCHED = FeatureProvenance(
    "feast",
    "churn_v1",
    duration=0.05,
    views={
        "usage": ViewReading({"hit": 4, "missing": 2}, ("hit", "hit", "missing"), (5, 5, 0)),
        "plan": ViewReading({"hit": 2, "stale": 1}, ("hit", "hit", "stale"), (5, 5, 1)),
    },
    cache_hits=1,
    cache_misses=2,
)


def test_the_span_of_features_says_what_was_fetched():
    """It has the store, the service, the entities, and what became of their values."""
    spans = {span.name: dict(span.attributes) for span in spans_of(record(feature_provenance=FETCHED), {}, RESOURCE)}
    assert spans["features"] == {
        "e2i.phase": "features",
        "e2i.features.store": "feast",
        "e2i.features.service": "churn_v1",
        "e2i.features.entities": 3,
        "e2i.features.duration": 0.05,
        "e2i.features.hit": 6,
        "e2i.features.missing": 2,
        "e2i.features.stale": 1,
        "e2i.features.cache_hits": 1,
        "e2i.features.cache_misses": 2,
    }
    assert "e2i.features.store" not in spans["POST /predict"]


def test_the_server_span_says_so_where_no_phase_does():
    """A prediction that was refused for its features has no phase of them."""
    refused = FeatureProvenance("feast", "churn_v1", error_type="timeout")
    failed = record(Outcome.ERROR, 503, feature_provenance=refused, phases={"predict": 0.1})
    server = dict(spans_of(failed, {}, RESOURCE)[0].attributes)
    assert server["e2i.features.error_type"] == "timeout"
    assert server["e2i.features.store"] == "feast"
    assert "e2i.features.hit" not in server


def test_server_span_is_named_by_route_and_has_the_records_ids():
    """The server span has the record's ids and times, and OpenTelemetry's attribute names."""
    server = spans_of(record(), {}, RESOURCE)[0]
    assert (server.name, server.kind) == ("POST /predict", SpanKind.SERVER)
    assert f"{server.context.trace_id:032x}" == "0af7651916cd43dd8448eb211c80319c"
    assert (server.context.span_id, server.parent.span_id, server.parent.is_remote) == (0xAA, 0xBB, True)
    assert (server.start_time, server.end_time) == (100 * SECOND, 101 * SECOND)
    attributes = dict(server.attributes)
    assert attributes["http.route"] == "/predict"
    assert attributes["http.response.status_code"] == 200
    assert attributes["e2i.request_id"] == "order-17"
    assert attributes["e2i.label.brand"] == "alpha"
    assert attributes["e2i.items"] == 3
    assert server.status.status_code is StatusCode.UNSET


def test_phases_are_children_that_follow_each_other():
    """Phases noted at once, when the last of them ended, are laid one before the other and never overlap."""
    ends = {"decode": 0.15, "queue": 0.4, "features": 0.9, "predict": 0.9}
    phases = spans_of(record(), ends, RESOURCE)[1:]
    found = {span.name: (span.start_time - 100 * SECOND, span.end_time - 100 * SECOND) for span in phases}
    assert found["predict"] == pytest.approx((0.6 * SECOND, 0.9 * SECOND), abs=10)
    assert found["features"] == pytest.approx((0.5 * SECOND, 0.6 * SECOND), abs=10)
    assert found["queue"] == pytest.approx((0.2 * SECOND, 0.4 * SECOND), abs=10)
    assert found["decode"] == pytest.approx((0.05 * SECOND, 0.15 * SECOND), abs=10)
    assert {span.parent.span_id for span in phases} == {0xAA}


def test_phases_stay_within_the_request():
    """Durations that add up to more than the request's begin no earlier than it."""
    spans = spans_of(record(phases={"predict": 5.0, "encode": 2.0}), {}, RESOURCE)
    assert all(span.start_time >= 100 * SECOND and span.end_time <= 101 * SECOND for span in spans)


def test_root_has_no_parent():
    """A trace that begins here has a server span without a parent."""
    assert spans_of(record(parent_span_id=""), {}, RESOURCE)[0].parent is None


@pytest.mark.parametrize(("outcome", "status"), [(Outcome.ERROR, 500), (Outcome.TIMEOUT, 504)])
def test_services_fault_is_an_error_with_an_exception_event(outcome, status):
    """A fault of the service's marks the span as failed and tells the exception as recorded."""
    server = spans_of(record(outcome, status, error_type="ValueError", error_message="broke"), {}, RESOURCE)[0]
    assert server.status.status_code is StatusCode.ERROR
    assert server.attributes["error.type"] == "ValueError"
    assert dict(server.events[0].attributes) == {"exception.type": "ValueError", "exception.message": "broke"}


def test_callers_fault_is_no_error_of_the_server():
    """A 400 leaves the server span's status open, as the conventions ask."""
    server = spans_of(record(Outcome.INVALID, 400, error_type="invalid"), {}, RESOURCE)[0]
    assert server.status.status_code is StatusCode.UNSET
    assert not server.events


def test_only_sampled_predictions_become_spans(sink, exporter, eventually):
    """A sampled prediction's spans are exported by the thread; one that is not sampled has none."""
    observer = SpanObserver(sink)
    observer.on_end(record(sampled=False, route="/other"))
    observer.on_end(record())
    eventually(lambda: len(exporter.get_finished_spans()) == 5)
    assert {span.name for span in exporter.get_finished_spans()} == {
        "POST /predict", "decode", "queue", "features", "predict",
    }  # fmt: skip


def test_own_spans_of_the_service_go_the_same_way(sink, exporter, eventually):
    """A span of the service's own tracer goes through the sink."""
    provider = TracerProvider(resource=RESOURCE, shutdown_on_exit=False)
    provider.add_span_processor(sink)
    with provider.get_tracer("own").start_as_current_span("look up"):
        pass
    eventually(lambda: [span.name for span in exporter.get_finished_spans()] == ["look up"])


def test_full_queue_drops_and_counts(eventually):
    """While the exporter hangs, putting goes on at once, what is over the bound is dropped, and counted."""
    exporter = Blocked()
    sink = SpanSink(exporter, RESOURCE, queue_size=10, batch_size=2, delay_seconds=0.01)
    sink.take(record(phases={}), {})
    assert exporter.entered.wait(10)
    for _ in range(25):
        sink.take(record(phases={}), {})
    assert sink.dropped == 15
    exporter.free.set()
    eventually(sink.force_flush)
    sink.shutdown()


@pytest.mark.parametrize("result", [SpanExportResult.FAILURE, RuntimeError("no route")])
def test_failed_export_is_counted_and_said_once(result, caplog, eventually):
    """Spans that can't be exported count as dropped; one line says so, and not one a batch."""
    exporter = Blocked(result)
    exporter.free.set()
    sink = SpanSink(exporter, RESOURCE, delay_seconds=0.01)
    for _ in range(3):
        sink.take(record(phases={}), {})
        assert sink.force_flush()
    eventually(lambda: sink.dropped == 3)
    sink.shutdown()
    assert sum("can't be exported" in line.getMessage() for line in caplog.records) == 1


def test_shutdown_exports_what_is_there(exporter):
    """What waited is exported at shutdown; what comes later is dropped."""
    sink = SpanSink(exporter, RESOURCE, delay_seconds=60)
    sink.take(record(phases={}), {})
    sink.shutdown()
    sink.take(record(phases={}), {})
    sink.shutdown()
    assert len(exporter.get_finished_spans()) == 1
    assert sink.dropped == 1
