"""Lives that nobody can read any more: they hold up nothing, and what is known to be lost is counted."""

from __future__ import annotations

import os
from contextlib import closing

import pytest

from e2i_serving.journal import JournalRoom
from e2i_serving.journal.frame import SEGMENT_HEAD
from e2i_serving.relay import read_books
from e2i_serving.runtime.catching_up import catch_up
from e2i_serving.settings import load_settings
from e2i_serving.testing.destinations import RecordingDestination

pytestmark = pytest.mark.usefixtures("short_pauses")


def fill(instance, count=25, name="life-1"):
    """A dead life of so many records; returns its only segment."""
    with closing(instance.open_writer(name)) as writer:
        for number in range(count):
            writer.append(instance.record(number))
    (folder,) = (folder for folder in instance.lives() if folder.life == name)
    return folder.segment(1)


def zero(segment):
    """What a loss of power leaves: the name and the length, and not the content."""
    segment.write_bytes(bytes(64 * 1024))


def spoil_head(segment):
    """Make the life at the head unreadable, and leave the frames behind it."""
    content = bytearray(segment.read_bytes())
    content[SEGMENT_HEAD.size + 40] ^= 0xFF
    segment.write_bytes(content)


@pytest.mark.parametrize(("spoil", "known"), [(zero, 0), (spoil_head, 25)])
def test_a_life_without_a_head_holds_up_nothing(instance, caplog, spoil, known):
    """It is set aside and closed, what is known of it is counted as damaged, and all else goes on."""
    segment = fill(instance)
    before = segment.read_bytes() if spoil is spoil_head else b""
    spoil(segment)
    fill(instance, 3, "life-2")
    assert instance.balanced() == (known + 3, 0, known + 3, {})
    other = RecordingDestination("other")
    instance.relay(instance.store, other).run(once=True)
    assert instance.store.ids == other.ids == instance.names(3)
    assert instance.lives() == []
    lost = {"damaged": known} if known else {}
    for book in read_books(instance.data_dir):
        assert (book.accepted, book.stored, book.pending, dict(book.dropped)) == (known + 3, 3, 0, lost)
        assert book.balanced
    assert instance.ledger.is_closed("life-1")
    aside = instance.data_dir / "journal" / ".damaged-life-1"
    assert len((aside / segment.name).read_bytes()) == len(before.rstrip(b"\0"))
    assert [str(aside) in record.message for record in caplog.records if "set aside" in record.message] == [True]
    instance.relay(instance.store, other).run(once=True)
    assert instance.store.ids == instance.names(3)


@pytest.mark.parametrize(("spoil", "known"), [(zero, 10), (spoil_head, 25)])
def test_what_was_delivered_of_it_stays_delivered(instance, spoil, known):
    """Only what a destination lacks is lost to it."""
    segment = fill(instance)
    instance.relay(batch_size=10).round()
    spoil(segment)
    instance.relay(batch_size=10).run(once=True)
    assert instance.store.ids == instance.names(10)
    assert instance.balanced() == (known, 10, 0, {"damaged": known - 10} if known > 10 else {})


def test_what_was_set_aside_counts_as_disk_that_is_taken(instance):
    """It is the instance's journal that holds it, until someone removes it."""
    spoil_head(fill(instance, 200))
    room = JournalRoom(instance.data_dir / "journal", 2**30)
    instance.relay().run(once=True)
    aside = instance.data_dir / "journal" / ".damaged-life-1"
    taken = sum(path.stat().st_blocks * 512 for path in aside.iterdir())
    assert room.taken() == taken > 0


def test_who_waits_for_all_to_be_delivered_does_not_wait_for_it(instance):
    """An erasure, for one, has a relay set it aside and goes on."""
    zero(fill(instance))
    settings = load_settings({"data_dir": str(instance.data_dir)}).settings
    assert catch_up(instance.data_dir, 0.0) == 1
    assert catch_up(instance.data_dir, 60.0, settings=settings) == 0
    assert os.listdir(instance.data_dir / "journal") == [".damaged-life-1"]  # noqa: PTH208  # hidden ones too


def test_a_newer_releases_segment_is_not_damaged(instance):
    """A segment of a later version of the format waits for who can read it."""
    segment = fill(instance)
    content = bytearray(segment.read_bytes())
    content[7] = 2
    segment.write_bytes(content)
    instance.relay().run(once=True)
    assert [folder.life for folder in instance.lives()] == ["life-1"]
    assert segment.read_bytes() == content
