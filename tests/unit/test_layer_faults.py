"""The layer when something fails: streams that break off, journals that are full, observers that raise."""

from __future__ import annotations

import asyncio
import errno
import json
import os
from collections.abc import Callable
from typing import Any

import pytest

from e2i_serving.record import Outcome, PredictionRecord, StreamEnd, Values
from e2i_serving.runtime.observation import annotate, observation
from e2i_serving.runtime.refused import RETRY_AFTER_SECONDS


async def test_a_stream_is_on_record_at_both_ends(rig):
    """Its start before the first byte, its end after the last, with the bytes that were sent."""
    await rig.request(rig.streaming(3), "/stream")
    start, end = rig.journaled()
    assert isinstance(start, PredictionRecord)
    assert (start.outcome, start.status, start.error_type) == (Outcome.INTERRUPTED, 200, "")
    assert isinstance(end, StreamEnd)
    assert end.prediction_id == start.prediction_id
    assert (end.outcome, end.response_bytes, end.error_type) == (Outcome.OK, 30, "")
    assert end.duration >= start.duration


async def test_a_stream_without_its_end_counts_as_cancelled(rig):
    """When a client goes away, the application is left without a last chunk and without an error."""
    await rig.request(rig.streaming(2, end=False), "/stream")
    _, end = rig.journaled()
    assert isinstance(end, StreamEnd)
    assert (end.outcome, end.response_bytes) == (Outcome.CANCELLED, 20)


async def test_a_stream_that_raises_says_so(rig):
    """An error between chunks is the service's fault, not the client's."""
    with pytest.raises(ValueError, match="chunk"):
        await rig.request(rig.streaming(1, error=ValueError("bad chunk")), "/stream")
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
        await rig.streaming(1)(scope, receive, send)

    await rig.request(app, "/stream")
    end = rig.journaled()[-1]
    assert (end.outcome, end.error_type) == (Outcome.ERROR, "ValueError")


async def test_a_cancelled_stream_is_ended_once(rig):
    """Cancelling after the last byte adds nothing, cancelling before adds one end."""
    begun = asyncio.Event()

    async def half(scope: Any, receive: Any, send: Any) -> None:
        await rig.streaming(1, end=False)(scope, receive, send)
        begun.set()
        await asyncio.Event().wait()

    async def whole(scope: Any, receive: Any, send: Any) -> None:
        await rig.streaming(1)(scope, receive, send)
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
    await rig.request(rig.streaming(1, status=400), "/stream")
    assert rig.seen.records[0].outcome is Outcome.INVALID


async def test_audit_that_fails_harms_no_prediction(make_rig):
    """By default a prediction is answered though it can't be journaled, and both are counted."""
    rig = make_rig(strict=False)
    break_journal(rig)
    sent = await rig.request(rig.answering())
    assert sent[0]["status"] == 200
    assert rig.seen.records[0].outcome is Outcome.OK
    assert rig.metric("e2i_audit_records_observed_total") == 1
    assert rig.metric("e2i_audit_records_accepted_total") == 0
    assert rig.metric('e2i_audit_records_unjournaled_total{reason="disk-full"}') == 1
    assert rig.metric('e2i_internal_failures_total{part="journal"}') == 1


def break_journal(rig: Any) -> Callable[[], None]:
    """Let the journal's disk be full, until what is returned is called."""
    writer = rig.worker._journaling.writer
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
async def test_required_audit_refuses_what_it_can_not_record(make_rig, path):
    """Without a record there is no answer but 503 with Retry-After, and with one again there is."""
    rig = make_rig(strict=False, audit_required=True)
    mend = break_journal(rig)
    app = (
        rig.streaming(2)
        if path == "/stream"
        else rig.answering(body=b'{"score":0.5}', headers=[(b"content-length", b"13")])
    )
    sent = await rig.request(app, path)
    assert [message["type"] for message in sent] == ["http.response.start", "http.response.body"]
    assert sent[0]["status"] == 503
    assert json.loads(sent[1]["body"])["detail"] == "disk-full"
    assert rig.header(sent, b"retry-after") == [str(RETRY_AFTER_SECONDS).encode()]
    assert rig.header(sent, b"content-length") == [str(len(sent[1]["body"])).encode()]
    assert len(rig.header(sent, b"x-prediction-id")) == 1
    mend()
    assert rig.journaled() == []
    sent = await rig.request(app, path)
    assert sent[0]["status"] == 200
    assert len([body for body in rig.journaled() if isinstance(body, PredictionRecord)]) == 1


async def test_required_audit_refuses_what_is_not_durable(make_rig, monkeypatch):
    """With durability against power loss, a sync that fails counts as not recorded."""
    rig = make_rig(strict=False, audit_required=True, durability="power-loss")
    assert (await rig.request(rig.answering()))[0]["status"] == 200

    def broken(_fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", broken)
        sent = await rig.request(rig.answering())
    assert sent[0]["status"] == 503
    assert json.loads(sent[1]["body"])["detail"] == "sync-failed"


async def test_required_audit_without_a_journal_refuses(make_rig, tmp_path):
    """A data directory that can't be written to refuses predictions, and without the requirement it does not."""
    (tmp_path / "file").write_text("")
    for required, status in ((True, 503), (False, 200)):
        rig = make_rig(strict=False, audit_required=required, data_dir=tmp_path / "file")
        sent = await rig.request(rig.answering())
        assert sent[0]["status"] == status
        assert rig.worker.metrics_text() == ""


async def test_an_observer_that_fails_harms_nobody(make_rig):
    """What an observer raises is counted; the prediction, the record and the other observers do not notice."""

    class Broken:
        def on_end(self, record: PredictionRecord) -> None:
            raise RuntimeError("observer")

    rig = make_rig(strict=False, observers=[("broken", Broken())])
    sent = await rig.request(rig.answering())
    assert sent[0]["status"] == 200
    assert rig.only.outcome is Outcome.OK
    assert rig.metric('e2i_internal_failures_total{part="broken"}') == 1


async def test_a_payload_that_can_not_be_encoded_harms_no_prediction(make_rig):
    """A record that has no encoded form is answered, and stands in the journal without its payload."""
    rig = make_rig(strict=False)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        current = observation.get()
        assert current is not None
        current.attributes = {"x": 2**70}
        await rig.answering()(scope, receive, send)

    assert (await rig.request(app))[0]["status"] == 200
    (record,) = rig.journaled()
    assert (record.outcome, record.attributes, record.redactions) == (Outcome.OK, {}, ("not-encodable",))
    assert rig.metric("e2i_audit_records_accepted_total") == 1


async def test_text_that_is_no_whole_text_is_on_record(rig):
    """A file's name that is no UTF-8 in an error, a label or anything else costs neither the record nor its payload."""
    name = os.fsdecode(b"caf\xe9")

    async def app(scope: Any, receive: Any, send: Any) -> None:
        current = observation.get()
        assert current is not None
        annotate(labels={name: name}, name=name)
        current.inputs, current.items = {"name": Values([name])}, 1
        current.fail(ValueError(f"no such file: {name}"))
        await rig.answering(500)(scope, receive, send)

    assert (await rig.request(app))[0]["status"] == 500
    (record,) = rig.journaled()
    whole = "caf\\udce9"
    assert (record.error_message, record.labels) == (f"no such file: {whole}", {whole: whole})
    assert (record.attributes, record.inputs) == ({"name": whole}, {"name": Values([whole])})
    assert record.redactions == ()
    assert rig.seen.records[0].error_message == record.error_message


async def test_metrics_that_can_not_be_read_are_left_out(make_rig):
    """Files of ours that can't be read never break the page that the user's own metrics are on."""
    rig = make_rig(strict=False)
    await rig.request(rig.answering())
    (rig.worker.data_dir / "metrics" / "folded.msgpack").mkdir()
    assert rig.worker.metrics_text() == ""
    assert rig.worker.guard.failures["metrics"] == 1


async def test_damaged_numbers_of_former_workers_are_put_aside(make_rig):
    """The living workers' numbers are served, and the damaged file is kept for whoever wants to look."""
    rig = make_rig(strict=False)
    await rig.request(rig.answering())
    folder = rig.worker.data_dir / "metrics"
    (folder / "folded.msgpack").write_bytes(b"")
    assert "e2i_predictions_total" in rig.worker.metrics_text()
    assert (folder / "folded.damaged").exists()
