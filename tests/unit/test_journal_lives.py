"""The lives in a journal: each made once, told dead from alive by its lock, and removed whole."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import pytest

from e2i_serving.exceptions import JournalError
from e2i_serving.journal import list_lives, new_life_id
from e2i_serving.journal.frame import SEGMENT_HEAD, parse


def test_a_journal_that_can_not_be_made_says_where(tmp_path, journal):
    """A file in the journal's place is an error that names it and what to do."""
    (tmp_path / "journal").write_text("")
    with pytest.raises(JournalError, match=r"No journal can be made in .*journal.* set data_dir"):
        journal.open_writer(tmp_path / "journal")


def test_a_life_is_made_once(tmp_path, journal):
    """Two writers of one life are refused, and lives stand in the order of their making."""
    names = [new_life_id() for _ in range(3)]
    writers = [journal.open_writer(tmp_path, name) for name in names]
    assert [folder.life for folder in list_lives(tmp_path)] == names
    with pytest.raises(JournalError):
        journal.open_writer(tmp_path, names[0])
    for writer in writers:
        writer.close()


def test_the_way_to_a_life_survives_a_loss_of_power(tmp_path, monkeypatch, journal):
    """What is promised to be on the disk is found there: in a folder whose name is on it, as are those above."""
    synced: list[int] = []
    fsync = os.fsync

    def noted(fd: int) -> None:
        fsync(fd)
        synced.append(os.fstat(fd).st_ino)

    monkeypatch.setattr(os, "fsync", noted)
    data_dir = tmp_path / "new" / "data"
    with closing(journal.open_writer(data_dir / "journal", power_loss=True)) as writer:
        way = (writer.folder.path, data_dir / "journal", data_dir, data_dir.parent, tmp_path)
        assert {folder.stat().st_ino for folder in way} <= set(synced)
    synced.clear()
    with closing(journal.open_writer(data_dir / "journal", "life-2")):
        assert synced == []


def test_a_lock_tells_the_living_from_the_dead(tmp_path, journal):
    """Alive while the writer is open, here as from another process; inherited after."""
    writer = journal.open_writer(tmp_path)
    folder = journal.only_folder(tmp_path)
    ask = (
        "import sys; from pathlib import Path; from e2i_serving.journal import LifeFolder; "
        "print(LifeFolder(Path(sys.argv[1])).alive())"
    )

    def asked() -> str:
        done = subprocess.run([sys.executable, "-c", ask, str(folder.path)], capture_output=True, text=True, check=True)
        return done.stdout.strip()

    assert folder.alive()
    assert asked() == "True"
    with folder.inherit() as inherited:
        assert not inherited
    writer.close()
    assert not folder.alive()
    assert asked() == "False"
    with folder.inherit() as inherited:
        assert inherited
        lock = os.open(folder.path / "lock", os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(lock)


def test_a_folder_without_a_lock_is_dead(tmp_path, journal):
    """A life whose folder is half removed is no longer alive."""
    (tmp_path / "life-1").mkdir()
    folder = journal.only_folder(tmp_path)
    assert not folder.alive()
    assert folder.segments() == []
    assert journal.read_all(folder)[0] == []
    folder.remove()
    folder.remove()
    assert list_lives(tmp_path) == []
    assert journal.read_all(folder)[0] == []


def test_only_folders_are_lives(tmp_path):
    """A journal that is not there has no lives, and a stray file in one is not taken for a life."""
    assert list_lives(tmp_path / "none") == []
    (tmp_path / "notes.txt").write_text("")
    (tmp_path / ".life-0").mkdir()
    assert list_lives(tmp_path) == []


def test_the_first_frame_of_each_segment_says_whose_it_is(tmp_path, journal):
    """Any segment alone tells the life, and how many predictions came before it."""
    with closing(journal.open_writer(tmp_path)) as writer:
        for number in range(40):
            writer.append(journal.record(number, 4000))
    folder = journal.only_folder(tmp_path)
    before = []
    for number in folder.segments():
        parsed = parse(folder.segment(number).read_bytes(), SEGMENT_HEAD.size)
        assert parsed is not None
        assert parsed[0].decode() == journal.life()
        assert parsed[0].sequence == parsed[0].ordinal
        before.append(parsed[0].ordinal)
    assert before[0] == 0
    assert before == sorted(set(before))


def test_a_journal_that_can_not_be_begun_leaves_nothing(tmp_path, journal):
    """A life without room for its first segment leaves no folder, lock or open file, however often it is tried."""
    open_files = Path("/proc/self/fd")
    before = len(list(open_files.iterdir())) if open_files.exists() else 0
    for _ in range(3):
        with pytest.raises(JournalError, match="No segment can be made"):
            journal.open_writer(tmp_path, new_life_id(), segment_bytes=2**62)
    with closing(journal.open_writer(tmp_path)) as writer:
        (tmp_path / "life-1").rename(tmp_path / "life-2")
        (tmp_path / "life-1").write_text("in the way")
        with pytest.raises(JournalError, match="No journal can be made"):
            journal.open_writer(tmp_path)
        assert writer.records == 0
        (tmp_path / "life-2").rename(tmp_path / "elsewhere")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["elsewhere", "life-1"]
    assert before == (len(list(open_files.iterdir())) if before else 0)
