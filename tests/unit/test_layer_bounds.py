"""The layer at its bounds: a full journal, a quota of failures, a lost data directory, late results."""

from __future__ import annotations

import asyncio
import json
import logging
import shutil
import threading
from typing import Any

import pytest

from e2i_serving.journal import JournalRoom, JournalWriter, list_lives
from e2i_serving.observers.metrics import observation_books
from e2i_serving.record import LateResult, Matrix, Outcome, PredictionRecord, StreamEnd, Values
from e2i_serving.runtime.instrument import _timed
from e2i_serving.runtime.observation import observation
from e2i_serving.runtime.refused import RETRY_AFTER_SECONDS

MIB = 1024 * 1024


def attaching(rig: Any, size: int, status: int = 200) -> Any:
    """An application whose records are about so large."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        current = observation.get()
        assert current is not None
        current.attributes = {"text": "x" * size}
        await rig.answering(status)(scope, receive, send)

    return app


@pytest.fixture
def no_room(monkeypatch):
    """A journal that may take no more than the segment it has open."""
    monkeypatch.setattr(JournalRoom, "left", lambda self: 1)


@pytest.mark.parametrize("overflow", ["drop-newest", "drop-oldest"])
async def test_a_full_journal_costs_the_newest_records(make_rig, no_room, overflow):
    """By default a prediction is answered though the journal is full, and its record is counted as unjournaled."""
    rig = make_rig(segment_bytes=MIB, overflow=overflow)
    for _ in range(8):
        assert (await rig.request(attaching(rig, 200_000)))[0]["status"] == 200
    books = rig.books()
    assert books.balanced
    assert books.observed == 8
    assert books.unjournaled["journal-full"] == 8 - books.accepted == 8 - len(rig.journaled())
    assert 0 < books.accepted < 8
    assert rig.worker.may_predict()


async def test_a_full_journal_refuses_where_that_is_asked_for(make_rig, no_room):
    """With `refuse` there is no answer without a record, and the worker says that it is not ready."""
    rig = make_rig(segment_bytes=MIB, overflow="refuse")
    sent = []
    while not sent or sent[0]["status"] == 200:
        sent = await rig.request(attaching(rig, 200_000))
    assert sent[0]["status"] == 503
    assert json.loads(sent[1]["body"])["detail"] == "journal-full"
    assert rig.header(sent, b"retry-after") == [str(RETRY_AFTER_SECONDS).encode()]
    last = rig.seen.records[-1]
    assert (last.status, last.outcome, last.error_type) == (503, Outcome.REJECTED, "unjournaled")
    writer = rig.worker._journaling.writer
    while rig.worker.may_predict():
        await rig.request(rig.answering())
    writer.room = 10 * MIB
    assert rig.worker.may_predict()
    assert (await rig.request(attaching(rig, 200_000)))[0]["status"] == 200


async def test_a_journal_that_is_full_at_the_start_begins_when_there_is_room(make_rig, monkeypatch):
    """A worker that starts on a full disk predicts, counts why it keeps no record, and begins one later."""
    with monkeypatch.context() as patch:
        patch.setattr(JournalRoom, "left", lambda self: 0)
        rig = make_rig()
        await rig.request(rig.answering())
        await rig.worker._journaling.keep_house()
    assert rig.books().unjournaled == {"journal-full": 1}
    await rig.worker._journaling.keep_house()
    await rig.request(rig.answering())
    assert len(rig.journaled()) == 1


@pytest.mark.parametrize("required", [True, False])
async def test_a_flood_of_failures_has_its_quota(make_rig, required):
    """Refused requests beyond the quota are answered as ever and counted; predictions are journaled on."""
    rig = make_rig(failure_bytes=MIB, audit_required=required)
    for _ in range(10):
        assert (await rig.request(attaching(rig, 200_000, 400)))[0]["status"] == 400
    assert rig.worker.may_predict()
    assert (await rig.request(attaching(rig, 200_000)))[0]["status"] == 200
    books = rig.books()
    assert books.unjournaled == {"failure-quota": 5}
    assert (books.accepted, books.balanced) == (6, True)
    # What was delivered is cleared away, and makes room for failures again.
    journaling = rig.worker._journaling
    await journaling.keep_house()
    assert journaling.writer.segment == 2
    journaling.writer.folder.segment(1).unlink()
    await journaling.keep_house()
    await rig.request(attaching(rig, 200_000, 400))
    assert rig.books().accepted == 7


async def test_a_data_directory_that_is_taken_away_comes_back(make_rig):
    """All that was accepted is in the journal again, and all numbers are what they were."""
    rig = make_rig()
    for _ in range(3):
        await rig.request(rig.answering())
    shutil.rmtree(rig.worker.data_dir)
    await rig.request(rig.answering())
    await rig.worker._restore_directory()
    await rig.worker._keep_journal()
    await rig.request(rig.answering())
    lives = list_lives(rig.worker.data_dir / "journal")
    assert [folder.alive() for folder in lives] == [False, True]
    assert {record.prediction_id for record in rig.journaled()} == {record.prediction_id for record in rig.seen.records}
    assert rig.metric("e2i_audit_records_accepted_total") == 5
    assert rig.books().balanced
    assert rig.worker.data_dir.stat().st_mode & 0o077 == 0


class Method:
    """A synchronous API method on a thread, as BentoML calls one."""

    def __init__(self) -> None:
        self.go = threading.Event()

    @_timed
    def predict(self, fail: bool = False) -> list[float]:
        self.go.wait(30)
        if fail:
            raise ValueError("too late")
        return [1.0, 2.0]

    def timing_out(self, rig: Any, fail: bool = False) -> Any:
        """An application that answers 504 while its method runs on."""

        async def app(scope: Any, receive: Any, send: Any) -> None:
            current = observation.get()
            assert current is not None
            current.items = 2
            current.inputs = {"x": Values([1, 2])}
            self.thread = asyncio.ensure_future(asyncio.to_thread(self.predict, fail))
            await asyncio.sleep(0)
            await rig.answering(504)(scope, receive, send)

        return app


@pytest.mark.parametrize("fail", [False, True])
async def test_a_late_result_is_an_event(make_rig, fail):
    """The record of a 504 stays; what its thread comes to is appended once."""
    rig = make_rig()
    method = Method()
    assert (await rig.request(method.timing_out(rig, fail)))[0]["status"] == 504
    assert len(rig.journaled()) == 1
    method.go.set()
    await asyncio.gather(method.thread, return_exceptions=True)
    await asyncio.sleep(0)
    record, late = rig.journaled()
    assert (record.outcome, record.status, record.outputs) == (Outcome.TIMEOUT, 504, {})
    assert isinstance(late, LateResult)
    assert late.prediction_id == record.prediction_id
    assert late.duration >= record.duration
    assert len(late.salt) == 16
    if fail:
        assert (late.outcome, late.error_type, late.error_message) == (Outcome.ERROR, "ValueError", "too late")
    else:
        assert (late.outcome, late.items) == (Outcome.OK, 2)
        assert list(late.outputs["prediction"].values) == [1.0, 2.0]
    assert rig.metric("e2i_audit_records_accepted_total") == 1


async def test_a_thread_that_ends_with_its_request_is_late_once(make_rig):
    """Whichever of thread and loop is first, the result is on record, and only once."""
    rig = make_rig()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        current = observation.get()
        assert current is not None
        current.finish([1.0], None)
        await rig.answering(504)(scope, receive, send)
        current.finish([1.0], None)

    await rig.request(app)
    await asyncio.sleep(0)
    assert [type(body) for body in rig.journaled()] == [PredictionRecord, LateResult]


async def test_a_result_in_time_is_no_event(make_rig):
    """Neither an answer nor an error that was answered has a late result."""
    rig = make_rig()
    for status in (200, 500):

        async def app(scope: Any, receive: Any, send: Any, status: int = status) -> None:
            current = observation.get()
            assert current is not None
            current.finish({}, None)
            await rig.answering(status)(scope, receive, send)

        await rig.request(app)
    await asyncio.sleep(0)
    assert len(rig.journaled()) == 2


@pytest.mark.parametrize("path", ["/predict", "/stream"])
async def test_a_refusal_at_the_last_moment_is_on_record(make_rig, monkeypatch, path):
    """When the disk fails after the record was written, an event says that 503 was answered, and observers see that."""
    rig = make_rig(strict=False, audit_required=True, durability="power-loss")

    async def broken(self: JournalWriter) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(JournalWriter, "sync", broken)
    sent = await rig.request(rig.streaming(1) if path == "/stream" else rig.answering(), path)
    assert sent[0]["status"] == 503
    record, end = rig.journaled()
    assert record.status == 200
    assert isinstance(end, StreamEnd)
    assert (end.prediction_id, end.outcome, end.status) == (record.prediction_id, Outcome.REJECTED, 503)
    assert (end.error_type, end.error_message) == ("unjournaled", "sync-failed")
    (seen,) = rig.seen.records
    assert (seen.outcome, seen.status) == (Outcome.REJECTED, 503)
    assert rig.metric(f'e2i_http_requests_total{{route="{path}",status="503"}}') == 1


async def test_columns_that_do_not_fit_are_said_to(make_rig):
    """A record whose outputs describe another number of items than it has says so, and keeps them."""
    rig = make_rig()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        current = observation.get()
        assert current is not None
        current.items = 2
        current.inputs = {"x": Values([1, 2])}
        current.outputs = {"score": Matrix("<f8", (3,), bytes(24)), "prediction": Values([1])}
        await rig.answering()(scope, receive, send)

    await rig.request(app)
    record = rig.only
    assert (record.outcome, record.status, record.error_type) == (Outcome.OK, 200, "inconsistent_columns")
    assert record.error_message == "Not of 2 items: outputs.score, outputs.prediction."
    assert set(record.outputs) == {"score", "prediction"}


async def test_a_record_has_its_retention_class(make_rig):
    """Answers that are 2xx have one class, all others another."""
    rig = make_rig(retention_class="long", failure_retention_class="short")
    for status in (200, 302, 404):
        await rig.request(rig.answering(status))
    assert [record.retention for record in rig.journaled()] == ["long", "short", "short"]


async def test_redaction_comes_before_everything(make_rig, caplog):
    """No journal, observer or log line sees what a rule takes out; what can't be redacted is left out."""
    rules = [{"path": "attributes.name", "action": "drop"}, {"path": "error_message", "action": "mask"}]
    rig = make_rig(strict=False, redaction_rules=rules)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        current = observation.get()
        assert current is not None
        current.attributes = {"name": "Ada", "age": 36}
        raise ValueError("Ada is unknown")

    with caplog.at_level(logging.ERROR):
        await rig.request(app)
    record = rig.only
    assert (record.attributes, record.error_message) == ({"age": 36}, "***")
    assert "Ada" not in caplog.text.replace('raise ValueError("Ada is unknown")', "")

    class Broken:
        def record(self, record: PredictionRecord) -> PredictionRecord:
            raise RuntimeError("redactor")

    rig.worker._redacting._redactor = Broken()
    await rig.request(attaching(rig, 10))
    record = rig.journaled()[-1]
    assert (record.attributes, record.redactions) == ({}, ("redaction-failed",))
    assert rig.worker.guard.failures["redaction"] == 1


async def test_books_without_metrics(make_rig):
    """The books are kept when no metrics are shown."""
    rig = make_rig(metrics_enabled=False)
    await rig.request(rig.answering())
    assert rig.books().accepted == 1
    assert rig.worker.metrics_text() == ""


async def test_a_record_that_its_worker_was_killed_over_is_interrupted(make_rig):
    """Observed and nothing more: in progress while the worker lives, interrupted when it is dead, folded or not."""
    from e2i_serving.observers.metrics import fold

    rig = make_rig()
    await rig.request(rig.answering())
    rig.worker.numbers.observed()
    folder = rig.worker.data_dir / "metrics"
    books = observation_books(folder)
    assert (books.observed, books.accepted, books.in_progress, books.interrupted) == (2, 1, 1, 0)
    assert books.balanced
    rig.worker.close()
    for _ in range(2):
        books = observation_books(folder)
        assert (books.observed, books.accepted, books.in_progress, books.interrupted) == (2, 1, 0, 1)
        assert books.balanced
        fold(folder)
