"""The layer: every request has one record, whatever becomes of it."""

from __future__ import annotations

import asyncio
import json
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from e2i_serving.context import current_context
from e2i_serving.journal import list_lives
from e2i_serving.record import Matrix, Outcome
from e2i_serving.runtime.layer import ObservabilityLayer
from e2i_serving.runtime.observation import annotate, observation

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"


async def test_an_answer_is_on_record_before_it_leaves(rig):
    """When the first byte leaves, the journal has the record, with the ids that the answer carries."""
    at_first_byte: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        current = observation.get()
        assert current is not None
        current.items = 1
        current.outputs = {"score": Matrix("<f8", (1,), bytes(8))}
        annotate(labels={"brand": "north"}, cause="test")
        await rig.answering(headers=[(b"content-length", b"2")])(scope, receive, send)

    async def send(message: Any) -> None:
        at_first_byte.append(len(rig.journaled()))
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    sent: list[Any] = []
    scope = {"type": "http", "path": "/predict", "method": "POST", "headers": [(b"content-length", b"17")]}
    await ObservabilityLayer(app, rig.worker)(scope, receive, send)
    assert at_first_byte == [1, 1]
    record = rig.only
    assert (record.outcome, record.status, record.endpoint, record.route) == (Outcome.OK, 200, "predict", "/predict")
    assert (record.model, record.model_version, record.task) == ("scorer", "v1", "classification")
    assert (record.request_bytes, record.response_bytes, record.items) == (17, 2, 1)
    assert (record.labels, record.attributes) == ({"brand": "north"}, {"cause": "test"})
    assert list(record.outputs) == ["score"]
    assert (record.error_type, record.error_message) == ("", "")
    assert record.duration > 0
    assert rig.header(sent, b"x-prediction-id") == [record.prediction_id.encode()]
    assert rig.header(sent, b"x-request-id") == [record.request_id.encode()] == [record.prediction_id.encode()]
    assert rig.header(sent, b"traceparent") == [f"00-{record.trace_id}-{record.span_id}-00".encode()]
    assert rig.header(sent, b"content-length") == [b"2"]
    assert rig.header(sent, b"server-timing")[0].startswith(b"total;dur=")


@pytest.mark.parametrize(
    ("status", "outcome", "kind"),
    [
        (201, Outcome.OK, ""),
        (302, Outcome.OK, ""),
        (400, Outcome.INVALID, "invalid"),
        (401, Outcome.REJECTED, "rejected"),
        (404, Outcome.INVALID, "invalid"),
        (405, Outcome.INVALID, "invalid"),
        (408, Outcome.TIMEOUT, "timeout"),
        (418, Outcome.INVALID, "invalid"),
        (429, Outcome.REJECTED, "rejected"),
        (500, Outcome.ERROR, "error"),
        (502, Outcome.ERROR, "error"),
        (503, Outcome.REJECTED, "rejected"),
        (504, Outcome.TIMEOUT, "timeout"),
    ],
)
async def test_a_status_says_how_a_request_ended(rig, status, outcome, kind):
    """Each status has one outcome, and what is not an answer keeps no outputs."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        current = observation.get()
        assert current is not None
        current.items = 1
        current.outputs = {"score": Matrix("<f8", (1,), bytes(8))}
        await rig.answering(status)(scope, receive, send)

    sent = await rig.request(app)
    assert sent[0]["status"] == status
    record = rig.only
    assert (record.outcome, record.status, record.error_type) == (outcome, status, kind)
    assert bool(record.outputs) == (outcome is Outcome.OK)
    assert rig.metric(f'e2i_http_requests_total{{route="/predict",status="{status}"}}') == 1
    labels = f'model="scorer",version="v1",task="classification",outcome="{outcome}"'
    assert rig.metric(f"e2i_predictions_total{{{labels}}}") == 1
    assert rig.metric("e2i_predictions_in_progress") == 0


async def test_what_was_raised_inside_stands_beside_its_status(rig):
    """An error that the application turned into an answer names its type."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        current = observation.get()
        assert current is not None
        current.fail(KeyError("age"))
        current.fail(ValueError("a later one"))
        await rig.answering(500)(scope, receive, send)

    await rig.request(app)
    assert (rig.only.error_type, rig.only.error_message) == ("KeyError", "'age'")


async def test_an_error_without_a_readable_message_is_no_trouble(rig):
    """A user's exception may raise when it is asked for its message, or have a very long one."""

    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError("no")

    for error, message in (
        (MuteError(), "<RuntimeError while reading the message>"),
        (ValueError("x" * 5000), "x" * 1024),
    ):

        async def app(scope: Any, receive: Any, send: Any, error: Exception = error) -> None:
            current = observation.get()
            assert current is not None
            current.fail(error)
            await rig.answering(500)(scope, receive, send)

        await rig.request(app)
        assert rig.seen.records[-1].error_message == message


async def test_an_application_that_raises_is_answered_with_500(rig, caplog):
    """What escapes the application is logged and answered without a word of its text."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        raise ValueError("secret of row 7")

    sent = await rig.request(app)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[0]["status"] == 500
    assert "error" in json.loads(sent[1]["body"])
    assert b"secret" not in sent[1]["body"]
    assert rig.header(sent, b"content-length") == [str(len(sent[1]["body"])).encode()]
    assert rig.header(sent, b"x-prediction-id") == [rig.only.prediction_id.encode()]
    assert (rig.only.outcome, rig.only.status, rig.only.error_type) == (Outcome.ERROR, 500, "ValueError")
    assert rig.only.error_message == "secret of row 7"
    assert "secret of row 7" in caplog.text


async def test_an_application_that_returns_nothing_is_answered_with_500(rig):
    """A client is not left waiting."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        return

    sent = await rig.request(app)
    assert sent[0]["status"] == 500
    assert (rig.only.outcome, rig.only.error_type) == (Outcome.ERROR, "RuntimeError")
    assert "without an answer" in rig.only.error_message


async def test_an_application_that_raises_after_its_answer_keeps_its_record(rig):
    """The answer that left is the one on record, and the server learns of the error."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await rig.answering()(scope, receive, send)
        raise ValueError("afterwards")

    with pytest.raises(ValueError, match="afterwards"):
        await rig.request(app)
    assert (rig.only.outcome, rig.only.status) == (Outcome.OK, 200)
    assert rig.metric("e2i_predictions_in_progress") == 0


async def test_a_cancelled_request_is_on_record(rig):
    """A request whose task is cancelled has a record without a status, and the cancellation goes on."""
    begun = asyncio.Event()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        begun.set()
        await asyncio.Event().wait()

    task = asyncio.create_task(rig.request(app))
    await begun.wait()
    assert rig.metric("e2i_predictions_in_progress") == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert (rig.only.outcome, rig.only.status, rig.only.error_type) == (Outcome.CANCELLED, 0, "cancelled")
    assert rig.metric("e2i_predictions_in_progress") == 0


async def test_a_client_that_is_gone_is_on_record(rig):
    """An answer that the server would drop without a word counts as cancelled."""

    class Cycle:
        disconnected = True

        async def receive(self) -> Any:
            return {"type": "http.disconnect"}

    await rig.request(rig.answering(), receive=Cycle().receive)
    assert (rig.only.outcome, rig.only.status) == (Outcome.CANCELLED, 200)


async def test_other_requests_are_counted_and_not_recorded(rig):
    """A path that is no API method has no record; one that is no route at all is not even named."""
    await rig.request(rig.answering(), "/readyz", method="GET")
    for path in ("/admin.php", "/predict/", "/../etc/passwd", "/PREDICT"):
        await rig.request(rig.answering(404), path, method="GET")
    assert rig.journaled() == []
    assert rig.metric('e2i_http_requests_total{route="/readyz",status="200"}') == 1
    assert rig.metric('e2i_http_requests_total{route="__unmatched__",status="404"}') == 4
    assert "passwd" not in rig.worker.metrics_text()


async def test_what_is_not_http_passes_untouched(rig):
    """Lifespan and websockets are none of the layer's business."""
    seen: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append((scope["type"], receive, send))

    layer = ObservabilityLayer(app, rig.worker)
    for kind in ("lifespan", "websocket"):
        await layer({"type": kind, "path": "/predict"}, "receive", "send")
    assert seen == [("lifespan", "receive", "send"), ("websocket", "receive", "send")]


async def test_the_context_is_there_inside_and_gone_outside(rig):
    """Whoever asks during a request gets its ids, whoever asks after gets nothing, and each task its own."""
    from opentelemetry import trace

    inside: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        context = current_context()
        assert context is not None
        span = trace.get_current_span().get_span_context()
        assert (span.trace_id, span.span_id) == (int(context.trace_id, 16), int(context.span_id, 16))
        await asyncio.sleep(0)
        assert current_context() is context
        inside.append(context)
        await rig.answering()(scope, receive, send)

    await asyncio.gather(*(rig.request(app) for _ in range(5)))
    assert current_context() is None
    assert observation.get() is None
    assert not trace.get_current_span().get_span_context().is_valid
    assert len({context.prediction_id for context in inside}) == 5
    assert {record.prediction_id for record in rig.seen.records} == {context.prediction_id for context in inside}


async def test_the_callers_ids_go_on_record_and_back(rig):
    """A trace goes on, a request id comes back verbatim."""
    sent = await rig.request(
        rig.answering(),
        headers=[(b"traceparent", f"00-{TRACE}-{SPAN}-01".encode()), (b"x-request-id", b"order/7:a=b")],
    )
    record = rig.only
    assert (record.request_id, record.trace_id, record.parent_span_id) == ("order/7:a=b", TRACE, SPAN)
    assert record.sampled
    assert record.span_id != SPAN
    assert rig.header(sent, b"x-request-id") == [b"order/7:a=b"]
    assert rig.header(sent, b"traceparent") == [f"00-{TRACE}-{record.span_id}-01".encode()]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(
            st.sampled_from([b"x-request-id", b"traceparent", b"content-length", b"baggage", b"host"]),
            st.binary(max_size=60) | st.from_regex(rb"[0-9]{1,40}", fullmatch=True),
        ),
        max_size=6,
    )
)
async def test_no_header_does_any_harm(rig, headers):
    """Whatever bytes a header holds, there is an answer and a record, and nothing odd is echoed."""
    before = len(rig.seen.records)
    sent = await rig.request(rig.answering(), headers=headers)
    assert sent[0]["status"] == 200
    (record,) = rig.seen.records[before:]
    assert record.request_bytes >= -1
    for name, value in sent[0]["headers"]:
        assert re.fullmatch(rb"[\x21-\x7e][\x20-\x7e]*", value), (name, value)
    assert rig.worker.guard.failures == {}


async def test_audit_and_metrics_can_be_off(make_rig):
    """Off is off: no journal, no numbers, and still the ids."""
    rig = make_rig(audit_enabled=False, metrics_enabled=False)
    sent = await rig.request(rig.answering())
    assert len(rig.header(sent, b"x-prediction-id")) == 1
    assert rig.worker.metrics_text() == ""
    assert list_lives(rig.worker.data_dir / "journal") == []
    await rig.request(rig.streaming(1), "/stream")


async def test_a_worker_starts_and_stops(make_rig):
    """Housekeeping runs while it serves, and the life is over when it stops."""
    rig = make_rig(gc_freeze=False)
    rig.worker.start()
    await rig.request(rig.answering())
    (folder,) = list_lives(rig.worker.data_dir / "journal")
    assert folder.alive()
    await rig.worker.stop()
    assert not folder.alive()
    assert len(rig.journaled()) == 1
