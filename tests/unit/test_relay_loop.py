"""The relay: each record reaches its destination once, whatever fails on the way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from contextlib import closing

import pytest

from e2i_serving.exceptions import StoreError
from e2i_serving.journal import list_lives
from e2i_serving.record import Outcome, PredictionFilter, PredictionRecord, StreamEnd
from e2i_serving.relay import Delivery, Ledger, Relay, RelayLock, read_books
from e2i_serving.settings import Settings, keep_settings, load_settings

pytestmark = pytest.mark.usefixtures("short_pauses")


def test_a_dead_life_is_delivered_closed_and_removed(instance):
    """All records arrive in order and once, in batches, and then the folder goes."""
    with closing(instance.open_writer()) as writer:
        for number in range(57):
            writer.append(instance.record(number, 3000))
    instance.relay().run(once=True)
    assert instance.store.handed == instance.store.ids == instance.names(57)
    assert instance.lives() == []
    assert instance.ledger.is_closed("life-1")
    assert instance.balanced() == (57, 57, 0, {})
    assert instance.tidied >= 1


def test_a_live_life_is_followed_and_its_segments_cleared(instance):
    """While a worker lives its records arrive, segments that are done with go, and its folder stays."""
    relay = instance.relay()
    with closing(instance.open_writer()) as writer:
        for number in range(120):
            writer.append(instance.record(number, 3000))
            relay.round()
            assert len(instance.lives()[0].segments()) <= 2
        assert instance.lives()[0].segments()[-1] > 3
        relay.run(once=True)
        assert instance.store.handed == instance.names(120)
        assert [folder.life for folder in instance.lives()] == ["life-1"]
        assert not instance.ledger.is_closed("life-1")
        assert instance.balanced() == (120, 120, 0, {})
    relay.run(once=True)
    assert instance.lives() == []
    assert instance.ledger.is_closed("life-1")
    assert instance.store.handed == instance.names(120)


def test_several_lives_are_delivered_side_by_side(instance):
    """The dead and the living of an instance all get their turn, none waits for another to be done."""
    first, second, third = (instance.open_writer(f"life-{number}") for number in (1, 2, 3))
    for number in range(30):
        (first, second, third)[number % 3].append(instance.record(number))
    first.close()
    relay = instance.relay(batch_size=4)
    assert relay.round() == 12
    relay.run(once=True)
    assert sorted(instance.store.handed) == instance.names(30)
    assert [folder.life for folder in instance.lives()] == ["life-2", "life-3"]
    second.close()
    third.close()
    relay.run(once=True)
    assert instance.lives() == []
    assert instance.balanced() == (30, 30, 0, {})


def test_stream_ends_reach_their_record(instance):
    """A stream's start and end arrive in order, even in batches of their own."""
    with closing(instance.open_writer()) as writer:
        writer.append(PredictionRecord("p1", 1, 0.1, Outcome.INTERRUPTED, 200))
        writer.append(PredictionRecord("p2", 2, 0.1, Outcome.INTERRUPTED, 200))
        writer.append(StreamEnd("p1", 0.9, Outcome.OK, 77))
    instance.relay(batch_size=1).run(once=True)
    rows = {row["prediction_id"]: row for row in instance.store.kept.predictions(PredictionFilter())}
    assert (rows["p1"]["outcome"], rows["p1"]["response_bytes"], rows["p1"]["duration"]) == ("ok", 77, 0.9)
    assert rows["p2"]["outcome"] == "interrupted"
    assert instance.balanced() == (2, 2, 0, {})


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


def test_a_relay_of_nobody_ends_by_itself(instance):
    """Once no worker lives, a lingering relay delivers the rest and goes."""
    writer = instance.open_writer()
    writer.append(instance.record(1))
    done = threading.Event()
    ledger_path = instance.data_dir

    def run() -> None:
        with closing(Ledger(ledger_path)) as ledger:
            Relay(
                ledger_path,
                [Delivery(instance.store, ledger, batch_size=10)],
                ledger,
                poll_seconds=0.01,
                linger_seconds=0.05,
                housekeeping=lambda: None,
            ).run()
        done.set()

    thread = threading.Thread(target=run)
    thread.start()
    writer.append(instance.record(2))
    assert not done.is_set()
    writer.close()
    thread.join(30)
    assert done.is_set()
    assert instance.store.handed == instance.names(2, 1)


def test_a_relay_of_several_destinations_ends_by_itself(instance):
    """Though they never look for more at the same time."""

    class Other(type(instance.store)):
        name = "other"

        def tick(self) -> None:
            threading.Event().wait(0.13)

    with closing(instance.open_writer()) as writer:
        writer.append(instance.record(1))
    with closing(Ledger(instance.data_dir)) as ledger:
        relay = Relay(
            instance.data_dir,
            [Delivery(store, ledger, batch_size=10) for store in (instance.store, Other())],
            ledger,
            poll_seconds=0.1,
            linger_seconds=0.05,
            housekeeping=lambda: None,
        )
        thread = threading.Thread(target=relay.run)
        thread.start()
        thread.join(20)
        has_ended = not thread.is_alive()
        relay.stop(0.0)
        thread.join()
    assert has_ended
    assert instance.store.handed == instance.names(1, 1)


def test_a_stopped_relay_delivers_what_dead_lives_left(instance):
    """Asked to stop, it first deals with everything that no worker adds to."""
    with closing(instance.open_writer()) as writer:
        for number in range(35):
            writer.append(instance.record(number))
    relay = instance.relay()
    relay.stop(30)
    relay.run()
    assert instance.store.handed == instance.names(35)


def test_a_relay_stops_at_its_deadline(instance):
    """While a store is down, a relay that must end does, and the records stay in the journal."""
    with closing(instance.open_writer()) as writer:
        writer.append(instance.record(1))
    instance.store.down = 1_000_000
    relay = instance.relay()
    relay.stop(0.1)
    relay.run()
    assert instance.balanced() == (1, 0, 1, {})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_the_relay_process_delivers_and_ends(tmp_path, number, eventually, journal):
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
    with closing(journal.open_writer(tmp_path / "journal")) as writer:
        writer.append(journal.record(1))
        process = subprocess.Popen(command, env=environment, cwd=tmp_path)
        eventually(lambda: stored() == 1, what="the first record in the store")
        assert RelayLock(tmp_path).holder() == process.pid
        assert subprocess.run(command, env=environment, cwd=tmp_path, check=False).returncode == 0
        process.send_signal(number)
        assert process.wait(60) == (0 if number == signal.SIGTERM else -signal.SIGKILL)
        assert RelayLock(tmp_path).holder() is None
        writer.append(journal.record(2))
    from e2i_serving.runtime.relay_process import run_relay

    assert run_relay(Settings(), tmp_path, once=True)
    assert stored() == 2
    (book,) = read_books(tmp_path)
    assert (book.accepted, book.stored, book.balanced) == (2, 2, True)
    assert list_lives(tmp_path / "journal") == []


def test_a_relay_ends_when_a_server_begins_with_other_settings(tmp_path, eventually):
    """So that workers start one that knows what was added; the same settings again change nothing."""
    before, after = (load_settings({"environment": name}) for name in ("test", "production"))
    environment = {
        **os.environ,
        "E2I_SERVING_DATA_DIR": str(tmp_path),
        "E2I_SERVING_RELAY_LINGER_SECONDS": "3600",
    }
    keep_settings(before, tmp_path)
    process = subprocess.Popen([sys.executable, "-m", "e2i_serving.runtime.relay_process"], env=environment)
    eventually(lambda: RelayLock(tmp_path).holder() == process.pid, what="the relay to begin")
    eventually((tmp_path / "ledger.db").exists, what="the relay to be at work")
    keep_settings(before, tmp_path)
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(1)
    keep_settings(after, tmp_path)
    assert process.wait(60) == 0
