"""The relay: each record reaches its destination once, whatever fails on the way."""

from __future__ import annotations

import logging
import os
import signal
import struct
import subprocess
import sys
import threading
import zlib
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from e2i_serving.exceptions import StoreError
from e2i_serving.journal import FrameKind, JournalWriter, LifeFolder, list_lives
from e2i_serving.journal.frame import CHECKED_FROM, FRAME_HEAD, encode_into
from e2i_serving.record import Entry, Life, Outcome, PredictionRecord, StreamEnd, Values
from e2i_serving.relay import Delivery, Ledger, Relay, RelayLock, read_books
from e2i_serving.relay import delivery as delivery_module
from e2i_serving.relay.books import AUDIT_STORE
from e2i_serving.relay.explode import explode
from e2i_serving.settings import Settings
from e2i_serving.testing.stores import InMemoryAuditStore


def life(name: str) -> Life:
    """A worker's life."""
    return Life(name, "credit", 1, os.getpid())


def record(number: int, size: int = 0) -> PredictionRecord:
    """A record with a payload of about so many bytes."""
    inputs = {"text": Values(["x" * size])} if size else {}
    return PredictionRecord(f"p{number:04d}", number, 0.1, Outcome.OK, 200, items=1, inputs=inputs)


def open_writer(data_dir: Path, name: str = "life-1") -> JournalWriter:
    """A writer with small segments."""
    return JournalWriter(data_dir / "journal", life(name), segment_bytes=64 * 1024, record_bytes=1024 * 1024)


class Store:
    """An audit store in memory that can be told to fail, and that counts how often it is asked."""

    def __init__(self) -> None:
        self.kept = InMemoryAuditStore()
        self.handed: list[str] = []
        self.down = 0
        self.dies_after_writing = False

    def take(self, entries: Sequence[Entry]) -> None:
        if self.down:
            self.down -= 1
            raise StoreError("The store is down.")
        self.handed += [entry.body.prediction_id for entry in entries]
        self.kept.write(explode(entries))
        if self.dies_after_writing:
            raise ProcessDiedError

    @property
    def ids(self) -> list[str]:
        from e2i_serving.record import PredictionFilter

        return [row["prediction_id"] for row in self.kept.predictions(PredictionFilter(), newest_first=False)]


class ProcessDiedError(BaseException):
    """Stands for the end of the process between two instructions."""


class Instance:
    """A data directory with a ledger, a store and a relay of them, as often as one is needed."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.store = Store()
        self.ledger = Ledger(data_dir)
        self.tidied = 0

    def relay(self, *, batch_size: int = 10, linger: float | None = None, **destinations: Callable[..., Any]) -> Relay:
        named = destinations or {AUDIT_STORE: self.store.take}
        return Relay(
            self.data_dir,
            [Delivery(name, take, self.ledger, batch_size=batch_size) for name, take in named.items()],
            self.ledger,
            poll_seconds=0.01,
            linger_seconds=linger,
            housekeeping=self.tidy,
        )

    def tidy(self) -> None:
        self.tidied += 1

    def lives(self) -> list[LifeFolder]:
        return list_lives(self.data_dir / "journal")

    def balanced(self) -> tuple[int, int, int, dict[str, int]]:
        (book,) = read_books(self.data_dir)
        assert book.balanced
        return book.accepted, book.stored, book.pending, dict(book.dropped)


@pytest.fixture
def instance(tmp_path):
    """An instance whose relay has not run."""
    made = Instance(tmp_path)
    with closing(made.ledger):
        yield made


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    """A destination that is down is asked again soon."""
    monkeypatch.setattr(delivery_module, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(delivery_module, "LONGEST_PAUSE_SECONDS", 0.05)


def names(count: int, start: int = 0) -> list[str]:
    """The ids of records by number."""
    return [f"p{number:04d}" for number in range(start, start + count)]


def test_a_dead_life_is_delivered_closed_and_removed(instance):
    """All records arrive in order and once, in batches, and then the folder goes."""
    with closing(open_writer(instance.data_dir)) as writer:
        for number in range(57):
            writer.append(record(number, 3000))
    instance.relay().run(once=True)
    assert instance.store.handed == instance.store.ids == names(57)
    assert instance.lives() == []
    assert instance.ledger.is_closed("life-1")
    assert instance.balanced() == (57, 57, 0, {})
    assert instance.tidied >= 1


def test_a_live_life_is_followed_and_its_segments_cleared(instance):
    """While a worker lives its records arrive, segments that are done with go, and its folder stays."""
    relay = instance.relay()
    with closing(open_writer(instance.data_dir)) as writer:
        for number in range(120):
            writer.append(record(number, 3000))
            relay.round()
            assert len(instance.lives()[0].segments()) <= 2
        assert writer._number > 3
        relay.run(once=True)
        assert instance.store.handed == names(120)
        assert [folder.life for folder in instance.lives()] == ["life-1"]
        assert not instance.ledger.is_closed("life-1")
        assert instance.balanced() == (120, 120, 0, {})
    relay.run(once=True)
    assert instance.lives() == []
    assert instance.ledger.is_closed("life-1")
    assert instance.store.handed == names(120)


def test_several_lives_are_delivered_side_by_side(instance):
    """The dead and the living of an instance all get their turn, none waits for another to be done."""
    first, second, third = (open_writer(instance.data_dir, f"life-{number}") for number in (1, 2, 3))
    for number in range(30):
        (first, second, third)[number % 3].append(record(number))
    first.close()
    relay = instance.relay(batch_size=4)
    assert relay.round() == 12
    relay.run(once=True)
    assert sorted(instance.store.handed) == names(30)
    assert [folder.life for folder in instance.lives()] == ["life-2", "life-3"]
    second.close()
    third.close()
    relay.run(once=True)
    assert instance.lives() == []
    assert instance.balanced() == (30, 30, 0, {})


def test_a_crash_between_store_and_ledger_stores_nothing_twice(instance):
    """A relay that dies after the write hands the batch over again, and the store knows it already."""
    with closing(open_writer(instance.data_dir)) as writer:
        for number in range(25):
            writer.append(record(number))
    relay = instance.relay()
    relay.round()
    instance.store.dies_after_writing = True
    with pytest.raises(ProcessDiedError):
        relay.round()
    assert instance.balanced() == (25, 10, 15, {})
    instance.store.dies_after_writing = False
    instance.relay().run(once=True)
    assert instance.store.handed == names(20) + names(15, 10)
    assert instance.store.ids == names(25)
    assert instance.balanced() == (25, 25, 0, {})


def test_a_ledger_that_fails_leaves_the_records_for_the_next_try(instance, monkeypatch):
    """In the same process too, a batch that is not in the ledger is read again."""
    with closing(open_writer(instance.data_dir)) as writer:
        for number in range(15):
            writer.append(record(number))
    relay = instance.relay()
    with monkeypatch.context() as patch:
        patch.setattr(instance.ledger, "advance", _refuse)
        with pytest.raises(RuntimeError, match="ledger"):
            relay.round()
    relay.run(once=True)
    assert instance.store.ids == names(15)
    assert instance.balanced() == (15, 15, 0, {})


def _refuse(*_args: Any, **_options: Any) -> None:
    raise RuntimeError("The ledger can't be written.")


def test_an_outage_is_waited_out(instance, caplog):
    """A store that is down for a while gets everything later, once, and nothing is cleared meanwhile."""
    with closing(open_writer(instance.data_dir)) as writer:
        for number in range(40):
            writer.append(record(number, 3000))
    instance.store.down = 4
    relay = instance.relay(batch_size=1000)
    with caplog.at_level(logging.WARNING, "e2i_serving.relay"):
        assert relay.round() == 0
        assert len(instance.lives()[0].segments()) > 1
        assert instance.balanced() == (40, 0, 40, {})
        relay.run(once=True)
    assert [record.message.partition(",")[0] for record in caplog.records] == ["audit-store took nothing"] * 4
    assert instance.store.handed == names(40)
    assert instance.balanced() == (40, 40, 0, {})


def test_pauses_grow_and_end_with_a_success(instance, monkeypatch):
    """A destination that stays down is asked less and less often, up to a bound; one success forgets it."""
    monkeypatch.setattr(delivery_module, "FIRST_PAUSE_SECONDS", 1.0)
    monkeypatch.setattr(delivery_module, "LONGEST_PAUSE_SECONDS", 8.0)
    now = [1000.0]
    monkeypatch.setattr(delivery_module.time, "monotonic", lambda: now[0])
    with closing(open_writer(instance.data_dir)) as writer:
        writer.append(record(1))
        (folder,) = instance.lives()
        delivery = Delivery(AUDIT_STORE, instance.store.take, instance.ledger, batch_size=10)
        instance.store.down = 6
        pauses = []
        while instance.store.down:
            assert delivery.advance(folder, ended=False) == 0
            assert delivery.paused
            left = instance.store.down
            assert delivery.advance(folder, ended=False) == 0
            assert instance.store.down == left
            pauses.append(delivery._resume_at - now[0])
            now[0] = delivery._resume_at
        for pause, longest in zip(pauses, (1, 2, 4, 8, 8, 8), strict=True):
            assert longest / 2 <= pause <= longest
        assert delivery.advance(folder, ended=False) == 1
        writer.append(record(2))
        instance.store.down = 1
        delivery.advance(folder, ended=False)
        assert delivery._resume_at - now[0] <= 1


def test_a_slow_destination_holds_back_no_other(instance):
    """Each destination goes its own way, and segments stay until the last one has read them."""
    fast: list[str] = []
    with closing(open_writer(instance.data_dir)) as writer:
        for number in range(40):
            writer.append(record(number, 3000))
    instance.store.down = 1
    relay = instance.relay(
        batch_size=1000,
        fast=lambda entries: fast.extend(e.body.prediction_id for e in entries),
        slow=instance.store.take,
    )
    relay.round()
    assert fast == names(40)
    assert instance.lives()[0].segments()[0] == 1
    assert instance.store.handed == []
    relay.run(once=True)
    assert instance.store.handed == fast == names(40)
    assert instance.lives() == []


def test_a_destination_that_breaks_its_promise_loses_nothing(instance):
    """An error that is none of the agreed ones leaves the records where they are."""
    answers: list[Exception | None] = [OSError("broken pipe"), None]
    taken: list[str] = []

    def take(entries: Sequence[Entry]) -> None:
        if error := answers.pop(0):
            raise error
        taken.extend(entry.body.prediction_id for entry in entries)

    with closing(open_writer(instance.data_dir)) as writer:
        for number in range(5):
            writer.append(record(number))
        relay = instance.relay(store=take)
        relay.round()
        relay.round()
    assert taken == names(5)


def test_stream_ends_reach_their_record(instance):
    """A stream's start and end arrive in order, even in batches of their own."""
    with closing(open_writer(instance.data_dir)) as writer:
        writer.append(PredictionRecord("p1", 1, 0.1, Outcome.INTERRUPTED, 200))
        writer.append(PredictionRecord("p2", 2, 0.1, Outcome.INTERRUPTED, 200))
        writer.append(StreamEnd("p1", 0.9, Outcome.OK, 77))
    instance.relay(batch_size=1).run(once=True)
    from e2i_serving.record import PredictionFilter

    rows = {row["prediction_id"]: row for row in instance.store.kept.predictions(PredictionFilter())}
    assert (rows["p1"]["outcome"], rows["p1"]["response_bytes"], rows["p1"]["duration"]) == ("ok", 77, 0.9)
    assert rows["p2"]["outcome"] == "interrupted"
    assert instance.balanced() == (2, 2, 0, {})


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
    with closing(open_writer(instance.data_dir)) as writer:
        for number in range(5):
            writer.append(record(number))
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
    with closing(open_writer(instance.data_dir)) as writer:
        writer.append(record(0))
        writer.append(StreamEnd("p0000", 0.2, Outcome.OK))
    _spoil(instance.lives()[0], 0, first_byte=0xC1)
    _spoil(instance.lives()[0], 1, first_byte=0xC1)
    instance.relay().run(once=True)
    assert instance.store.handed == []
    assert instance.balanced() == (1, 0, 0, {"undecodable": 1})


def test_an_unreadable_life_is_said_once_and_stops_no_other(instance, caplog):
    """A journal written by a stranger, or by a newer release, stays where it is; all others are delivered."""
    strange = LifeFolder(instance.data_dir / "journal" / "life-0")
    strange.path.mkdir(parents=True)
    strange.segment(1).write_bytes(b"something else entirely" * 10)
    (instance.data_dir / "journal" / "notes.txt").write_text("not a life")
    with closing(open_writer(instance.data_dir)) as writer:
        writer.append(record(1))
    with closing(open_writer(instance.data_dir, "life-2")) as writer:
        writer.append(record(2))
    newer = instance.lives()[2]
    content = bytearray(newer.segment(1).read_bytes())
    frame = bytearray()
    encode_into(frame, life("life-2"), FrameKind.LIFE, 0, 0)
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
    assert [folder.life for folder in instance.lives()] == ["life-0", "life-2"]
    said = [record.message for record in caplog.records]
    assert len(said) == 2
    assert "life-0" in said[0]
    assert "schema 9" in said[1]


@pytest.mark.parametrize("folder_has", ["nothing", "lock"])
def test_a_life_that_never_began_is_removed(instance, folder_has):
    """A worker that died before its first segment leaves nothing to wait for."""
    folder = instance.data_dir / "journal" / "life-1"
    folder.mkdir(parents=True)
    if folder_has == "lock":
        (folder / "lock").write_text("")
    instance.relay().run(once=True)
    assert instance.lives() == []
    assert instance.balanced() == (0, 0, 0, {})


def test_housekeeping_that_fails_stops_no_delivery(instance, caplog):
    """A full disk below the metrics is no reason to leave audit records undelivered."""
    with closing(open_writer(instance.data_dir)) as writer:
        writer.append(record(1))

    def broken() -> None:
        raise OSError("No space left on device")

    relay = Relay(
        instance.data_dir,
        [Delivery(AUDIT_STORE, instance.store.take, instance.ledger, batch_size=1)],
        instance.ledger,
        poll_seconds=0.01,
        linger_seconds=None,
        housekeeping=broken,
    )
    with caplog.at_level(logging.ERROR, "e2i_serving.relay"):
        relay.run(once=True)
    assert instance.store.handed == ["p0001"]
    assert "housekeeping" in caplog.text


def test_a_relay_of_nobody_ends_by_itself(instance):
    """Once no worker lives, a lingering relay delivers the rest and goes."""
    writer = open_writer(instance.data_dir)
    writer.append(record(1))
    done = threading.Event()
    ledger_path = instance.data_dir

    def run() -> None:
        with closing(Ledger(ledger_path)) as ledger:
            Relay(
                ledger_path,
                [Delivery(AUDIT_STORE, instance.store.take, ledger, batch_size=10)],
                ledger,
                poll_seconds=0.01,
                linger_seconds=0.05,
                housekeeping=lambda: None,
            ).run()
        done.set()

    thread = threading.Thread(target=run)
    thread.start()
    writer.append(record(2))
    assert not done.is_set()
    writer.close()
    thread.join(30)
    assert done.is_set()
    assert instance.store.handed == names(2, 1)


def test_a_stopped_relay_delivers_what_dead_lives_left(instance):
    """Asked to stop, it first deals with everything that no worker adds to."""
    with closing(open_writer(instance.data_dir)) as writer:
        for number in range(35):
            writer.append(record(number))
    relay = instance.relay()
    relay.stop(30)
    relay.run()
    assert instance.store.handed == names(35)


def test_a_relay_stops_at_its_deadline(instance):
    """While a store is down, a relay that must end does, and the records stay in the journal."""
    with closing(open_writer(instance.data_dir)) as writer:
        writer.append(record(1))
    instance.store.down = 1_000_000
    relay = instance.relay()
    relay.stop(0.1)
    relay.run()
    assert instance.balanced() == (1, 0, 1, {})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_relay_process_delivers_and_ends(tmp_path, number, eventually):
    """As a process of its own it stores what a worker journaled, ends when asked, and begins again after a kill."""
    from e2i_serving.record import PredictionFilter
    from e2i_serving.stores.engine import sqlite_url
    from e2i_serving.stores.query import SqlAuditQuery

    def stored() -> int:
        try:
            with closing(SqlAuditQuery(sqlite_url(tmp_path / "audit.db"))) as query:
                return query.count(PredictionFilter())
        except StoreError:
            return -1

    environment = {**os.environ, "E2I_SERVING_DATA_DIR": str(tmp_path), "E2I_SERVING_RELAY_SHUTDOWN_SECONDS": "0"}
    command = [sys.executable, "-m", "e2i_serving.runtime.relay_process"]
    with closing(open_writer(tmp_path)) as writer:
        writer.append(record(1))
        process = subprocess.Popen(command, env=environment, cwd=tmp_path)
        eventually(lambda: stored() == 1, what="the first record in the store")
        assert RelayLock(tmp_path).holder() == process.pid
        assert subprocess.run(command, env=environment, cwd=tmp_path, check=False).returncode == 0
        process.send_signal(number)
        assert process.wait(60) == (0 if number == signal.SIGTERM else -signal.SIGKILL)
        assert RelayLock(tmp_path).holder() is None
        writer.append(record(2))
    from e2i_serving.runtime.relay_process import run_relay

    assert run_relay(Settings(), tmp_path, once=True)
    assert stored() == 2
    (book,) = read_books(tmp_path)
    assert (book.accepted, book.stored, book.balanced) == (2, 2, True)
    assert list_lives(tmp_path / "journal") == []
