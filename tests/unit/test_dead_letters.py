"""Dead letters within their bounds: what there is no room for, and what is given up, stays in the books."""

from __future__ import annotations

from contextlib import closing

import pytest

from e2i_serving.record import Gap, Outcome, StreamEnd
from e2i_serving.relay import Ledger, read_books
from e2i_serving.relay.audit_destination import AUDIT_STORE
from e2i_serving.relay.ledger_schema import LEDGER_NAME
from e2i_serving.runtime.traces import refused_records
from e2i_serving.testing.destinations import RecordingDestination

pytestmark = pytest.mark.usefixtures("short_pauses")

MIB = 1024 * 1024


@pytest.fixture
def refusing(instance):
    """An instance with a dead life of sixty records of 50 kB, and a destination that takes none of them."""
    with closing(instance.open_writer()) as writer:
        for number in range(60):
            writer.append(instance.record(number, 50_000))
    destination = RecordingDestination(AUDIT_STORE)
    destination.refuses = lambda entry: not isinstance(entry.body, Gap)
    return instance, destination


def test_what_there_is_no_room_for_is_counted_and_not_kept(refusing, caplog):
    """The ledger stays within its bound, each refused record has its gap, and the books balance."""
    instance, destination = refusing
    with closing(Ledger(instance.data_dir, dead_letter_bytes=MIB)) as instance.ledger:
        instance.relay(destination).run(once=True)
        kept = len(instance.ledger.dead_letters.numbers())
        assert 10 < kept < 21
        assert len(destination.entries) == 60
        (book,) = read_books(instance.data_dir)
        assert (book.accepted, book.dead_lettered, dict(book.dropped)) == (60, kept, {"dead-letters-full": 60 - kept})
        assert book.balanced
        assert "dead_letter_bytes" in caplog.text
        instance.ledger.dead_letters.discard(instance.ledger.dead_letters.numbers())
        with closing(instance.open_writer("life-2")) as writer:
            writer.append(instance.record(99, 50_000))
        instance.relay(destination).run(once=True)
        assert len(instance.ledger.dead_letters.numbers()) == 1, "What was discarded gave its room back."
    assert (instance.data_dir / LEDGER_NAME).stat().st_size <= MIB


def test_what_is_discarded_is_counted_as_dropped(refusing):
    """It moves from dead-lettered to dropped, once, and the others stay."""
    instance, destination = refusing
    instance.relay(destination).run(once=True)
    letters = instance.ledger.dead_letters
    first, second, *rest = letters.numbers()
    assert letters.discard([first, second, 999]) == 2
    assert letters.discard([first]) == 0
    assert letters.numbers() == rest
    (book,) = read_books(instance.data_dir)
    assert (book.accepted, book.dead_lettered, dict(book.dropped), book.balanced) == (60, 58, {"discarded": 2}, True)


def test_letters_are_read_one_at_a_time(refusing):
    """One that goes while they are read is passed over."""
    instance, destination = refusing
    instance.relay(destination).run(once=True)
    letters = instance.ledger.dead_letters
    each = letters.each(AUDIT_STORE)
    first = next(each)
    assert len(first.payload) > 50_000
    letters.discard([first.id + 1])
    assert next(each).id == first.id + 2
    assert list(letters.each("another")) == []


def test_refused_predictions_are_decoded_one_at_a_time(refusing):
    """An erasure holds of the letters only what is about its subject, however many there are."""
    instance, destination = refusing
    instance.relay(destination).run(once=True)
    letters = instance.ledger.dead_letters
    each = iter(refused_records(instance.data_dir, None))
    assert next(each).record.prediction_id == "p0000"
    letters.discard(letters.numbers()[1:-1])
    assert [record.prediction_id for record, _ in each] == ["p0059"]


@pytest.mark.parametrize("has_room", [True, False])
def test_a_letter_that_holds_no_record_is_no_drop(instance, has_room):
    """What became of an answer's end, or of an outcome, counts no record, and no reason is noted for none."""
    with closing(instance.open_writer()) as writer:
        writer.append(StreamEnd("p0000", 0.5, Outcome.OK, salt=bytes(16)))
    destination = RecordingDestination(AUDIT_STORE)
    destination.refuses = lambda entry: not isinstance(entry.body, Gap)
    with closing(Ledger(instance.data_dir, dead_letter_bytes=MIB if has_room else 0)) as instance.ledger:
        instance.relay(destination).run(once=True)
        letters = instance.ledger.dead_letters
        assert letters.discard(letters.numbers()) == has_room
        (totals,) = instance.ledger.totals(AUDIT_STORE)
        assert totals.dropped == {}
