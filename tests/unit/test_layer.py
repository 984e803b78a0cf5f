"""The layer: every request has one record, whatever becomes of it."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from e2i_serving.context import current_context
from e2i_serving.journal import JournalReader, list_lives
from e2i_serving.record import Matrix, ModelInfo, Outcome, PredictionRecord, StreamEnd
from e2i_serving.runtime.definition import ServiceDefinition
from e2i_serving.runtime.layer import RETRY_AFTER_SECONDS, ObservabilityLayer
from e2i_serving.runtime.observation import Endpoint, annotate, observation
from e2i_serving.runtime.worker import Worker

MODEL = ModelInfo("scorer", "v1", task="classification")
ENDPOINTS = {"/predict": Endpoint("predict", "/predict"), "/stream": Endpoint("stream", "/stream", is_stream=True)}
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"

App = Callable[[Any, Any, Any], Awaitable[None]]


class Service:
    """A class to define a service by."""


class Seen:
    """An observer that keeps what it is shown."""

    def __init__(self) -> None:
        self.records: list[PredictionRecord] = []

    def on_end(self, record: PredictionRecord) -> None:
        self.records.append(record)


class Rig:
    """A layer around an application, with a real worker on a data directory of its own."""

    def __init__(self, data_dir: Any, *, strict: bool = True, observers: Any = (), **arguments: Any) -> None:
        options = {"data_dir": str(data_dir), "relay_enabled": False, "access_log_enabled": False} | arguments
        self.seen = Seen()
        self.worker = Worker(
            ServiceDefinition("credit", Service, options),
            MODEL,
            ENDPOINTS,
            other_routes=frozenset({"/readyz"}),
            observers=[*observers, ("seen", self.seen)],
            strict=strict,
        )

    async def request(
        self, app: App, path: str = "/predict", *, headers: Any = (), method: str = "POST", receive: Any = None
    ) -> list[Any]:
        """Serve one request, and return the messages that were sent."""
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "path": path, "method": method, "headers": list(headers), "query_string": b""}
        await ObservabilityLayer(app, self.worker)(scope, receive or _nothing_to_receive, send)
        return sent

    def journaled(self) -> list[PredictionRecord | StreamEnd]:
        """What stands in the journal."""
        found: list[Any] = []
        for folder in list_lives(self.worker.data_dir / "journal"):
            found += [frame.decode() for frame in JournalReader(folder).read(10_000, ended=True)]
        return found

    @property
    def only(self) -> PredictionRecord:
        """The only record; what observers saw is what was journaled."""
        (record,) = self.journaled()
        assert self.seen.records == [record]
        assert isinstance(record, PredictionRecord)
        return record

    def metric(self, name: str) -> float:
        """The value of a metric without or with labels, as it is exposed; 0 when it is not."""
        found = re.search(rf"^{re.escape(name)} (\S+)$", self.worker.metrics_text(), re.MULTILINE)
        return float(found.group(1)) if found else 0.0


async def _nothing_to_receive() -> Any:
    return {"type": "http.request", "body": b"", "more_body": False}


@pytest.fixture
def make(tmp_path):
    """Make rigs, and end them."""
    made: list[Rig] = []

    def open_rig(**options: Any) -> Rig:
        made.append(Rig(options.pop("data_dir", tmp_path / f"data-{len(made)}"), **options))
        return made[-1]

    yield open_rig
    for rig in made:
        rig.worker.close()


@pytest.fixture
def rig(make) -> Rig:
    """A rig whose own faults raise."""
    return make()


def answering(status: int = 200, body: bytes = b"{}", headers: Any = ()) -> App:
    """An application that answers at once."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": list(headers)})
        await send({"type": "http.response.body", "body": body})

    return app


def header(sent: list[Any], name: bytes) -> list[bytes]:
    """The values of a response header."""
    return [value for key, value in sent[0]["headers"] if key == name]


async def test_an_answer_is_on_record_before_it_leaves(rig):
    """When the first byte leaves, the journal has the record, with the ids that the answer carries."""
    at_first_byte: list[int] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        current = observation.get()
        assert current is not None
        current.items = 1
        current.outputs = {"score": Matrix("<f8", (1,), bytes(8))}
        annotate(labels={"brand": "north"}, cause="test")
        await answering(headers=[(b"content-length", b"2")])(scope, receive, send)

    async def send(message: Any) -> None:
        at_first_byte.append(len(rig.journaled()))
        sent.append(message)

    sent: list[Any] = []
    scope = {"type": "http", "path": "/predict", "method": "POST", "headers": [(b"content-length", b"17")]}
    await ObservabilityLayer(app, rig.worker)(scope, _nothing_to_receive, send)
    assert at_first_byte == [1, 1]
    record = rig.only
    assert (record.outcome, record.status, record.endpoint, record.route) == (Outcome.OK, 200, "predict", "/predict")
    assert (record.model, record.model_version, record.task) == ("scorer", "v1", "classification")
    assert (record.request_bytes, record.response_bytes, record.items) == (17, 2, 1)
    assert (record.labels, record.attributes) == ({"brand": "north"}, {"cause": "test"})
    assert list(record.outputs) == ["score"]
    assert (record.error_type, record.error_message) == ("", "")
    assert record.duration > 0
    assert header(sent, b"x-prediction-id") == [record.prediction_id.encode()]
    assert header(sent, b"x-request-id") == [record.request_id.encode()] == [record.prediction_id.encode()]
    assert header(sent, b"traceparent") == [f"00-{record.trace_id}-{record.span_id}-00".encode()]
    assert header(sent, b"content-length") == [b"2"]
    assert header(sent, b"server-timing")[0].startswith(b"total;dur=")


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
        current.outputs = {"score": Matrix("<f8", (1,), bytes(8))}
        await answering(status)(scope, receive, send)

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
        await answering(500)(scope, receive, send)

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
            await answering(500)(scope, receive, send)

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
    assert header(sent, b"content-length") == [str(len(sent[1]["body"])).encode()]
    assert header(sent, b"x-prediction-id") == [rig.only.prediction_id.encode()]
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
        await answering()(scope, receive, send)
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

    await rig.request(answering(), receive=Cycle().receive)
    assert (rig.only.outcome, rig.only.status) == (Outcome.CANCELLED, 200)


def streaming(chunks: int, *, status: int = 200, end: bool = True, error: Exception | None = None) -> App:
    """An application that answers in chunks of ten bytes."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": status, "headers": []})
        for _ in range(chunks):
            await send({"type": "http.response.body", "body": b"0123456789", "more_body": True})
        if error is not None:
            raise error
        if end:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    return app


async def test_a_stream_is_on_record_at_both_ends(rig):
    """Its start before the first byte, its end after the last, with the bytes that were sent."""
    await rig.request(streaming(3), "/stream")
    start, end = rig.journaled()
    assert isinstance(start, PredictionRecord)
    assert (start.outcome, start.status, start.error_type) == (Outcome.INTERRUPTED, 200, "")
    assert isinstance(end, StreamEnd)
    assert end.prediction_id == start.prediction_id
    assert (end.outcome, end.response_bytes, end.error_type) == (Outcome.OK, 30, "")
    assert end.duration >= start.duration


async def test_a_stream_without_its_end_counts_as_cancelled(rig):
    """When a client goes away, the application is left without a last chunk and without an error."""
    await rig.request(streaming(2, end=False), "/stream")
    _, end = rig.journaled()
    assert isinstance(end, StreamEnd)
    assert (end.outcome, end.response_bytes) == (Outcome.CANCELLED, 20)


async def test_a_stream_that_raises_says_so(rig):
    """An error between chunks is the service's fault, not the client's."""
    with pytest.raises(ValueError, match="chunk"):
        await rig.request(streaming(1, error=ValueError("bad chunk")), "/stream")
    _, end = rig.journaled()
    assert isinstance(end, StreamEnd)
    assert (end.outcome, end.response_bytes) == (Outcome.ERROR, 10)
    assert (end.error_type, end.error_message) == ("ValueError", "bad chunk")


async def test_a_stream_that_noted_an_error_and_went_on_says_so(rig):
    """A generator's error that the application swallowed is still the end's outcome."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        current = observation.get()
        assert current is not None
        current.fail(ValueError("bad chunk"))
        await streaming(1)(scope, receive, send)

    await rig.request(app, "/stream")
    end = rig.journaled()[-1]
    assert (end.outcome, end.error_type) == (Outcome.ERROR, "ValueError")


async def test_a_cancelled_stream_is_ended_once(rig):
    """Cancelling after the last byte adds nothing, cancelling before adds one end."""
    begun = asyncio.Event()

    async def half(scope: Any, receive: Any, send: Any) -> None:
        await streaming(1, end=False)(scope, receive, send)
        begun.set()
        await asyncio.Event().wait()

    async def whole(scope: Any, receive: Any, send: Any) -> None:
        await streaming(1)(scope, receive, send)
        begun.set()
        await asyncio.Event().wait()

    for app in (half, whole):
        begun.clear()
        task = asyncio.create_task(rig.request(app, "/stream"))
        await begun.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    ends = [body for body in rig.journaled() if isinstance(body, StreamEnd)]
    assert [(end.outcome, end.response_bytes) for end in ends] == [(Outcome.CANCELLED, 10), (Outcome.OK, 10)]


async def test_a_stream_that_is_refused_is_invalid(rig):
    """A stream's endpoint that answers 400 has begun no stream."""
    await rig.request(streaming(1, status=400), "/stream")
    assert rig.seen.records[0].outcome is Outcome.INVALID


async def test_other_requests_are_counted_and_not_recorded(rig):
    """A path that is no API method has no record; one that is no route at all is not even named."""
    await rig.request(answering(), "/readyz", method="GET")
    for path in ("/admin.php", "/predict/", "/../etc/passwd", "/PREDICT"):
        await rig.request(answering(404), path, method="GET")
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
        await answering()(scope, receive, send)

    await asyncio.gather(*(rig.request(app) for _ in range(5)))
    assert current_context() is None
    assert observation.get() is None
    assert not trace.get_current_span().get_span_context().is_valid
    assert len({context.prediction_id for context in inside}) == 5
    assert {record.prediction_id for record in rig.seen.records} == {context.prediction_id for context in inside}


async def test_the_callers_ids_go_on_record_and_back(rig):
    """A trace goes on, a request id comes back verbatim."""
    sent = await rig.request(
        answering(),
        headers=[(b"traceparent", f"00-{TRACE}-{SPAN}-01".encode()), (b"x-request-id", b"order/7:a=b")],
    )
    record = rig.only
    assert (record.request_id, record.trace_id, record.parent_span_id) == ("order/7:a=b", TRACE, SPAN)
    assert record.sampled
    assert record.span_id != SPAN
    assert header(sent, b"x-request-id") == [b"order/7:a=b"]
    assert header(sent, b"traceparent") == [f"00-{TRACE}-{record.span_id}-01".encode()]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
    sent = await rig.request(answering(), headers=headers)
    assert sent[0]["status"] == 200
    (record,) = rig.seen.records[before:]
    assert record.request_bytes >= -1
    for name, value in sent[0]["headers"]:
        assert re.fullmatch(rb"[\x21-\x7e][\x20-\x7e]*", value), (name, value)
    assert rig.worker.guard.failures == {}


async def test_audit_that_fails_harms_no_prediction(make):
    """By default a prediction is answered though it can't be journaled, and both are counted."""
    rig = make(strict=False)
    break_journal(rig)
    sent = await rig.request(answering())
    assert sent[0]["status"] == 200
    assert rig.seen.records[0].outcome is Outcome.OK
    assert rig.metric("e2i_audit_records_observed_total") == 1
    assert rig.metric("e2i_audit_records_accepted_total") == 0
    assert rig.metric('e2i_audit_records_unjournaled_total{reason="disk-full"}') == 1
    assert rig.metric('e2i_internal_failures_total{part="journal"}') == 1


def break_journal(rig: Rig) -> Callable[[], None]:
    """Let the journal's disk be full, until what is returned is called."""
    writer = rig.worker._writer
    assert writer is not None
    whole = os.dup(writer._fd)
    full = os.open("/dev/full", os.O_RDWR)
    os.dup2(full, writer._fd)
    os.close(full)

    def mend() -> None:
        os.dup2(whole, writer._fd)
        os.close(whole)

    return mend


@pytest.mark.parametrize("path", ["/predict", "/stream"])
async def test_required_audit_refuses_what_it_can_not_record(make, path):
    """Without a record there is no answer but 503 with Retry-After, and with one again there is."""
    rig = make(strict=False, audit_required=True)
    mend = break_journal(rig)
    app = streaming(2) if path == "/stream" else answering(body=b'{"score":0.5}', headers=[(b"content-length", b"13")])
    sent = await rig.request(app, path)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[0]["status"] == 503
    assert json.loads(sent[1]["body"])["detail"] == "disk-full"
    assert header(sent, b"retry-after") == [str(RETRY_AFTER_SECONDS).encode()]
    assert header(sent, b"content-length") == [str(len(sent[1]["body"])).encode()]
    assert len(header(sent, b"x-prediction-id")) == 1
    mend()
    assert rig.journaled() == []
    sent = await rig.request(app, path)
    assert sent[0]["status"] == 200
    assert len([body for body in rig.journaled() if isinstance(body, PredictionRecord)]) == 1


async def test_required_audit_refuses_what_is_not_durable(make, monkeypatch):
    """With durability against power loss, a sync that fails counts as not recorded."""
    rig = make(strict=False, audit_required=True, durability="power-loss")
    assert (await rig.request(answering()))[0]["status"] == 200

    def broken(_fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", broken)
        sent = await rig.request(answering())
    assert sent[0]["status"] == 503
    assert json.loads(sent[1]["body"])["detail"] == "sync-failed"


async def test_required_audit_without_a_journal_refuses(make, tmp_path):
    """A data directory that can't be written to refuses predictions, and without the requirement it does not."""
    (tmp_path / "file").write_text("")
    for required, status in ((True, 503), (False, 200)):
        rig = make(strict=False, audit_required=required, data_dir=tmp_path / "file")
        sent = await rig.request(answering())
        assert sent[0]["status"] == status
        assert rig.worker.metrics_text() == ""


async def test_an_observer_that_fails_harms_nobody(make):
    """What an observer raises is counted; the prediction, the record and the other observers do not notice."""

    class Broken:
        def on_end(self, record: PredictionRecord) -> None:
            raise RuntimeError("observer")

    rig = make(strict=False, observers=[("broken", Broken())])
    sent = await rig.request(answering())
    assert sent[0]["status"] == 200
    assert rig.only.outcome is Outcome.OK
    assert rig.metric('e2i_internal_failures_total{part="broken"}') == 1


async def test_a_payload_that_can_not_be_encoded_harms_no_prediction(make):
    """A record that has no encoded form is answered, and counted as not journaled."""
    rig = make(strict=False)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        current = observation.get()
        assert current is not None
        current.attributes = {"x": object()}
        await answering()(scope, receive, send)

    assert (await rig.request(app))[0]["status"] == 200
    assert rig.metric('e2i_audit_records_unjournaled_total{reason="not-encodable"}') == 1
    assert (await rig.request(answering()))[0]["status"] == 200
    assert len(rig.journaled()) == 1


async def test_metrics_that_can_not_be_read_are_left_out(make):
    """A damaged file of ours never breaks the page that the user's own metrics are on."""
    rig = make(strict=False)
    await rig.request(answering())
    (rig.worker.data_dir / "metrics" / "folded.msgpack").write_bytes(b"")
    assert rig.worker.metrics_text() == ""
    assert rig.worker.guard.failures["metrics"] == 1


async def test_audit_and_metrics_can_be_off(make):
    """Off is off: no journal, no numbers, and still the ids."""
    rig = make(audit_enabled=False, metrics_enabled=False)
    sent = await rig.request(answering())
    assert len(header(sent, b"x-prediction-id")) == 1
    assert rig.worker.metrics_text() == ""
    assert list_lives(rig.worker.data_dir / "journal") == []
    await rig.request(streaming(1), "/stream")


async def test_a_worker_starts_and_stops(make):
    """Housekeeping runs while it serves, and the life is over when it stops."""
    rig = make(gc_freeze=False)
    rig.worker.start()
    await rig.request(answering())
    (folder,) = list_lives(rig.worker.data_dir / "journal")
    assert folder.alive()
    await rig.worker.stop()
    assert not folder.alive()
    assert len(rig.journaled()) == 1
