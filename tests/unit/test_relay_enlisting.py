"""Destinations that come later, go, and come back."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from e2i_serving.relay import Ledger, read_books
from e2i_serving.relay.audit_destination import AUDIT_STORE
from e2i_serving.relay.ledger_schema import LEDGER_NAME, VERSION
from e2i_serving.testing.destinations import RecordingDestination

pytestmark = pytest.mark.usefixtures("short_pauses")


@pytest.fixture
def leader():
    """The destination that is always there."""
    return RecordingDestination(AUDIT_STORE)


@pytest.fixture
def late():
    """One that comes later."""
    return RecordingDestination("late")


def fill(instance, name, count, start=0):
    """A dead life of so many records."""
    with closing(instance.open_writer(name)) as writer:
        for number in range(start, start + count):
            writer.append(instance.record(number))


def run(instance, *destinations):
    """Enlist destinations, and deliver what there is."""
    instance.ledger.enlist([each.name for each in destinations], AUDIT_STORE)
    instance.relay(*destinations).run(once=True)


def books(instance):
    """The books by destination, all balanced."""
    found = {book.destination: book for book in read_books(instance.data_dir)}
    assert all(book.balanced for book in found.values()), found
    return found


def test_a_destination_of_the_beginning_gets_everything(instance, leader, late):
    """Nobody has dealt with the life yet, so it begins at the beginning."""
    fill(instance, "life-1", 5)
    run(instance, leader, late)
    assert late.ids == leader.ids == instance.names(5)
    assert books(instance)["late"].stored == 5


def test_one_that_is_added_later_begins_now(instance, leader, late):
    """In a life that goes on it gets what comes from now on; a life that is over was never for it."""
    fill(instance, "life-0", 3)
    with closing(instance.open_writer("life-1")) as writer:
        for number in range(4):
            writer.append(instance.record(number))
        instance.ledger.enlist([AUDIT_STORE], AUDIT_STORE)
        relay = instance.relay(leader)
        while relay.round():
            pass
        for number in range(4, 6):
            writer.append(instance.record(number))
        instance.ledger.enlist([AUDIT_STORE, "late"], AUDIT_STORE)
        assert (books(instance)["late"].accepted, books(instance)["late"].pending) == (2, 2)
    run(instance, leader, late)
    assert late.ids == ["p0004", "p0005"]
    found = books(instance)
    assert (found["late"].accepted, found["late"].stored) == (2, 2)
    assert found[AUDIT_STORE].stored == 9


def test_one_that_goes_and_comes_back_misses_what_was_between(instance, leader, late):
    """Its book closes when it goes, and it begins anew where the others stand."""
    with closing(instance.open_writer("life-1")) as writer:
        for start, names in ((0, (leader, late)), (2, (leader,)), (4, (leader, late))):
            for number in range(start, start + 2):
                writer.append(instance.record(number))
            instance.ledger.enlist([each.name for each in names], AUDIT_STORE)
            relay = instance.relay(*names)
            while relay.round():
                pass
            books(instance)
    run(instance, leader, late)
    assert late.ids == ["p0000", "p0001", "p0004", "p0005"]
    found = books(instance)
    assert (found["late"].accepted, found["late"].stored) == (4, 4)


def test_a_life_that_closes_while_it_is_away_is_not_its_own(instance, leader, late):
    """The records that it never saw count for it neither while it is away nor when it is back."""
    with closing(instance.open_writer("life-1")) as writer:
        writer.append(instance.record(0))
        instance.ledger.enlist([AUDIT_STORE, "late"], AUDIT_STORE)
        relay = instance.relay(leader, late)
        while relay.round():
            pass
        writer.append(instance.record(1))
    run(instance, leader)
    assert books(instance)["late"].accepted == 1
    run(instance, leader, late)
    assert books(instance)["late"].accepted == 1
    assert late.ids == ["p0000"]


def test_a_ledger_of_the_release_before_is_upgraded(tmp_path):
    """Its destinations stay enlisted, so that they go on where they were."""
    Ledger(tmp_path).close()
    with closing(sqlite3.connect(tmp_path / LEDGER_NAME)) as connection:
        connection.executescript(
            "DROP TABLE intents; DROP TABLE destinations; ALTER TABLE cursors DROP COLUMN skipped; "
            "PRAGMA user_version = 2; "
            "INSERT INTO cursors (destination, life, segment, offset, sequence, ordinal) "
            "VALUES ('audit-store', 'a', 1, 2, 3, 4);"
        )
    with closing(Ledger(tmp_path)) as ledger:
        assert ledger.active_destinations() == {AUDIT_STORE}
        assert ledger.position(AUDIT_STORE, "a").ordinal == 4
    with closing(sqlite3.connect(tmp_path / LEDGER_NAME)) as connection:
        assert connection.execute("PRAGMA user_version").fetchone()[0] == VERSION
