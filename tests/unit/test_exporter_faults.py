"""Exporters behind the relay: whatever the receiver does, nothing is lost and nothing counts twice."""

from __future__ import annotations

import tracemalloc
import uuid
from contextlib import closing

import pytest

from e2i_serving.exporters import transport
from e2i_serving.exporters.opik import OpikExporter
from e2i_serving.record import AccessEvent, Gap, Matrix, Outcome, OutcomeEvent, PredictionRecord
from e2i_serving.redaction import redactor_of
from e2i_serving.relay import Breaker, ExportDestination, read_books
from e2i_serving.relay.audit_destination import AUDIT_STORE
from e2i_serving.settings import RedactionRule, Settings
from e2i_serving.testing import Fault, OpikReceiver, RecordingExporter
from e2i_serving.testing.destinations import RecordingDestination

pytestmark = pytest.mark.usefixtures("short_pauses")

PREDICTIONS = 10_000
BATCH = 500
BAD = 4711


def name(number: int) -> str:
    """A UUIDv7 of its own."""
    return str(uuid.UUID(int=(0x0192F7B05C1E << 80) | (7 << 76) | (2 << 62) | number))


FEATURES = {"features": Matrix("<f8", (1, 4), bytes(32), ("a", "b", "c", "d"))}


def fill(instance, count=PREDICTIONS, life="life-1"):
    """A dead life of so many predictions."""
    with closing(instance.open_writer(life)) as writer:
        for number in range(count):
            writer.append(PredictionRecord(name(number), number, 0.1, Outcome.OK, 200, items=1, inputs=FEATURES))


def book_of(instance, destination):
    """A destination's book, balanced."""
    (found,) = [book for book in read_books(instance.data_dir) if book.destination == destination]
    assert found.balanced, found
    return found


class Sometimes:
    """Answers every third request with a fault, and at most so many."""

    def __init__(self, fault: Fault, most: int = 6) -> None:
        self.fault = fault
        self.left = most
        self.count = 0

    def __call__(self, _request):
        self.count += 1
        if self.count % 3 == 1 and self.left:
            self.left -= 1
            return self.fault
        return None


FAULTS = {
    "slow": Fault(204, delay_seconds=0.1, takes=True),
    "hung": Fault(204, delay_seconds=30),
    "hung-after-taking": Fault(204, delay_seconds=30, takes=True),
    "refused": Fault(0),
    "429": Fault(429),
    "429-with-headers": Fault(429, {"Retry-After": "0.1", "RateLimit-Reset": "0.05"}),
    "500": Fault(500, takes=True),
    "502-html": Fault(502, {"Content-Type": "text/html"}, b"<html>"),
    "401-then-mended": Fault(401),
    "cut": Fault(200, body=b"part", cut=True, takes=True),
    "garbage": Fault(200, body=b"\xff\x00" * 1000, takes=True),
}


@pytest.mark.parametrize("kind", FAULTS)
def test_no_fault_loses_or_doubles_a_trace(instance, monkeypatch, kind):
    """All arrive under their own ids, the books are exact, and the audit store has been waiting for nothing."""
    monkeypatch.setattr(transport, "DENIED_SECONDS", 0.05)
    audit = RecordingDestination(AUDIT_STORE)
    fill(instance)
    with OpikReceiver() as opik:
        opik.judge = judge = Sometimes(FAULTS[kind])
        exporter = OpikExporter(opik.url, timeout_seconds=2 if kind == "slow" else 0.5)
        relay = instance.relay(audit, ExportDestination(exporter), batch_size=BATCH)
        relay.run(once=True)
        relay.close()
        assert judge.left == 0
        assert opik.traces.keys() == {name(number) for number in range(PREDICTIONS)}
    book = book_of(instance, "opik")
    assert (book.accepted, book.stored, book.dead_lettered) == (PREDICTIONS, PREDICTIONS, 0)
    assert len(audit.entries) == PREDICTIONS


def test_one_bad_id_is_found_and_kept_aside(instance):
    """The others of its batch arrive; the dead letter says what Opik said, and can be sent again."""
    fill(instance)
    with OpikReceiver() as opik:
        opik.judge = lambda request: (
            Fault(400, body=b'{"errors":["bad id"]}') if name(BAD).encode() in request.body else None
        )
        destination = ExportDestination(OpikExporter(opik.url))
        instance.relay(destination, batch_size=BATCH).run(once=True)
        assert opik.traces.keys() == {name(number) for number in range(PREDICTIONS)} - {name(BAD)}
        book = book_of(instance, "opik")
        assert (book.stored, book.dead_lettered) == (PREDICTIONS - 1, 1)
        (letter,) = instance.ledger.dead_letters.list()
        assert "bad id" in letter.message
        opik.judge = lambda _request: None
        instance.ledger.dead_letters.request()
        instance.relay(destination, batch_size=BATCH).run(once=True)
        assert name(BAD) in opik.traces
        destination.close()
    assert book_of(instance, "opik").stored == PREDICTIONS


def test_a_receiver_that_is_down_costs_no_memory(instance):
    """What waits, waits in the journal."""
    fill(instance)
    instance.ledger.enlist([AUDIT_STORE, "opik"], AUDIT_STORE)
    with OpikReceiver() as opik:
        opik.judge = lambda _request: Fault(500)
        relay = instance.relay(ExportDestination(OpikExporter(opik.url)), batch_size=BATCH)
        relay.round()
        tracemalloc.start()
        for _ in range(50):
            relay.round()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert opik.traces == {}
        relay.close()
    assert peak < 32 * 1024 * 1024
    assert book_of(instance, "opik").pending == PREDICTIONS


def test_a_pause_that_is_asked_for_is_kept_and_bounded():
    """The breaker is open at least so long, and never for a day."""
    breaker = Breaker()
    assert breaker.failed(7.5) >= 7.5
    assert breaker.failed(86400) <= 600


def test_an_exporter_gets_predictions_and_their_events_alone(instance):
    """Redacted by the destination's own rules; what tells of the trail stays behind."""
    settings = Settings(redaction_destinations={"recording": (RedactionRule(path="inputs.a", action="drop"),)})
    exporter = RecordingExporter()
    destination = ExportDestination(
        exporter, redactor_for=lambda model: redactor_of(settings, model, destination="recording")
    )
    with closing(instance.open_writer()) as writer:
        writer.append(PredictionRecord(name(1), 1, 0.1, Outcome.OK, 200, items=1, inputs=FEATURES))
        writer.append(AccessEvent(name(2), 1))
        writer.append(OutcomeEvent(name(3), 1, name(1), value=True))
    instance.relay(destination).run(once=True)
    record, outcome = (entry.body for entry in exporter.entries)
    assert record.redactions
    assert outcome.outcome_id == name(3)
    assert not any(isinstance(entry.body, Gap) for entry in exporter.entries)
    destination.close()
    assert not exporter.is_open


def test_what_an_exporter_raises_by_mistake_is_a_dead_letter(instance):
    """One entry that can't be sent holds up no other."""
    exporter = RecordingExporter()

    def refuses(entry):
        if entry.body.prediction_id == name(1):
            raise ZeroDivisionError
        return False

    exporter.refuses = refuses
    fill(instance, 3)
    instance.relay(ExportDestination(exporter)).run(once=True)
    assert [entry.body.prediction_id for entry in exporter.entries] == [name(0), name(2)]
    assert book_of(instance, "recording").dead_lettered == 1


def test_a_relay_that_is_to_end_soon_waits_for_the_audit_store_alone(instance):
    """An exporter that fails and fails keeps what it lacks in the journal, for the next relay."""
    audit, exporter = RecordingDestination(AUDIT_STORE), RecordingExporter()
    exporter.down = 10**9
    fill(instance, 20)
    instance.ledger.enlist([AUDIT_STORE, "recording"], AUDIT_STORE)
    instance.relay(audit, ExportDestination(exporter)).run(once=True)
    assert len(audit.entries) == 20
    assert book_of(instance, "recording").pending == 20
    exporter.down = 0
    instance.relay(audit, ExportDestination(exporter)).run(once=True)
    assert book_of(instance, "recording").stored == 20
