"""Which ids a request gets, which answers tell them, and what is traced of it."""

from __future__ import annotations

import logging

import pytest
from opentelemetry import baggage, propagate
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from e2i_serving.context import current_context
from e2i_serving.propagation import ContextExtractor
from e2i_serving.runtime.scrape import ServedBy
from e2i_serving.runtime.telemetry import Telemetry
from e2i_serving.runtime.tracing import OnwardPropagator, request_of, tracing_of
from e2i_serving.settings import load_settings

TRACEPARENT = (b"traceparent", b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01")


@pytest.fixture
def exporter():
    """An exporter that keeps what it is given."""
    return InMemorySpanExporter()


@pytest.fixture
def make_traced(make_rig, exporter):
    """Make rigs that trace."""
    made = []

    def make(rate=1.0, **options):
        tracing = tracing_of(load_settings({"trace_sample_rate": rate}, environ={}).settings, {}, exporter=exporter)
        made.append(tracing)
        return make_rig(served_by=ServedBy(telemetry=Telemetry(tracing)), **options)

    yield make
    for tracing in made:
        tracing.close()


def finished(rig, exporter):
    """The spans of a rig's requests, by name."""
    rig.worker.tracing.sink.force_flush()
    return {span.name: span for span in exporter.get_finished_spans()}


async def test_sampled_request_has_a_server_span_with_the_records_ids(make_traced, exporter):
    """A sampled request's span has the ids of its record and of the answer, and the caller's span as its parent."""
    rig = make_traced()
    sent = await rig.request(rig.answering(), headers=[TRACEPARENT])
    span = finished(rig, exporter)["POST /predict"]
    assert f"{span.context.span_id:016x}" == rig.only.span_id
    assert f"{span.parent.span_id:016x}" == "b7ad6b7169203331"
    assert rig.header(sent, b"traceparent") == [f"00-0af7651916cd43dd8448eb211c80319c-{rig.only.span_id}-01".encode()]


@pytest.mark.parametrize("rate", [0.0, 0.1, 1.0])
async def test_audit_is_complete_at_any_sampling(make_traced, exporter, rate):
    """Whatever fraction of the traces is sampled, every request is on record, and the sampled ones have spans."""
    rig = make_traced(rate)
    for _ in range(200):
        await rig.request(rig.answering())
    records = rig.journaled()
    sampled = {record.span_id for record in records if record.sampled}
    rig.worker.tracing.sink.force_flush()
    spans = {f"{span.context.span_id:016x}" for span in exporter.get_finished_spans()}
    assert len(records) == 200
    assert spans == sampled
    assert len(sampled) == 200 * rate or 2 <= len(sampled) <= 60


async def test_spans_that_are_lost_are_counted(make_traced):
    """What the exporter refuses is counted in a metric."""
    rig = make_traced()
    rig.worker.tracing.sink.shutdown()
    await rig.request(rig.answering())
    assert rig.metric("e2i_spans_dropped_total") == 1


async def test_malformed_header_is_counted_and_not_echoed(make_rig):
    """A hostile id is replaced, counted by its header, and stands nowhere in the answer."""
    rig = make_rig()
    sent = await rig.request(rig.answering(), headers=[(b"x-request-id", b"<script>"), (b"traceparent", b"00-zz")])
    assert b"<script>" not in repr(sent).encode()
    assert rig.metric('e2i_headers_refused_total{header="x-request-id"}') == 1
    assert rig.metric('e2i_headers_refused_total{header="traceparent"}') == 1


@pytest.mark.parametrize("status", [200, 400, 429, 500, 504])
async def test_every_answer_tells_the_ids(make_rig, status):
    """Each answer of an API method tells the ids and the time taken, whatever its status."""
    rig = make_rig()
    sent = await rig.request(rig.answering(status), headers=[(b"x-request-id", b"order-17")])
    assert rig.header(sent, b"x-request-id") == [b"order-17"]
    assert rig.header(sent, b"x-prediction-id") == [rig.only.prediction_id.encode()]
    for name in (b"traceparent", b"server-timing"):
        assert len(rig.header(sent, name)) == 1


async def test_unmatched_route_tells_the_ids_and_makes_a_span(make_traced, exporter):
    """A route of nobody's is answered with the request's ids, no prediction's, and traced by its constant name."""
    rig = make_traced()
    seen = []

    async def app(scope, receive, send):
        seen.append((current_context(), request_of().context))
        await rig.answering(404)(scope, receive, send)

    sent = await rig.request(app, "/no/such", headers=[(b"x-request-id", b"order-17"), TRACEPARENT])
    assert rig.header(sent, b"x-request-id") == [b"order-17"]
    assert rig.header(sent, b"traceparent")
    assert not rig.header(sent, b"x-prediction-id")
    assert seen[0][0] is seen[0][1]
    assert current_context() is None
    span = finished(rig, exporter)["POST __unmatched__"]
    assert span.attributes["http.response.status_code"] == 404
    assert "e2i.prediction_id" not in span.attributes
    assert rig.journaled() == []


async def test_probes_are_left_alone(make_rig):
    """The answers to probes are passed on as they are."""
    rig = make_rig()
    sent = await rig.request(rig.answering(), "/readyz", headers=[(b"x-request-id", b"order-17")])
    assert sent[0]["headers"] == []


async def test_callers_prediction_is_the_parent(make_rig):
    """The prediction id in a calling service's baggage is the record's parent request id."""
    rig = make_rig()
    await rig.request(rig.answering(), headers=[(b"baggage", b"e2i.request_id=order-17,e2i.prediction_id=p-9")])
    assert (rig.only.request_id, rig.only.parent_request_id) == ("order-17", "p-9")


async def test_label_in_baggage_holds_where_the_request_has_none(make_rig):
    """A declared label that only the caller's baggage has is the record's; one that nobody declared is not."""
    rig = make_rig(labels=("brand",))
    await rig.request(rig.answering(), headers=[(b"baggage", b"e2i.label.brand=alpha,e2i.label.tier=1")])
    assert rig.only.labels == {"brand": "alpha"}


async def test_outgoing_calls_carry_the_ids(make_rig):
    """What the service calls gets the request's span as its parent, and its ids as baggage."""
    rig = make_rig()
    carrier = {}

    async def app(scope, receive, send):
        propagate.inject(carrier)
        OnwardPropagator().inject(carrier, baggage.set_baggage("own", "1"))
        await rig.answering()(scope, receive, send)

    await rig.request(app, headers=[(b"x-request-id", b"order-17"), TRACEPARENT])
    assert carrier["traceparent"] == f"00-{rig.only.trace_id}-{rig.only.span_id}-01"
    assert carrier["baggage"] == f"e2i.request_id=order-17,e2i.prediction_id={rig.only.prediction_id},own=1"


async def test_slow_request_is_logged(make_rig, caplog):
    """A prediction above the threshold has a warning with its phases; one below has none."""
    rig = make_rig(slow_request_seconds=0.000001)
    quick = make_rig(slow_request_seconds=60)
    with caplog.at_level(logging.WARNING, "e2i_serving"):
        await rig.request(rig.answering())
        await quick.request(quick.answering())
    (line,) = [line for line in caplog.records if " took " in line.getMessage()]
    assert line.getMessage().startswith("POST /predict took ")
    assert line.status == 200


def test_callers_choice_of_sampling_holds():
    """A caller that says whether a trace is sampled is believed; where none says, the rate decides by the trace id."""
    always, never = ContextExtractor(sample_rate=1.0), ContextExtractor()
    unsampled = (b"traceparent", TRACEPARENT[1][:-2] + b"00")
    undecided = (b"b3", b"0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331")
    assert [each.extract([TRACEPARENT]).sampled for each in (always, never)] == [True, True]
    assert [each.extract([unsampled]).sampled for each in (always, never)] == [False, False]
    assert [each.extract([undecided]).sampled for each in (always, never)] == [True, False]
    assert [each.extract([]).sampled for each in (always, never)] == [True, False]
    low = (b"x-trace-id", b"f" * 16 + b"0" * 15 + b"1")
    assert ContextExtractor(sample_rate=0.01).extract([low]).sampled
