"""Exporters behind the relay: whatever the receiver does, nothing is lost and nothing counts twice.

What Opik gets twice is one trace there. A webhook and a collector may get an event twice when their answer was lost,
always under the same id.
"""

from __future__ import annotations

import tracemalloc
import uuid
from contextlib import closing

import pytest

from e2i_serving.exporters import transport
from e2i_serving.exporters.opik import OpikExporter
from e2i_serving.exporters.otlp_logs import OtlpLogsExporter
from e2i_serving.exporters.webhook import WebhookExporter
from e2i_serving.record import AccessEvent, Gap, Matrix, Outcome, OutcomeEvent, PredictionRecord
from e2i_serving.redaction import redactor_of
from e2i_serving.relay import Breaker, ExportDestination, read_books
from e2i_serving.relay.audit_destination import AUDIT_STORE
from e2i_serving.settings import RedactionRule, Settings
from e2i_serving.testing import ExportReceiver, Fault, OpikReceiver, RecordingExporter
from e2i_serving.testing.destinations import RecordingDestination
from e2i_serving.typing import Exporter

pytestmark = pytest.mark.usefixtures("short_pauses")

PREDICTIONS = 10_000
FEW = 1_500
BATCH = 500
BAD = 1234
SECRET = "a secret of its own"


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
    """Answers every third request with a fault, or as often as is said, and at most so many."""

    def __init__(self, fault: Fault, most: int = 6, every: int = 3) -> None:
        self.fault = fault
        self.left = most
        self.every = every
        self.count = 0

    def __call__(self, _request):
        self.count += 1
        if (self.count - 1) % self.every == 0 and self.left:
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


Ids = list[tuple[str, str]]
"""Of each prediction that arrived, as often as it did, the id it was sent under and its own."""


def posted(receiver: ExportReceiver) -> Ids:
    """What the webhook got."""
    return [(event["id"], event["subject"]) for request in receiver.requests for event in request.json()]


def logged(receiver: ExportReceiver) -> Ids:
    """What the collector got."""
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

    return [
        (found["log.record.uid"], found["e2i.prediction_id"])
        for request in receiver.requests
        for resource in ExportLogsServiceRequest.FromString(request.body).resource_logs
        for record in resource.scope_logs[0].log_records
        for found in [{pair.key: pair.value.string_value for pair in record.attributes}]
    ]


def webhook(receiver: ExportReceiver, timeout_seconds: float = 2) -> Exporter:
    """The exporter to a webhook."""
    return WebhookExporter(receiver.url, SECRET, timeout_seconds=timeout_seconds)


def collector(receiver: ExportReceiver, timeout_seconds: float = 2) -> Exporter:
    """The exporter to a collector."""
    return OtlpLogsExporter(receiver.url, timeout_seconds=timeout_seconds)


others = pytest.mark.parametrize(("make", "arrived"), [(webhook, posted), (collector, logged)], ids=["webhook", "otlp"])


@others
@pytest.mark.parametrize("kind", FAULTS)
def test_no_fault_loses_an_event_or_gives_it_another_id(instance, monkeypatch, kind, make, arrived):
    """Each arrives, the books are exact, and what arrives twice is known by its id."""
    monkeypatch.setattr(transport, "DENIED_SECONDS", 0.05)
    fill(instance, FEW)
    with ExportReceiver() as receiver:
        receiver.judge = judge = Sometimes(FAULTS[kind], most=2)
        exporter = make(receiver, 0.4 if kind.startswith("hung") else 10)
        relay = instance.relay(ExportDestination(exporter), batch_size=200)
        relay.run(once=True)
        relay.close()
        assert judge.left == 0
        ids = arrived(receiver)
    once = {(f"life-1/{number + 1}", name(number)) for number in range(FEW)}
    assert set(ids) == once
    if not FAULTS[kind].takes and kind != "hung":  # where time is short, an answer may come too late on its own
        assert len(ids) == FEW
    book = book_of(instance, exporter.name)
    assert (book.accepted, book.stored, book.dead_lettered) == (FEW, FEW, 0)


@others
def test_one_bad_event_is_found_and_kept_aside(instance, make, arrived):
    """The others of its batch arrive, each once; the dead letter can be sent again."""
    fill(instance, FEW)
    with ExportReceiver() as receiver:
        receiver.judge = lambda request: Fault(400, body=b"bad") if name(BAD).encode() in request.body else None
        destination = ExportDestination(make(receiver))
        instance.relay(destination, batch_size=200).run(once=True)
        assert sorted(own for _, own in arrived(receiver)) == [name(number) for number in range(FEW) if number != BAD]
        book = book_of(instance, destination.name)
        assert (book.stored, book.dead_lettered) == (FEW - 1, 1)
        receiver.judge = lambda _request: None
        instance.ledger.dead_letters.request()
        instance.relay(destination, batch_size=200).run(once=True)
        assert sorted(own for _, own in arrived(receiver)) == [name(number) for number in range(FEW)]
        destination.close()
    assert book_of(instance, destination.name).stored == FEW


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
        (letter,) = instance.ledger.dead_letters.each()
        assert "bad id" in letter.message
        opik.judge = lambda _request: None
        instance.ledger.dead_letters.request()
        instance.relay(destination, batch_size=BATCH).run(once=True)
        assert name(BAD) in opik.traces
        destination.close()
    assert book_of(instance, "opik").stored == PREDICTIONS


@pytest.mark.parametrize(
    ("make", "count"),
    [(lambda opik: OpikExporter(opik.url), PREDICTIONS), (webhook, FEW), (collector, FEW)],
    ids=["opik", "webhook", "otlp"],
)
def test_a_receiver_that_is_down_costs_no_memory(instance, make, count):
    """What waits, waits in the journal."""
    fill(instance, count)
    with ExportReceiver() as receiver:
        receiver.judge = judge = Sometimes(Fault(500), most=10**9, every=1)
        destination = ExportDestination(make(receiver))
        instance.ledger.enlist([AUDIT_STORE, destination.name], AUDIT_STORE)
        relay = instance.relay(destination, batch_size=BATCH)
        relay.round()
        tracemalloc.start()
        while judge.count < 10:
            relay.round()
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert receiver.requests == []
        relay.close()
    assert peak < 32 * 1024 * 1024
    assert book_of(instance, destination.name).pending == count


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
