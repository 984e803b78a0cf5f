"""The reading end of the journal: each frame once and in order, and nothing that is not whole."""

from __future__ import annotations

import errno
import os
import threading
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from e2i_serving.exceptions import FrameError
from e2i_serving.journal import FrameKind, JournalReader, JournalWriter, LifeFolder, Position
from e2i_serving.journal.frame import SEGMENT_HEAD, encode_into
from e2i_serving.record import Gap, Outcome, StreamEnd

MIB = 1024 * 1024


def test_a_reader_follows_a_writer_across_segments(tmp_path, journal):
    """A reader that reads between appends gets each frame once and in order, while segments come and go."""
    found: list[str] = []
    with closing(journal.open_writer(tmp_path)) as writer:
        reader = JournalReader(journal.only_folder(tmp_path))
        for number in range(200):
            writer.append(journal.record(number, 2000))
            if number % 3 == 0:
                found += journal.ids(reader.read(5, ended=False))
            for done in reader.folder.segments():
                if done < reader.position.segment:
                    reader.folder.segment(done).unlink()
        assert len(found) > 100
        assert writer.records == 200
        while more := reader.read(7, ended=False):
            found += journal.ids(more)
    assert found == [f"p{number}" for number in range(200)]
    assert reader.position.segment > 5
    assert reader.torn == 0


def test_a_reader_in_another_thread_gets_everything(tmp_path, journal):
    """Reading at the very moment of writing never yields half a frame or skips one."""
    writer = journal.open_writer(tmp_path)
    thread = threading.Thread(
        target=lambda: [writer.append(journal.record(number, number % 1500)) for number in range(3000)]
    )
    reader = JournalReader(journal.only_folder(tmp_path))
    found: list[str] = []
    thread.start()
    while thread.is_alive():
        found += journal.ids(reader.read(50, ended=False))
    thread.join()
    writer.close()
    while more := reader.read(1000, ended=True):
        found += journal.ids(more)
    assert found == [f"p{number}" for number in range(3000)]
    assert reader.torn == 0


@pytest.mark.parametrize("limit", [1, 2, 7, 1000])
def test_a_reader_restarted_anywhere_returns_exactly_the_rest(tmp_path, limit, journal):
    """Every position that a reader ever stood at is one to begin from."""
    with closing(journal.open_writer(tmp_path)) as writer:
        for number in range(60):
            writer.append(journal.record(number, 4000) if number % 2 else StreamEnd(f"p{number}", 0.1, Outcome.OK))
    folder = journal.only_folder(tmp_path)
    everything, end = journal.read_all(folder)
    assert len(everything) == 60
    reader = JournalReader(folder)
    done = 0
    while True:
        rest, last = journal.read_all(folder, reader.position)
        assert [frame.sequence for frame in rest] == list(range(done + 1, 61))
        assert last.position == end.position
        more = reader.read(limit, ended=True)
        if not more:
            break
        done += len(more)
        assert reader.position.ordinal == sum(frame.kind == FrameKind.RECORD for frame in everything[:done])


@settings(max_examples=30, deadline=None)
@given(st.data())
def test_positions_are_exact_for_any_sizes_and_batches(tmp_path_factory, journal, data):
    """Frames of any sizes, read in batches of any sizes, come once each and in order."""
    sizes = data.draw(st.lists(st.integers(0, 40_000), min_size=1, max_size=25))
    folder = tmp_path_factory.mktemp("journal")
    with closing(journal.open_writer(folder)) as writer:
        for number, size in enumerate(sizes):
            writer.append(journal.record(number, size))
    found: list[str] = []
    position = None
    while True:
        reader = JournalReader(journal.only_folder(folder), position)
        more = reader.read(data.draw(st.integers(1, 5)), ended=True)
        position = reader.position
        if not more:
            break
        found += journal.ids(more)
    assert found == [f"p{number}" for number in range(len(sizes))]


@pytest.fixture
def two_frames(tmp_path, journal) -> tuple[Path, int, bytes]:
    """A segment with two frames in it, where the last one begins, and the segment's bytes."""
    with closing(journal.open_writer(tmp_path / "whole")) as writer:
        writer.append(journal.record(1))
        begins = writer._offset
        writer.append(journal.record(2, 300))
    folder = journal.only_folder(tmp_path / "whole")
    return folder.path, begins, folder.segment(1).read_bytes()


def torn(tmp_path: Path, content: bytes) -> LifeFolder:
    """A dead life whose only segment has this content."""
    folder = LifeFolder(tmp_path / "torn")
    folder.path.mkdir(exist_ok=True)
    folder.segment(1).write_bytes(content)
    return folder


@pytest.mark.parametrize("filled", [True, False], ids=["zeros follow", "file ends"])
def test_a_tail_torn_at_any_byte_takes_only_its_frame(tmp_path, two_frames, filled, journal):
    """Cut anywhere, the last frame is left out and counted as torn, and the one before it is whole."""
    _, begins, content = two_frames
    for cut in range(begins, len(content)):
        left = content[:cut] + (bytes(4096) if filled else b"")
        frames, reader = journal.read_all(torn(tmp_path, left))
        assert journal.ids(frames) == ["p1"], cut
        assert reader.position.ordinal == 1
        assert reader.torn == any(left[begins : begins + 4]), cut


def test_a_flip_of_any_byte_takes_only_its_frame(tmp_path, two_frames, journal):
    """Altered anywhere, the last frame is left out and counted as torn."""
    _, begins, content = two_frames
    for at in range(begins, len(content)):
        changed = bytearray(content)
        changed[at] ^= 0xFF
        frames, reader = journal.read_all(torn(tmp_path, bytes(changed)))
        assert journal.ids(frames) == ["p1"], at
        assert reader.torn == 1, at


def test_a_torn_tail_waits_while_its_writer_lives(tmp_path, two_frames, journal):
    """What is half written now may be whole in a moment, so it is not given up."""
    _, begins, content = two_frames
    folder = torn(tmp_path, content[: begins + 40])
    reader = JournalReader(folder)
    assert journal.ids(reader.read(10, ended=False)) == ["p1"]
    assert reader.read(10, ended=False) == []
    assert reader.torn == 0
    folder.segment(1).write_bytes(content)
    assert journal.ids(reader.read(10, ended=False)) == ["p2"]


def test_a_torn_tail_before_another_segment_is_passed(tmp_path, journal):
    """A later segment shows that an earlier one is finished, torn or not, and what is missing has its place."""
    with closing(journal.open_writer(tmp_path)) as writer:
        for number in range(40):
            writer.append(journal.record(number, 4000))
    folder = journal.only_folder(tmp_path)
    in_first, _ = journal.read_all(folder, Position())
    first = folder.segment(1).read_bytes()
    folder.segment(1).write_bytes(first[:-10])
    frames, reader = journal.read_all(folder)
    assert len(frames) == len(in_first)
    (gap,) = [frame.decode() for frame in frames if frame.kind == FrameKind.GAP]
    assert isinstance(gap, Gap)
    assert (gap.last - gap.first, gap.records, gap.reason) == (0, 1, "damaged")
    assert [frame.sequence for frame in frames] == list(range(1, 41))
    assert reader.torn == 1
    assert reader.position.ordinal == 40


def test_a_foreign_segment_is_an_error(tmp_path, journal):
    """A segment of another format, or one that does not say whose it is, is named."""
    folder = torn(tmp_path, b"something else entirely" * 10)
    with pytest.raises(FrameError, match="no journal segment of this format"):
        JournalReader(folder).read(10, ended=True)
    head = JournalWriter(tmp_path / "other", journal.life(), segment_bytes=4096, record_bytes=4096)
    head.close()
    whole = journal.only_folder(tmp_path / "other").segment(1).read_bytes()[: SEGMENT_HEAD.size]
    frame = bytearray()
    encode_into(frame, journal.record(1), FrameKind.RECORD, 1, 1)
    with pytest.raises(FrameError, match="does not begin with the life"):
        JournalReader(torn(tmp_path, whole + frame)).read(10, ended=True)


class FlakyFolder(LifeFolder):
    """A folder that can't be listed, the given number of times from now."""

    failing: int | None = None

    def segments(self) -> list[int]:
        if self.failing is not None:
            self.failing -= 1
            if self.failing < 0:
                self.failing = None
                raise OSError(errno.EMFILE, "Too many open files")
        return super().segments()


@pytest.mark.parametrize("after", range(4))
def test_a_read_that_fails_half_way_loses_nothing(tmp_path, after, journal):
    """A reader whose disk stumbles is where it was before, and reads the same frames the next time."""
    with closing(journal.open_writer(tmp_path)) as writer:
        for number in range(40):
            writer.append(journal.record(number, 4000))
    folder = FlakyFolder(journal.only_folder(tmp_path).path)
    reader = JournalReader(folder)
    folder.failing = after
    with pytest.raises(OSError, match="Too many open files"):
        reader.read(1000, ended=True)
    assert reader.position == Position()
    assert len(reader.read(1000, ended=True)) == 40


def test_an_idle_reader_reads_little(tmp_path, monkeypatch, journal):
    """Asking a preallocated segment for news does not read all of its emptiness."""
    with closing(journal.open_writer(tmp_path, segment_bytes=8 * MIB)) as writer:
        writer.append(journal.record(1))
        reader = JournalReader(journal.only_folder(tmp_path))
        assert len(reader.read(10, ended=False)) == 1
        sizes: list[int] = []
        pread = os.pread

        def counted(fd: int, size: int, offset: int) -> bytes:
            sizes.append(size)
            return pread(fd, size, offset)

        monkeypatch.setattr(os, "pread", counted)
        assert reader.read(10, ended=False) == []
        assert sum(sizes) <= MIB
