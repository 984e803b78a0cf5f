"""Waiting for what is journaled to be delivered."""

from __future__ import annotations

from contextlib import closing

import pytest

from e2i_serving.journal import list_lives
from e2i_serving.relay import RelayLock
from e2i_serving.runtime.catching_up import await_store, catch_up
from e2i_serving.settings import load_settings


@pytest.fixture
def data_dir(instance):
    """A data directory in whose journal two records of a dead worker wait."""
    with closing(instance.open_writer("life-1")) as writer:
        for number in range(2):
            writer.append(instance.record(number))
    return instance.data_dir


def test_nobody_waits_where_no_relay_runs(data_dir):
    """A reader is told at once how much is on its way, and does nothing about it."""
    assert catch_up(data_dir, 60.0) == 1
    await_store(data_dir)


def test_a_relay_is_run_where_none_does(data_dir):
    """Whoever must have everything delivered gives settings to run one by, and waits no longer than needed."""
    settings = load_settings({"data_dir": str(data_dir)}).settings
    assert catch_up(data_dir, 60.0, settings=settings) == 0
    assert catch_up(data_dir, 0.0) == 0


def test_a_relay_that_gets_nowhere_is_not_waited_for_longer(data_dir):
    """The bound holds while a relay runs that delivers nothing."""
    with RelayLock(data_dir) as lock:
        assert lock.acquire()
        assert catch_up(data_dir, 0.2) == 1


def test_a_reader_is_not_kept_from_the_store_by_a_journal_it_can_not_read(data_dir, journal, caplog):
    """What can't be told is logged, and what is stored can be read."""
    journal.only_folder(data_dir / "journal").segment(1).write_bytes(b"E2IJRNL\x02" * 100)
    with RelayLock(data_dir) as lock:
        assert lock.acquire()
        await_store(data_dir)
    assert "can't be told" in caplog.text


def test_a_reader_does_not_read_journals_that_nobody_delivers(data_dir, journal, caplog):
    """Where no relay runs there is nothing to wait for, however much is journaled."""
    journal.only_folder(data_dir / "journal").segment(1).write_bytes(b"E2IJRNL\x02" * 100)
    await_store(data_dir)
    assert caplog.text == ""


def test_no_more_is_read_of_a_journal_than_there_is_time_for(instance):
    """When the time is over a life counts as not delivered, and the rest of it is not looked at."""
    with closing(instance.open_writer()) as writer:
        for number in range(20):
            writer.append(instance.record(number, 1_000_000))
    (folder,) = list_lives(instance.data_dir / "journal")
    for number in folder.segments()[-3:]:
        folder.segment(number).unlink()
        folder.segment(number).mkdir()
    with pytest.raises(IsADirectoryError):
        catch_up(instance.data_dir, 60.0)
    assert catch_up(instance.data_dir, 0.0) == 1
