"""The relay's destinations: each goes its own way, and what it refuses or can't have is accounted for."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest

from e2i_serving.exceptions import EncryptionError, RefusedError
from e2i_serving.journal import JournalWriter
from e2i_serving.record import Gap, Outcome, PredictionFilter, StreamEnd
from e2i_serving.relay import Delivery, overflow, read_books
from e2i_serving.relay.audit_destination import AUDIT_STORE
from e2i_serving.relay.overflow import make_room
from e2i_serving.testing.destinations import RecordingDestination

pytestmark = pytest.mark.usefixtures("short_pauses")

RECORDS = 120
SIZE = 3000
"""So that about twenty records fill a segment."""


@pytest.fixture
def recording():
    """A destination in the audit store's place."""
    return RecordingDestination(AUDIT_STORE)


def fill(instance, count=RECORDS, name="life-1", *, start=0, size=SIZE):
    """A dead life of so many records."""
    with closing(instance.open_writer(name)) as writer:
        for number in range(start, start + count):
            writer.append(instance.record(number, size))


def is_poison(*numbers):
    """What refuses these records."""
    names = {f"p{number:04d}" for number in numbers}
    return lambda entry: getattr(entry.body, "prediction_id", None) in names


def test_a_hung_destination_holds_up_nothing_but_itself(instance, eventually):
    """While one hangs, another gets everything, housekeeping goes on, and the relay stops in time."""
    hung, other = RecordingDestination("hung"), RecordingDestination("other")
    hung.open.clear()
    fill(instance)
    relay = instance.relay(hung, other)
    thread = threading.Thread(target=relay.run)
    thread.start()
    try:
        eventually(lambda: len(other.entries) == RECORDS, what="the other destination to have all")
        assert hung.batches == [10]
        assert instance.tidied
        relay.stop(0.1)
        thread.join(30)
        assert not thread.is_alive()
    finally:
        hung.open.set()
    books = {book.destination: book for book in read_books(instance.data_dir)}
    assert (books["other"].stored, books["other"].pending) == (RECORDS, 0)
    assert all(book.balanced for book in books.values())
    assert len(instance.lives()) == 1


def test_what_is_refused_is_found_and_kept_aside(instance, recording):
    """The others of its batch arrive; a gap with its digest stands in its place, its payload is a dead letter."""
    recording.refuses = is_poison(7, 8, 77)
    fill(instance)
    instance.relay(recording, batch_size=50).run(once=True)
    expected = instance.names(RECORDS)
    for number in (7, 8, 77):
        expected[number] = f"{number + 1}-{number + 1}:dead-lettered"
    assert recording.ids == expected
    gaps = [entry.body for entry in recording.entries if isinstance(entry.body, Gap)]
    assert gaps[0] == Gap(8, 8, 1, "dead-lettered", b"digest-8")
    first, *_ = letters = [*instance.ledger.dead_letters.each()]
    assert [letter.sequence for letter in letters] == [8, 9, 78]
    assert (first.life, first.key_id, first.message, first.records) == ("life-1", 0, "audit-store refuses.", 1)
    assert first.state == b"8"
    (book,) = read_books(instance.data_dir)
    assert book.balanced
    assert (book.accepted, book.stored, book.dead_lettered) == (RECORDS, RECORDS - 3, 3)


def test_a_batch_is_halved_no_further_than_needed(instance, recording):
    """One bad record in a thousand costs some tries, not a thousand."""
    recording.refuses = is_poison(600)
    fill(instance, 1000, size=0)
    instance.relay(recording, batch_size=1000).run(once=True)
    assert len(recording.entries) == 1000
    assert len(recording.batches) < 40


def test_an_event_that_is_refused_counts_as_no_record(instance, recording):
    """Only predictions stand in the books."""
    recording.refuses = lambda entry: isinstance(entry.body, StreamEnd)
    with closing(instance.open_writer()) as writer:
        writer.append(instance.record(0))
        writer.append(StreamEnd("p0000", 0.2, Outcome.OK))
    instance.relay(recording).run(once=True)
    assert recording.ids == ["p0000", "2-2:dead-lettered"]
    assert instance.balanced() == (1, 1, 0, {})
    assert len([*instance.ledger.dead_letters.each()]) == 1


def test_a_dead_letter_is_delivered_once_it_is_asked_for(instance, recording):
    """It moves from dead-lettered to stored, and is gone; one that is refused again stays and says so."""
    recording.refuses = is_poison(1, 2)
    fill(instance, 3)
    instance.relay(recording).run(once=True)
    recording.refuses = is_poison(2)
    instance.relay(recording).run(once=True)
    assert instance.balanced()[:2] == (3, 1)
    assert instance.ledger.dead_letters.request() == 2
    instance.relay(recording).run(once=True)
    assert recording.ids[-1] == "p0001"
    (left,) = instance.ledger.dead_letters.each()
    assert (left.sequence, left.requested) == (3, False)
    (book,) = read_books(instance.data_dir)
    assert (book.stored, book.dead_lettered, book.balanced) == (2, 1, True)
    recording.refuses = is_poison()
    recording.down = 2
    assert instance.ledger.dead_letters.request([left.id, 99]) == 1
    instance.relay(recording).run(once=True)
    assert instance.balanced()[:2] == (3, 3)
    assert [*instance.ledger.dead_letters.each()] == []


def test_a_redelivered_row_has_the_link_of_its_gap(instance):
    """So a reader finds the chain whole, with the gap's row and without."""
    fill(instance, 3)
    write = instance.store.kept.write

    def picky(batch):
        if any(row["prediction_id"] == "p0001" for row in batch.predictions):
            raise RefusedError("not that one")
        gaps.extend(batch.gaps)
        return write(batch)

    gaps = []
    instance.store.kept.write = picky
    instance.relay().run(once=True)
    assert instance.store.ids == ["p0000", "p0002"]
    instance.store.kept.write = write
    instance.ledger.dead_letters.request()
    instance.relay().run(once=True)
    rows = {row["prediction_id"]: row for row in instance.store.kept.predictions(PredictionFilter())}
    (gap,) = gaps
    assert rows["p0001"]["hash"] == gap["hash"]
    assert len({row["hash"] for row in rows.values()}) == 3


def test_a_damaged_frame_leaves_a_gap_in_its_place(instance, recording):
    """What is missing among the numbers is a gap, counted as damaged."""
    fill(instance, 5, size=0)
    path = instance.lives()[0].segment(1)
    content = bytearray(path.read_bytes())
    at = content.index(b"p0002")
    content[at] ^= 0xFF
    path.write_bytes(content)
    instance.relay(recording, batch_size=2).run(once=True)
    assert recording.ids == ["p0000", "p0001", "3-3:damaged", "p0003", "p0004"]
    assert instance.balanced() == (5, 4, 0, {"damaged": 1})


class Locked:
    """A cipher whose key comes later."""

    key_id = 1

    def __init__(self):
        self.has_key = True

    def encrypt(self, context, data):
        return bytes(byte ^ 0x5A for byte in data)

    def decrypt(self, key_id, context, data):
        if not self.has_key:
            raise EncryptionError(f"Key {key_id} is not known.")
        return bytes(byte ^ 0x5A for byte in data)


def test_a_life_whose_key_is_missing_waits(instance, recording, caplog):
    """Nothing of it is dropped, others go on, and one line says it; with the key everything arrives."""
    cipher = Locked()
    journal = instance.data_dir / "journal"
    options = {"segment_bytes": 65536, "record_bytes": 65536, "cipher": cipher}
    with closing(JournalWriter(journal, instance.life("life-1"), **options)) as writer:
        writer.append(instance.record(1))
    fill(instance, 1, "life-2", start=2)
    cipher.has_key = False
    deliveries = [Delivery(recording, instance.ledger, batch_size=10, cipher=cipher)]
    relay = instance.relay(recording)
    relay._deliveries = deliveries
    relay.run(once=True)
    assert recording.ids == ["p0002"]
    assert [record.message for record in caplog.records if "Key 1" in record.message]
    assert len([record for record in caplog.records if "Key 1" in record.message]) == 1
    assert instance.balanced()[:3] == (2, 1, 1)
    cipher.has_key = True
    relay.run(once=True)
    assert recording.ids == ["p0002", "p0001"]
    assert instance.lives() == []


def test_a_dead_letter_of_an_encrypted_frame_stays_encrypted(instance, recording):
    """What was encrypted in the journal is not kept in clear in the ledger, and is delivered all the same."""
    cipher = Locked()
    options = {"segment_bytes": 65536, "record_bytes": 65536, "cipher": cipher}
    with closing(JournalWriter(instance.data_dir / "journal", instance.life("life-1"), **options)) as writer:
        writer.append(instance.record(1))
    recording.refuses = is_poison(1)
    delivery = Delivery(recording, instance.ledger, batch_size=10, cipher=cipher)
    (folder,) = instance.lives()
    assert delivery.advance(folder, ended=True) == 1
    (letter,) = instance.ledger.dead_letters.each()
    assert letter.key_id == 1
    assert b"p0001" not in letter.payload
    recording.refuses = is_poison()
    instance.ledger.dead_letters.request()
    delivery.request_retry()
    delivery.round([(folder, True)])
    assert recording.ids == ["1-1:dead-lettered", "p0001"]


def segments_of(instance, name="life-1"):
    """The sizes of a life's segments."""
    (folder,) = (folder for folder in instance.lives() if folder.life == name)
    return {number: folder.segment(number).stat().st_size for number in folder.segments()}


def test_the_oldest_records_give_way_when_the_journal_is_full(instance, recording):
    """What is lost is noted before it goes, and leaves one hole at its place in the chain."""
    fill(instance)
    before = segments_of(instance)
    relay = instance.relay(recording, batch_size=10)
    relay.round()  # ten of segment 1 are delivered
    recording.down = 1
    relay.round()  # and ten more are on their way for all one knows
    assert make_room(relay._lives, relay._deliveries, instance.ledger, 200_000)
    assert segments_of(instance)[1] == before[1]
    assert segments_of(instance)[2] < 1000 < before[2]
    accepted, stored, pending, dropped = instance.balanced()
    assert (accepted, stored) == (RECORDS, 10)
    lost = dropped["overflow"]
    relay.run(once=True)
    assert instance.balanced() == (RECORDS, RECORDS - lost, 0, {"overflow": lost})
    assert pending == RECORDS - 10 - lost
    holes = [entry.body for entry in recording.entries if isinstance(entry.body, Gap)]
    assert sum(hole.records for hole in holes) == lost
    assert {hole.reason for hole in holes} == {"overflow"}
    kept = {name for name in recording.ids if name.startswith("p")}
    gone = sorted(set(instance.names(RECORDS)) - kept)
    assert gone == instance.names(lost, holes[0].first - 1)
    assert holes[-1].last == holes[0].first - 1 + lost


def test_the_dead_give_way_before_the_living(instance, recording):
    """The oldest dead life goes first, and the segment that a worker writes never."""
    with closing(instance.open_writer("life-0")) as living:
        for number in range(60):
            living.append(instance.record(number, SIZE))
        fill(instance, 40, "life-1", start=60)
        fill(instance, 40, "life-2", start=100)
        recording.down = 10**6
        relay = instance.relay(recording)
        relay._look()
        taken = {folder.life: folder.bytes() for folder in instance.lives()}
        most = int((taken["life-0"] + taken["life-2"] + 20_000) / 0.9)
        make_room(relay._lives, relay._deliveries, instance.ledger, most)
        assert sum(segments_of(instance, "life-1").values()) < 3000
        assert min(segments_of(instance, "life-2").values()) > SIZE
        make_room(relay._lives, relay._deliveries, instance.ledger, 1)
        last = max(segments_of(instance, "life-0"))
        assert segments_of(instance, "life-0")[last] > SIZE
        recording.down = 0
        relay.run(once=True)
        accepted, stored, pending, dropped = instance.balanced()
        assert (accepted, pending) == (140, 0)
        assert stored + dropped["overflow"] == 140
        assert stored > 0
        assert [folder.life for folder in instance.lives()] == ["life-0"]


def test_a_killed_worker_s_empty_room_is_given_back(instance, recording):
    """What was preallocated and never written is no record, and nothing is lost by cutting it."""
    fill(instance, 3)
    path = instance.lives()[0].segment(1)
    size = path.stat().st_size
    relay = instance.relay(recording)
    relay.round()
    with path.open("ab") as file:
        file.write(bytes(1_000_000))
    relay._look()
    assert make_room(relay._lives, relay._deliveries, instance.ledger, 1) == 0
    assert path.stat().st_size == size
    assert instance.balanced() == (3, 3, 0, {})


def test_an_overflow_that_was_noted_is_finished_after_a_crash(instance, recording, monkeypatch):
    """A relay killed between the note and the cut does not deliver what it counted as lost."""
    fill(instance)
    relay = instance.relay(recording)
    relay._look()

    def killed(_path, _size):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(overflow.os, "truncate", killed)
        with pytest.raises(KeyboardInterrupt):
            make_room(relay._lives, relay._deliveries, instance.ledger, 1)
    lost = instance.balanced()[3]["overflow"]
    instance.relay(recording).run(once=True)
    assert instance.balanced() == (RECORDS, RECORDS - lost, 0, {"overflow": lost})


def test_only_those_that_lack_a_segment_lose_it(instance):
    """A destination that has it all loses nothing by another's being behind."""
    quick, slow = RecordingDestination("quick"), RecordingDestination(AUDIT_STORE)
    slow.down = 10**6
    fill(instance)
    relay = instance.relay(quick, slow, batch_size=50)
    for _ in range(3):
        relay.round()
    make_room(relay._lives, relay._deliveries, instance.ledger, 1)
    slow.down = 0
    relay.run(once=True)
    books = {book.destination: book for book in read_books(instance.data_dir)}
    assert all(book.balanced for book in books.values())
    assert quick.ids == instance.names(RECORDS)
    assert books["quick"].dropped == {}
    assert books[AUDIT_STORE].stored + books[AUDIT_STORE].dropped["overflow"] == RECORDS
    assert books[AUDIT_STORE].stored < RECORDS


def test_a_destination_that_came_later_has_its_own_beginning(instance, recording):
    """What was closed before it was there is not missing from its books."""
    fill(instance, 5)
    instance.relay(recording).run(once=True)
    fill(instance, 3, "life-2", start=5)
    instance.relay(recording, RecordingDestination("later")).run(once=True)
    books = {book.destination: book for book in read_books(instance.data_dir)}
    assert (books["later"].accepted, books["later"].stored, books["later"].balanced) == (3, 3, True)
    assert (books[AUDIT_STORE].accepted, books[AUDIT_STORE].balanced) == (8, True)


def test_a_relay_whose_data_directory_is_gone_ends(instance, recording):
    """There is nothing to deliver from, and the next one is elected by another lock."""
    relay = instance.relay(recording, is_needed=lambda: False)
    relay.run()
    assert recording.entries == []
