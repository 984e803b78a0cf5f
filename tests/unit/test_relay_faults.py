"""The relay when something fails: stores, ledgers, disks and journals that are not what they should be."""

from __future__ import annotations

import logging
import struct
import zlib
from contextlib import closing
from typing import Any

import pytest

from e2i_serving.journal import FrameKind, LifeFolder
from e2i_serving.journal.frame import CHECKED_FROM, FRAME_HEAD, encode_into
from e2i_serving.record import Entry, Outcome, StreamEnd
from e2i_serving.relay import BreakerState, Delivery
from e2i_serving.relay import breaker as breaker_module
from e2i_serving.testing.destinations import RecordingDestination

pytestmark = pytest.mark.usefixtures("short_pauses")


def test_a_crash_between_store_and_ledger_stores_nothing_twice(instance):
    """A relay that dies after the write hands the batch over again, and the store knows it already."""
    with closing(instance.open_writer()) as writer:
        for number in range(25):
            writer.append(instance.record(number))
    relay = instance.relay()
    relay.round()
    instance.store.dies_after_writing = True
    with pytest.raises(instance.store.ProcessDiedError):
        relay.round()
    assert instance.balanced() == (25, 10, 15, {})
    instance.store.dies_after_writing = False
    instance.relay().run(once=True)
    assert instance.store.handed == instance.names(20) + instance.names(15, 10)
    assert instance.store.ids == instance.names(25)
    assert instance.balanced() == (25, 25, 0, {})


def test_a_ledger_that_fails_leaves_the_records_for_the_next_try(instance, monkeypatch):
    """In the same process too, a batch that is not in the ledger is read again."""
    with closing(instance.open_writer()) as writer:
        for number in range(15):
            writer.append(instance.record(number))
    relay = instance.relay()
    with monkeypatch.context() as patch:
        patch.setattr(instance.ledger, "advance", _refuse)
        assert relay.round() == 0
    relay.run(once=True)
    assert instance.store.ids == instance.names(15)
    assert instance.balanced() == (15, 15, 0, {})


def _refuse(*_args: Any, **_options: Any) -> None:
    raise RuntimeError("The ledger can't be written.")


def test_an_outage_is_waited_out(instance, caplog):
    """A store that is down for a while gets everything later, once, and nothing is cleared meanwhile."""
    with closing(instance.open_writer()) as writer:
        for number in range(40):
            writer.append(instance.record(number, 3000))
    instance.store.down = 4
    relay = instance.relay(batch_size=1000)
    with caplog.at_level(logging.WARNING, "e2i_serving.relay"):
        assert relay.round() == 0
        assert len(instance.lives()[0].segments()) > 1
        assert instance.balanced() == (40, 0, 40, {})
        relay.run(once=True)
    assert [record.message.partition(",")[0] for record in caplog.records] == ["audit-store took nothing"] * 4
    assert instance.store.handed == instance.names(40)
    assert instance.balanced() == (40, 40, 0, {})


def test_pauses_grow_and_end_with_a_success(instance, monkeypatch):
    """A destination that stays down is asked less and less often, up to a bound; one success forgets it."""
    monkeypatch.setattr(breaker_module, "FIRST_PAUSE_SECONDS", 1.0)
    monkeypatch.setattr(breaker_module, "LONGEST_PAUSE_SECONDS", 8.0)
    now = [1000.0]
    monkeypatch.setattr(breaker_module.time, "monotonic", lambda: now[0])
    with closing(instance.open_writer()) as writer:
        writer.append(instance.record(1))
        (folder,) = instance.lives()
        delivery = Delivery(instance.store, instance.ledger, batch_size=10)
        assert delivery.breaker.state is BreakerState.CLOSED
        instance.store.down = 6
        pauses = []
        while instance.store.down:
            assert delivery.advance(folder, ended=False) == 0
            assert delivery.breaker.state is BreakerState.OPEN
            left = instance.store.down
            assert delivery.advance(folder, ended=False) == 0
            assert instance.store.down == left
            pauses.append(delivery.breaker._resume_at - now[0])
            now[0] = delivery.breaker._resume_at
            assert delivery.breaker.state is BreakerState.HALF_OPEN
        for pause, longest in zip(pauses, (1, 2, 4, 8, 8, 8), strict=True):
            assert longest / 2 <= pause <= longest
        assert delivery.advance(folder, ended=False) == 1
        assert delivery.breaker.state is BreakerState.CLOSED
        writer.append(instance.record(2))
        instance.store.down = 1
        delivery.advance(folder, ended=False)
        assert delivery.breaker._resume_at - now[0] <= 1


def test_a_slow_destination_holds_back_no_other(instance):
    """Each destination goes its own way, and segments stay until the last one has read them."""
    fast = RecordingDestination("fast")
    with closing(instance.open_writer()) as writer:
        for number in range(40):
            writer.append(instance.record(number, 3000))
    instance.store.down = 1
    relay = instance.relay(fast, instance.store, batch_size=1000)
    relay.round()
    assert fast.ids == instance.names(40)
    assert instance.lives()[0].segments()[0] == 1
    assert instance.store.handed == []
    relay.run(once=True)
    assert instance.store.handed == fast.ids == instance.names(40)
    assert instance.lives() == []


def test_a_destination_that_breaks_its_promise_loses_nothing(instance):
    """An error that is none of the agreed ones leaves the records where they are."""
    destination = RecordingDestination()
    answers: list[Exception] = [OSError("broken pipe"), KeyError("x")]

    def refuses(_entry: Entry) -> bool:
        if answers:
            raise answers.pop(0)
        return False

    destination.refuses = refuses
    with closing(instance.open_writer()) as writer:
        for number in range(5):
            writer.append(instance.record(number))
    instance.relay(destination).run(once=True)
    assert destination.ids == instance.names(5)
    assert len(destination.batches) == 3


def _spoil(folder: LifeFolder, which: int, *, first_byte: int | None = None, **head: int) -> None:
    """Change the head or the payload of a frame, counted from 0 behind the life's, and make its checksum fit."""
    content = bytearray(folder.segment(1).read_bytes())
    offset = 32
    for _ in range(which + 1):
        offset += FRAME_HEAD.size + struct.unpack_from("<I", content, offset)[0]
    fields = ("length", "crc", "schema", "kind", "flags", "reserved", "sequence", "ordinal")
    values = dict(zip(fields, FRAME_HEAD.unpack_from(content, offset), strict=True)) | head
    FRAME_HEAD.pack_into(content, offset, *values.values())
    if first_byte is not None:
        content[offset + FRAME_HEAD.size] = first_byte
    end = offset + FRAME_HEAD.size + values["length"]
    struct.pack_into("<I", content, offset + 4, zlib.crc32(content[offset + CHECKED_FROM : end]))
    folder.segment(1).write_bytes(content)


def test_a_frame_of_a_newer_schema_waits_for_a_newer_relay(instance, caplog):
    """What stands before it is delivered, it and what follows is kept, and the books say so."""
    with closing(instance.open_writer()) as writer:
        for number in range(5):
            writer.append(instance.record(number))
    _spoil(instance.lives()[0], 2, schema=2)
    assert instance.balanced() == (5, 0, 5, {})
    with caplog.at_level(logging.ERROR, "e2i_serving.relay"):
        instance.relay(batch_size=4).run(once=True)
    assert instance.store.handed == ["p0000", "p0001"]
    assert instance.balanced()[:2] == (5, 2)
    assert [record.message for record in caplog.records if "schema 2" in record.message]
    assert len(instance.lives()) == 1


def test_a_life_of_which_nothing_can_be_decoded_is_dropped_and_counted(instance):
    """Books balance without a single delivery."""
    with closing(instance.open_writer()) as writer:
        writer.append(instance.record(0))
        writer.append(StreamEnd("p0000", 0.2, Outcome.OK))
    _spoil(instance.lives()[0], 0, first_byte=0xC1)
    _spoil(instance.lives()[0], 1, first_byte=0xC1)
    instance.relay().run(once=True)
    assert instance.store.ids == []
    assert instance.balanced() == (1, 0, 0, {"undecodable": 1})


def test_an_unreadable_life_is_said_once_and_stops_no_other(instance, caplog):
    """A journal of a newer release stays where it is, one by a stranger is set aside; all others are delivered."""
    strange = LifeFolder(instance.data_dir / "journal" / "life-0")
    strange.path.mkdir(parents=True)
    strange.segment(1).write_bytes(b"something else entirely" * 10)
    (instance.data_dir / "journal" / "notes.txt").write_text("not a life")
    with closing(instance.open_writer()) as writer:
        writer.append(instance.record(1))
    with closing(instance.open_writer("life-2")) as writer:
        writer.append(instance.record(2))
    newer = instance.lives()[2]
    content = bytearray(newer.segment(1).read_bytes())
    frame = bytearray()
    encode_into(frame, instance.life("life-2"), FrameKind.LIFE, 0, 0)
    frame[8] = 9
    struct.pack_into("<I", frame, 4, zlib.crc32(frame[CHECKED_FROM:]))
    content[32 : 32 + len(frame)] = frame
    newer.segment(1).write_bytes(content)
    with caplog.at_level(logging.ERROR, "e2i_serving.relay"):
        relay = instance.relay()
        for _ in range(3):
            relay.round()
        relay.run(once=True)
    assert instance.store.handed == ["p0001"]
    assert [folder.life for folder in instance.lives()] == ["life-2"]
    said = [record.message for record in caplog.records]
    assert len([line for line in said if "life-0" in line]) == 2
    assert len([line for line in said if "schema 9" in line]) == 1


def test_housekeeping_that_fails_stops_no_delivery(instance, caplog):
    """A full disk below the metrics is no reason to leave audit records undelivered."""
    with closing(instance.open_writer()) as writer:
        writer.append(instance.record(1))

    def broken() -> None:
        raise OSError("No space left on device")

    relay = instance.relay(housekeeping=broken)
    with caplog.at_level(logging.ERROR, "e2i_serving.relay"):
        relay.run(once=True)
    assert instance.store.handed == ["p0001"]
    assert "housekeeping" in caplog.text
