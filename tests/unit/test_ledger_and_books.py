"""The ledger and the books: all that was accepted stands somewhere, at every moment."""

from __future__ import annotations

import os
import sqlite3
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest

from e2i_serving.exceptions import JournalError
from e2i_serving.journal import JournalWriter, LifeFolder, Position, list_lives
from e2i_serving.record import Life, Outcome, PredictionRecord, StreamEnd, Values
from e2i_serving.relay import Book, Delivery, Ledger, Relay, RelayLock, read_books
from e2i_serving.relay.audit_destination import AUDIT_STORE
from e2i_serving.relay.ledger_schema import LEDGER_NAME
from e2i_serving.testing.destinations import RecordingDestination

LIFE = Life("life-1", "credit", 1, 2)
OTHER_LIFE = Life("life-2", "credit", 2, 2)


def record(number: int, size: int = 0) -> PredictionRecord:
    """A record with a payload of about so many bytes."""
    inputs = {"text": Values(["x" * size])} if size else {}
    return PredictionRecord(f"p{number}", number, 0.1, Outcome.OK, 200, items=1, inputs=inputs)


def open_writer(data_dir: Path, life: Life = LIFE) -> JournalWriter:
    """A writer with small segments."""
    return JournalWriter(data_dir / "journal", life, segment_bytes=64 * 1024, record_bytes=1024 * 1024)


def taker() -> RecordingDestination:
    """A destination in the audit store's place that takes everything."""
    return RecordingDestination(AUDIT_STORE)


def only_book(data_dir: Path) -> Book:
    """The audit store's book, which must balance."""
    (book,) = read_books(data_dir)
    assert book.destination == AUDIT_STORE
    assert book.balanced
    return book


@pytest.fixture
def ledger(tmp_path):
    """A ledger in the data directory."""
    with closing(Ledger(tmp_path)) as opened:
        yield opened


def test_a_new_ledger_knows_nothing(ledger):
    """Every life begins at its beginning."""
    assert ledger.position(AUDIT_STORE, "life-1") == Position()
    assert not ledger.is_closed("life-1")
    assert ledger.destinations() == []
    assert ledger.totals(AUDIT_STORE) == []


def test_progress_adds_up_and_outlives_the_ledger(tmp_path):
    """Positions are replaced, counts are added, and all of it is there for the next relay."""
    with closing(Ledger(tmp_path)) as ledger:
        ledger.advance(AUDIT_STORE, LIFE, Position(1, 500, 4, 3), stored=3, dropped={})
        ledger.advance(AUDIT_STORE, LIFE, Position(2, 90, 9, 8), stored=3, dropped={"undecodable": 1, "late": 1})
        ledger.advance(AUDIT_STORE, LIFE, Position(2, 99, 10, 9), stored=0, dropped={"undecodable": 1})
    with closing(Ledger(tmp_path)) as ledger:
        assert ledger.position(AUDIT_STORE, "life-1") == Position(2, 99, 10, 9)
        (totals,) = ledger.totals(AUDIT_STORE)
        assert (totals.life, totals.closed, totals.records, totals.stored) == ("life-1", False, 9, 6)
        assert totals.dropped == {"undecodable": 2, "late": 1}
        assert ledger.destinations() == [AUDIT_STORE]


def test_destinations_and_lives_are_kept_apart(ledger):
    """Each destination has its own position and counts in each life."""
    ledger.advance("a", LIFE, Position(1, 50, 2, 2), stored=2, dropped={})
    ledger.advance("b", LIFE, Position(1, 40, 1, 1), stored=0, dropped={"x": 1})
    ledger.advance("a", OTHER_LIFE, Position(3, 60, 7, 7), stored=7, dropped={})
    assert ledger.destinations() == ["a", "b"]
    assert ledger.position("b", "life-2") == Position()
    assert [(totals.life, totals.stored, totals.dropped) for totals in ledger.totals("a")] == [
        ("life-1", 2, {}),
        ("life-2", 7, {}),
    ]
    assert [(totals.life, totals.records, totals.stored, totals.dropped) for totals in ledger.totals("b")] == [
        ("life-1", 2, 0, {"x": 1}),
        ("life-2", 7, 0, {}),
    ]


def test_a_closed_life_stays_in_the_ledger(ledger):
    """The books cover all that was ever accepted, so nothing is deleted, and the count never goes back."""
    ledger.advance(AUDIT_STORE, LIFE, Position(1, 500, 4, 4), stored=4, dropped={})
    ledger.close_life(LIFE, 3, 1)
    assert ledger.is_closed("life-1")
    (totals,) = ledger.totals(AUDIT_STORE)
    assert (totals.closed, totals.records, totals.stored) == (True, 4, 4)
    ledger.close_life(OTHER_LIFE, 0, 0)
    assert ledger.is_closed("life-2")


def test_what_fails_half_way_leaves_no_trace(ledger):
    """An advance is one transaction: its counts and its position go together."""
    with pytest.raises(Exception, match="NOT NULL"):
        ledger.advance(AUDIT_STORE, LIFE, Position(1, 500, 4, 4), stored=4, dropped={"x": None})
    assert ledger.totals(AUDIT_STORE) == []
    ledger.advance(AUDIT_STORE, LIFE, Position(1, 500, 4, 4), stored=4, dropped={})


def test_a_ledger_can_be_read_while_it_is_written(tmp_path, ledger):
    """A reader beside the relay sees what was committed, and changes nothing."""
    with closing(Ledger(tmp_path, read_only=True)) as reader:
        ledger.advance(AUDIT_STORE, LIFE, Position(1, 500, 4, 4), stored=4, dropped={})
        assert reader.position(AUDIT_STORE, "life-1").ordinal == 4
        with pytest.raises(Exception, match="readonly"):
            reader.advance(AUDIT_STORE, LIFE, Position(), stored=1, dropped={})


def test_reading_no_ledger_makes_none(tmp_path):
    """Before the first relay, the books are empty and nothing is created."""
    with closing(Ledger(tmp_path, read_only=True)) as reader:
        assert reader.destinations() == []
    assert only_book(tmp_path) == Book(AUDIT_STORE)
    assert list(tmp_path.iterdir()) == []


def test_books_can_be_read_by_a_relative_path_of_any_name(tmp_path, monkeypatch):
    """The data directory may be named as one likes, from where one likes."""
    name = "data ? 100%#1"
    (tmp_path / name).mkdir()
    with closing(Ledger(tmp_path / name)) as ledger:
        ledger.advance(AUDIT_STORE, LIFE, Position(1, 500, 4, 4), stored=4, dropped={})
    monkeypatch.chdir(tmp_path)
    assert only_book(Path(name)).stored == 4


def test_books_balance_at_every_stage(tmp_path, ledger):
    """From the first record to the removed folder, accepted is stored and pending and dropped."""
    delivery = Delivery(taker(), ledger, batch_size=10)
    with closing(open_writer(tmp_path)) as writer:
        (folder,) = list_lives(tmp_path / "journal")
        assert (only_book(tmp_path).accepted, only_book(tmp_path).pending) == (0, 0)
        for number in range(35):
            writer.append(record(number, 3000))
        writer.append(StreamEnd("p1", 0.2, Outcome.OK))
        book = only_book(tmp_path)
        assert (book.accepted, book.stored, book.pending) == (35, 0, 35)
        for stored in (10, 20, 30):
            assert delivery.advance(folder, ended=False) == 10
            book = only_book(tmp_path)
            assert (book.accepted, book.stored, book.pending) == (35, stored, 35 - stored)
    relay = Relay(tmp_path, [delivery], ledger, poll_seconds=0.01, linger_seconds=None, housekeeping=lambda: None)
    relay.run(once=True)
    assert list_lives(tmp_path / "journal") == []
    book = only_book(tmp_path)
    assert (book.accepted, book.stored, book.pending) == (35, 35, 0)
    with closing(open_writer(tmp_path, OTHER_LIFE)) as writer:
        writer.append(record(100))
        book = only_book(tmp_path)
        assert (book.accepted, book.stored, book.pending) == (36, 35, 1)


def test_books_balance_when_a_tail_is_torn(tmp_path, ledger):
    """Half a frame was never accepted, so it is missing on neither side."""
    with closing(open_writer(tmp_path)) as writer:
        for number in range(3):
            writer.append(record(number))
    (folder,) = list_lives(tmp_path / "journal")
    content = folder.segment(1).read_bytes()
    folder.segment(1).write_bytes(content[:-5])
    book = only_book(tmp_path)
    assert (book.accepted, book.pending) == (2, 2)
    Delivery(taker(), ledger, batch_size=10).advance(folder, ended=True)
    book = only_book(tmp_path)
    assert (book.accepted, book.stored) == (2, 2)


def test_books_show_what_went_missing(tmp_path, ledger):
    """A segment that someone deleted before it was delivered is dropped, and its gap stands in its place."""
    with closing(open_writer(tmp_path)) as writer:
        for number in range(40):
            writer.append(record(number, 4000))
    (folder,) = list_lives(tmp_path / "journal")
    folder.segment(1).unlink()
    destination = taker()
    Delivery(destination, ledger, batch_size=1000).advance(folder, ended=True)
    book = only_book(tmp_path)
    assert book.accepted == 40
    assert book.stored == 40 - book.dropped["damaged"] < 40
    assert destination.ids[0] == f"1-{book.dropped['damaged']}:damaged"


def test_books_keep_drops_and_dead_letters_by_reason():
    """The equation counts every column."""
    book = Book("x", accepted=10, stored=4, pending=1, dead_lettered=2, dropped=Counter(undecodable=2, late=1))
    assert book.balanced
    book.dropped["late"] += 1
    assert not book.balanced


def test_a_folder_left_behind_by_a_crash_is_not_counted_twice(tmp_path, ledger):
    """A relay killed between closing a life and removing its folder leaves the books right."""
    with closing(open_writer(tmp_path)) as writer:
        writer.append(record(1))
    (folder,) = list_lives(tmp_path / "journal")
    delivery = Delivery(taker(), ledger, batch_size=10)
    delivery.advance(folder, ended=True)
    ledger.close_life(LIFE, 1, 0)
    book = only_book(tmp_path)
    assert (book.accepted, book.stored, book.pending) == (1, 1, 0)


def test_only_one_relay_is_elected(tmp_path):
    """Whoever has the lock is the relay, and says which process it is."""
    first, second = RelayLock(tmp_path), RelayLock(tmp_path)
    assert first.holder() is None
    with first:
        assert first.acquire()
        assert not second.acquire()
        assert second.holder() == os.getpid()
    assert second.holder() is None
    assert second.acquire()
    second.release()
    second.release()


def test_a_life_that_can_not_be_read_does_not_hide_the_other_books(tmp_path, ledger):
    """Delivered records stay in the books beside a folder that is empty."""
    ledger.advance(AUDIT_STORE, LIFE, Position(1, 500, 4, 4), stored=4, dropped={})
    LifeFolder(tmp_path / "journal" / "life-9").path.mkdir(parents=True)
    assert only_book(tmp_path).stored == 4


FIRST_RELEASE = """
CREATE TABLE lives (life TEXT PRIMARY KEY, service TEXT NOT NULL, started_ns INTEGER NOT NULL,
    records INTEGER NOT NULL DEFAULT 0, torn INTEGER NOT NULL DEFAULT 0, closed INTEGER NOT NULL DEFAULT 0)
    WITHOUT ROWID;
CREATE TABLE cursors (destination TEXT NOT NULL, life TEXT NOT NULL, segment INTEGER NOT NULL, offset INTEGER NOT NULL,
    sequence INTEGER NOT NULL, ordinal INTEGER NOT NULL, stored INTEGER NOT NULL DEFAULT 0,
    dead_lettered INTEGER NOT NULL DEFAULT 0, PRIMARY KEY (destination, life)) WITHOUT ROWID;
CREATE TABLE drops (destination TEXT NOT NULL, life TEXT NOT NULL, reason TEXT NOT NULL, records INTEGER NOT NULL,
    PRIMARY KEY (destination, life, reason)) WITHOUT ROWID;
INSERT INTO lives VALUES ('life-1', 'credit', 1, 9, 0, 0);
INSERT INTO cursors VALUES ('audit-store', 'life-1', 2, 90, 9, 8, 7, 0);
INSERT INTO drops VALUES ('audit-store', 'life-1', 'undecodable', 1);
"""


def test_a_ledger_of_the_first_release_is_upgraded_in_place(tmp_path):
    """Its numbers stay, whether it is only read or taken over by a relay."""
    with closing(sqlite3.connect(tmp_path / LEDGER_NAME)) as connection:
        connection.executescript(FIRST_RELEASE)
    for read_only in (True, False, True):
        with closing(Ledger(tmp_path, read_only=read_only)) as ledger:
            assert ledger.cursor(AUDIT_STORE, "life-1") == (Position(2, 90, 9, 8), b"")
            (totals,) = ledger.totals(AUDIT_STORE)
            assert (totals.records, totals.stored, totals.dropped) == (9, 7, {"undecodable": 1})
            assert [*ledger.dead_letters.each()] == []


def test_a_ledger_of_a_newer_release_is_left_alone(tmp_path):
    """What this release does not know it must not write to, nor misread."""
    Ledger(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / LEDGER_NAME)) as connection:
        connection.execute("PRAGMA user_version = 99")
    for read_only in (True, False):
        with pytest.raises(JournalError, match="newer release"):
            Ledger(tmp_path, read_only=read_only)


def test_a_lock_that_was_deleted_elects_nobody(tmp_path):
    """Its holder can tell."""
    with RelayLock(tmp_path) as lock:
        assert not lock.is_gone()
        assert lock.acquire()
        assert not lock.is_gone()
        (tmp_path / "relay.lock").unlink()
        assert lock.is_gone()
