"""The journal: what was appended is there, whatever becomes of the process that appended it."""

from __future__ import annotations

import asyncio
import errno
import multiprocessing
import os
import signal
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from e2i_serving.journal import FrameKind, JournalReader
from e2i_serving.journal.writer import TOO_LARGE
from e2i_serving.record import Outcome, PredictionRecord, StreamEnd, Values

MIB = 1024 * 1024

APPENDING = """
import os, sys
from pathlib import Path
from e2i_serving.journal import JournalWriter
from e2i_serving.record import Life, Outcome, PredictionRecord

writer = JournalWriter(Path(sys.argv[1]), Life("life-1", "credit", 1, 1), segment_bytes=65536, record_bytes=65536)
for number in range(int(sys.argv[2])):
    writer.append(PredictionRecord(f"p{number}", number, 0.1, Outcome.OK, 200, request_id="x" * 500))
print("appended", flush=True)
if sys.argv[3] == "exit":
    os._exit(3)
sys.stdin.read()
"""


@pytest.mark.parametrize("how", ["kill", "exit"])
def test_what_was_appended_survives_the_process(tmp_path, how, journal):
    """Neither SIGKILL nor a hard exit loses a frame, in any segment, and the life is seen to be over."""
    process = subprocess.Popen(
        [sys.executable, "-c", APPENDING, str(tmp_path), "300", how],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "appended\n"
        folder = journal.only_folder(tmp_path)
        if how == "kill":
            assert folder.alive()
            process.kill()
        process.communicate()
    assert not folder.alive()
    assert len(folder.segments()) > 1
    frames, reader = journal.read_all(folder)
    assert journal.ids(frames) == [f"p{number}" for number in range(300)]
    assert reader.torn == 0
    assert reader.position.ordinal == 300


def test_what_was_appended_survives_a_forked_child(tmp_path, journal):
    """A forked child that appends and dies leaves its frames to its parent."""
    child = multiprocessing.get_context("fork").Process(target=_append_and_die, args=(journal, tmp_path))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    frames, _ = journal.read_all(journal.only_folder(tmp_path))
    assert journal.ids(frames) == ["p0", "p1", "p2"]


def _append_and_die(journal: Any, folder: Path) -> None:
    writer = journal.open_writer(folder)
    for number in range(3):
        writer.append(journal.record(number))
    os.kill(os.getpid(), signal.SIGKILL)


def test_frames_are_numbered_from_one(tmp_path, journal):
    """Sequence counts frames, ordinal counts predictions; the end of a stream has the first and not the second."""
    with closing(journal.open_writer(tmp_path)) as writer:
        writer.append(journal.record(1))
        writer.append(StreamEnd("p1", 0.2, Outcome.OK))
        writer.append(journal.record(2))
        assert writer.records == 2
        frames, reader = journal.read_all(journal.only_folder(tmp_path))
    assert [(frame.kind, frame.sequence, frame.ordinal) for frame in frames] == [
        (FrameKind.RECORD, 1, 1),
        (FrameKind.STREAM_END, 2, 1),
        (FrameKind.RECORD, 3, 2),
    ]
    assert reader.life == journal.life()


def test_a_large_record_keeps_its_ids_and_no_payload(tmp_path, journal):
    """Above the bound, payload goes and says so, ids, outcome and sizes stay, and the order goes on."""
    body = PredictionRecord(
        "p1",
        5,
        0.1,
        Outcome.OK,
        200,
        request_id="r1",
        labels={"brand": "north"},
        items=1,
        inputs={"text": Values(["x" * 9000])},
        attributes={"note": "y" * 9000},
        request_bytes=9100,
        redactions=("ssn",),
    )
    with closing(journal.open_writer(tmp_path, record_bytes=4096)) as writer:
        writer.append(body)
        writer.append(journal.record(2))
    frames, _ = journal.read_all(journal.only_folder(tmp_path))
    kept = frames[0].decode()
    assert isinstance(kept, PredictionRecord)
    assert (kept.prediction_id, kept.request_id, kept.outcome, kept.status) == ("p1", "r1", Outcome.OK, 200)
    assert (kept.labels, kept.items, kept.request_bytes) == ({"brand": "north"}, 1, 9100)
    assert (kept.inputs, kept.attributes) == ({}, {})
    assert kept.redactions == ("ssn", TOO_LARGE)
    assert journal.ids(frames) == ["p1", "p2"]


def test_a_frame_larger_than_a_segment_gets_one_of_its_own_size(tmp_path, journal):
    """Record and segment have bounds of their own; both kinds of record are read back."""
    with closing(journal.open_writer(tmp_path)) as writer:
        writer.append(journal.record(1))
        writer.append(journal.record(2, 3 * MIB))
        writer.append(journal.record(3))
    frames, reader = journal.read_all(journal.only_folder(tmp_path))
    assert journal.ids(frames) == ["p1", "p2", "p3"]
    assert len(frames[1].payload) > 3 * MIB
    assert reader.torn == 0


def test_segments_are_preallocated_and_cut_when_done(tmp_path, journal):
    """A segment has its full size while it is written to, and its data's once it is not."""
    writer = journal.open_writer(tmp_path)
    folder = journal.only_folder(tmp_path)
    assert folder.segment(1).stat().st_size == 64 * 1024
    while folder.segments() == [1]:
        writer.append(journal.record(1, 2000))
    data = folder.segment(1).read_bytes()
    assert len(data) < 64 * 1024
    assert data[-1] != 0
    assert folder.segment(2).stat().st_size == 64 * 1024
    size = writer._offset
    writer.close()
    assert folder.segment(2).stat().st_size == size
    writer.close()


def test_the_next_segment_can_be_made_ahead(tmp_path, journal):
    """A spare one is taken when it is needed, and goes when it is not."""
    writer = journal.open_writer(tmp_path)
    folder = journal.only_folder(tmp_path)
    writer.prepare()
    assert not (folder.path / "next").exists()
    while writer._offset < 40_000:
        writer.append(journal.record(1, 2000))
    writer.prepare()
    writer.prepare()
    spare = (folder.path / "next").stat()
    assert spare.st_size == 64 * 1024
    while folder.segments() == [1]:
        writer.append(journal.record(1, 2000))
    assert folder.segment(2).stat().st_ino == spare.st_ino
    while writer._offset < 40_000:
        writer.append(journal.record(1, 2000))
    writer.prepare()
    writer.append(journal.record(2, 100_000))
    assert folder.segment(3).stat().st_ino != spare.st_ino
    while writer._offset * 2 <= writer._size:
        writer.append(journal.record(1, 2000))
    writer.prepare()
    writer.close()
    assert not (folder.path / "next").exists()
    writer.prepare()
    assert not (folder.path / "next").exists()


def test_a_body_that_can_not_be_encoded_takes_no_number(tmp_path, journal):
    """A record that can't be written leaves no gap."""
    with closing(journal.open_writer(tmp_path)) as writer:
        writer.append(journal.record(1))
        with pytest.raises(OverflowError):
            writer.append(PredictionRecord("bad", 1, 0.1, Outcome.OK, 200, attributes={"x": 2**70}))
        writer.append(journal.record(2))
        assert writer.records == 2
    frames, _ = journal.read_all(journal.only_folder(tmp_path))
    assert [(frame.sequence, frame.ordinal) for frame in frames] == [(1, 1), (2, 2)]


def test_a_disk_that_is_full_takes_no_number(tmp_path, journal):
    """A write that fails raises, and the next frame takes its place."""
    with closing(journal.open_writer(tmp_path)) as writer:
        writer.append(journal.record(1))
        whole = os.dup(writer._fd)
        full = os.open("/dev/full", os.O_RDWR)
        os.dup2(full, writer._fd)
        with pytest.raises(OSError, match="No space left") as raised:
            writer.append(journal.record(2))
        assert raised.value.errno == errno.ENOSPC
        os.dup2(whole, writer._fd)
        os.close(full)
        os.close(whole)
        writer.append(journal.record(3))
        assert writer.records == 2
    frames, _ = journal.read_all(journal.only_folder(tmp_path))
    assert [(frame.sequence, *journal.ids([frame])) for frame in frames] == [(1, "p1"), (2, "p3")]


def test_half_a_frame_is_wiped(tmp_path, journal):
    """What a disk took of a frame before it was full is not left for the reader to stumble over."""
    import resource

    with closing(journal.open_writer(tmp_path)) as writer:
        writer.append(journal.record(1))
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        # A file may not grow or be written beyond this: the kernel takes the first bytes of the frame only.
        resource.setrlimit(resource.RLIMIT_FSIZE, (writer._offset + 20, hard))
        try:
            with pytest.raises(OSError, match="only part of the frame"):
                writer.append(journal.record(2))
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
            signal.signal(signal.SIGXFSZ, ignored)
        frames, reader = journal.read_all(journal.only_folder(tmp_path))
        assert journal.ids(frames) == ["p1"]
        assert reader.torn == 0


def test_a_segment_that_can_not_be_made_raises_and_leaks_nothing(tmp_path, journal):
    """Without a next segment appends fail one by one, and go on once there can be one."""
    with closing(journal.open_writer(tmp_path)) as writer:
        folder = journal.only_folder(tmp_path)
        blocked = folder.path / "next"
        blocked.mkdir()
        open_files = Path("/proc/self/fd")
        before = len(list(open_files.iterdir())) if open_files.exists() else 0
        refused = 0
        for number in range(80):
            try:
                writer.append(journal.record(number, 2000))
            except OSError:
                refused += 1
        assert refused > 10
        assert before == (len(list(open_files.iterdir())) if before else 0)
        blocked.rmdir()
        writer.append(journal.record(100, 2000))
    frames, reader = journal.read_all(folder)
    assert len(frames) == 80 - refused + 1
    assert reader.position.ordinal == len(frames)


async def test_power_loss_durability_waits_for_the_disk(tmp_path, monkeypatch, journal):
    """Everything appended before is synced before a waiter goes on, many waiters share a sync, across segments too."""
    writer = journal.open_writer(tmp_path, power_loss=True)
    synced: list[int] = []
    fdatasync = os.fdatasync

    def counted(fd: int) -> None:
        fdatasync(fd)
        synced.append(fd)

    monkeypatch.setattr(os, "fdatasync", counted)

    async def one(number: int) -> None:
        writer.append(journal.record(number, 3000))
        await writer.sync()

    await asyncio.gather(*(one(number) for number in range(60)))
    assert 1 <= len(synced) < 60
    writer.close()
    assert journal.ids(journal.read_all(journal.only_folder(tmp_path))[0]) == [f"p{number}" for number in range(60)]


async def test_without_power_loss_durability_nothing_waits(tmp_path, monkeypatch, journal):
    """By default no request waits for the disk."""
    monkeypatch.setattr(os, "fdatasync", lambda fd: pytest.fail("synced"))
    with closing(journal.open_writer(tmp_path)) as writer:
        writer.append(journal.record(1))
        await writer.sync()


async def test_a_sync_that_fails_is_told_to_all_who_wait(tmp_path, monkeypatch, journal):
    """Whatever step fails, each waiter gets the error, none waits for ever, and the next sync works."""
    with closing(journal.open_writer(tmp_path, power_loss=True)) as writer:
        for broken in ("fdatasync", "dup"):
            with monkeypatch.context() as patch:
                patch.setattr(os, broken, _raise_io_error)
                waiting = [asyncio.create_task(writer.sync()) for _ in range(3)]
                done, late = await asyncio.wait(waiting, timeout=30)
                assert late == set(), broken
                assert all(isinstance(task.exception(), OSError) for task in done)
            await writer.sync()


def _raise_io_error(_fd: int) -> Any:
    raise OSError(errno.EIO, "Input/output error")


def test_a_segment_that_can_not_be_sealed_loses_nothing(tmp_path, monkeypatch, journal):
    """A failure to finish the old segment leaves later frames in the new one, where the reader looks."""
    with closing(journal.open_writer(tmp_path)) as writer:
        folder = journal.only_folder(tmp_path)
        reader = JournalReader(folder)
        written = 0
        with monkeypatch.context() as patch:
            patch.setattr(os, "ftruncate", lambda fd, size: _raise_io_error(fd))
            while folder.segments() == [1]:
                try:
                    writer.append(journal.record(written, 3000))
                    written += 1
                except OSError:
                    break
        found = reader.read(1000, ended=False)
        writer.append(journal.record(written))
        found += reader.read(1000, ended=False)
        assert journal.ids(found) == [f"p{number}" for number in range(written + 1)]
