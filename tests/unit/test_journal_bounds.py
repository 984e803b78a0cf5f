"""The journal's bounds: age, disk, failures, and a data directory that is taken away."""

from __future__ import annotations

import asyncio
import os
import shutil
from contextlib import closing

import pytest

from e2i_serving.exceptions import EncryptionError, FailureQuotaFull, FrameError, JournalFull
from e2i_serving.journal import FrameKind, JournalReader, JournalRoom, LifeFolder, Position
from e2i_serving.journal.frame import FRAME_HEAD, SEGMENT_HEAD
from e2i_serving.record import (
    AccessEvent,
    Gap,
    LateResult,
    Outcome,
    OutcomeEvent,
    PredictionRecord,
    StreamEnd,
)

SEGMENT = 64 * 1024


class Shifting:
    """A cipher that hides nothing, and holds one key."""

    key_id = 7

    def encrypt(self, context, data):
        return context.encode() + bytes(byte ^ 0x55 for byte in data)

    def decrypt(self, key_id, context, data):
        if key_id != self.key_id or not data.startswith(context.encode()):
            raise EncryptionError("not mine")
        return bytes(byte ^ 0x55 for byte in data[len(context) :])


BODIES = [
    PredictionRecord("p1", 1, 0.1, Outcome.OK, 200, attributes={"secret": "open sesame"}),
    StreamEnd("p1", 0.2, Outcome.OK, status=503, salt=b"s" * 16),
    LateResult("p1", 0.3, Outcome.ERROR, "ValueError", "late", salt=b"s" * 16),
    OutcomeEvent("o1", 5, prediction_id="p1", value=True, score=0.5),
    AccessEvent("a1", 6, principal="auditor", conditions={"model": "m"}),
]


@pytest.mark.parametrize("cipher", [None, Shifting()], ids=["plain", "encrypted"])
def test_every_kind_of_body_comes_back(tmp_path, journal, cipher):
    """Records and events go through the journal unchanged, and only records count as such."""
    with closing(journal.open_writer(tmp_path, cipher=cipher)) as writer:
        for body in BODIES:
            writer.append(body)
    folder = journal.only_folder(tmp_path)
    frames, _ = journal.read_all(folder)
    assert [frame.decode(cipher) for frame in frames] == BODIES
    assert [frame.kind for frame in frames] == [2, 3, 4, 5, 6]
    assert [(frame.sequence, frame.ordinal) for frame in frames] == [(number, 1) for number in range(1, 6)]
    assert (b"open sesame" in folder.segment(1).read_bytes()) == (cipher is None)


def test_an_encrypted_frame_waits_for_its_key(tmp_path, journal):
    """Without its key, or moved to another life, a frame is neither decoded nor taken for damaged."""
    with closing(journal.open_writer(tmp_path, cipher=Shifting())) as writer:
        writer.append(BODIES[0])
    frames, reader = journal.read_all(journal.only_folder(tmp_path))
    assert reader.life == journal.life()
    assert (frames[0].key_id, frames[0].life) == (7, "life-1")
    with pytest.raises(EncryptionError, match=r"Frame 1 is encrypted with key 7\. Set encryption_key_file"):
        frames[0].decode()
    with pytest.raises(EncryptionError):
        frames[0]._replace(life="life-2").decode(Shifting())
    with pytest.raises(EncryptionError):
        frames[0]._replace(key_id=8).decode(Shifting())


def frame_offsets(folder: LifeFolder, number: int = 1) -> list[int]:
    """Where the frames of a segment begin, its life frame left out."""
    content = folder.segment(number).read_bytes()
    offsets, at = [], SEGMENT_HEAD.size
    while at + FRAME_HEAD.size <= len(content) and (length := FRAME_HEAD.unpack_from(content, at)[0]):
        offsets.append(at)
        at += FRAME_HEAD.size + length
    return offsets[1:]


def damage(folder: LifeFolder, offset: int, number: int = 1) -> None:
    """Alter a byte of a segment."""
    with folder.segment(number).open("r+b") as file:
        file.seek(offset)
        before = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([before ^ 0xFF]))


@pytest.mark.parametrize("ended", [True, False], ids=["dead", "alive"])
@pytest.mark.parametrize("run", [[3], [3, 4], [1], [1, 2, 3]])
def test_a_damaged_frame_costs_itself_alone(tmp_path, journal, run, ended):
    """Frames behind a damaged one are read, and a gap stands in its place, whether or not the worker lives."""
    with closing(journal.open_writer(tmp_path)) as writer:
        for number in range(1, 7):
            writer.append(journal.record(number))
        folder = journal.only_folder(tmp_path)
        for number in run:
            damage(folder, frame_offsets(folder)[number - 1] + FRAME_HEAD.size + 3)
        reader = JournalReader(folder)
        frames = reader.read(100, ended=ended)
    kept = [number for number in range(1, 7) if number not in run]
    assert journal.ids([frame for frame in frames if frame.kind == FrameKind.RECORD]) == [f"p{n}" for n in kept]
    (gap,) = [frame for frame in frames if frame.kind == FrameKind.GAP]
    assert gap.decode() == Gap(run[0], run[-1], len(run), "damaged")
    assert (gap.sequence, gap.ordinal) == (run[-1], run[-1])
    assert [frame.sequence for frame in frames] == sorted(frame.sequence for frame in frames)
    assert (reader.position.sequence, reader.position.ordinal) == (6, 6)


def test_a_damaged_length_costs_the_rest_of_its_segment(tmp_path, journal):
    """Where nothing says where the next frame begins, the next segment says how many frames are missing."""
    with closing(journal.open_writer(tmp_path)) as writer:
        while writer.segment < 3:
            writer.append(journal.record(writer.records + 1, 3000))
        total = writer.records
    folder = journal.only_folder(tmp_path)
    totals = folder.segment_totals(1)
    assert totals is not None
    assert (totals.first, totals.ordinal, totals.records) == (1, 0, totals.last)
    assert folder.segment_totals(3) is None
    offsets = frame_offsets(folder)
    assert len(offsets) == totals.last
    damage(folder, offsets[2] + 3)
    for limit in (1, 3, 1000):
        frames, reader = journal.read_all(folder, limit=limit)
        gap = frames[2].decode()
        assert gap == Gap(3, totals.last, totals.last - 2, "damaged")
        assert [frame.sequence for frame in frames[3:]] == list(range(totals.last + 1, total + 1))
        assert reader.torn == 1


def test_what_is_missing_shows_though_nothing_follows(tmp_path, journal):
    """A segment that has begun says what should stand before it, when it holds no frame itself."""
    with closing(journal.open_writer(tmp_path, segment_seconds=0.0)) as writer:
        for number in range(1, 4):
            writer.append(journal.record(number))
        writer.rotate_if_due()
        folder = journal.only_folder(tmp_path)
        damage(folder, frame_offsets(folder)[1] + 3)
        reader = JournalReader(folder)
        frames = reader.read(10, ended=False)
        assert [frame.kind for frame in frames] == [FrameKind.RECORD, FrameKind.GAP]
        assert frames[1].decode() == Gap(2, 3, 2, "damaged")
        assert reader.read(10, ended=False) == []


def test_a_damaged_head_is_read_from_another_segment(tmp_path, journal):
    """The life is the same in each segment; where one does not say it, another does."""
    with closing(journal.open_writer(tmp_path)) as writer:
        while writer.segment < 3:
            writer.append(journal.record(writer.records + 1, 3000))
        total = writer.records
    folder = journal.only_folder(tmp_path)
    totals = folder.segment_totals(2)
    assert totals is not None
    damage(folder, SEGMENT_HEAD.size + FRAME_HEAD.size + 2, number=2)
    start = Position(2, SEGMENT_HEAD.size, totals.first - 1, totals.ordinal)
    frames, reader = journal.read_all(folder, start)
    assert reader.life == journal.life()
    assert [frame.sequence for frame in frames] == list(range(totals.first, total + 1))
    with pytest.raises(FrameError, match="does not begin with the life"):
        folder.segment_totals(1)


def test_segments_can_be_passed_over(tmp_path, journal):
    """Passing over segments leaves a gap of just the frames and records that were not read."""
    with closing(journal.open_writer(tmp_path)) as writer:
        while writer.segment < 4:
            body = journal.record(writer.records + 1, 3000) if writer.records % 3 else StreamEnd("p", 0.1, Outcome.OK)
            writer.append(body)
            writer.append(journal.record(writer.records + 1, 3000))
    folder = journal.only_folder(tmp_path)
    everything, _ = journal.read_all(folder)
    reader = JournalReader(folder)
    read = reader.read(5, ended=True)
    totals = folder.segment_totals(2)
    assert totals is not None
    gap = reader.skip_to_segment(3, "overflow")
    assert gap is not None
    passed = [frame for frame in everything if read[-1].sequence < frame.sequence <= totals.last]
    records = sum(frame.kind == FrameKind.RECORD for frame in passed)
    assert gap.decode() == Gap(6, totals.last, records, "overflow")
    assert reader.skip_to_segment(3, "overflow") is None
    rest, _ = journal.read_all(folder, reader.position)
    assert [frame.sequence for frame in [*read, *passed, *rest]] == [frame.sequence for frame in everything]


def test_an_old_segment_is_followed_by_the_next(tmp_path, journal):
    """Age ends a segment that holds something, and never an empty one."""
    with closing(journal.open_writer(tmp_path, segment_seconds=0.0)) as writer:
        writer.rotate_if_due()
        assert writer.segment == 1
        writer.append(journal.record(1))
        writer.prepare()
        writer.rotate_if_due()
        writer.rotate_if_due()
        assert writer.segment == 2
    with closing(journal.open_writer(tmp_path, "life-2", segment_seconds=3600)) as writer:
        writer.append(journal.record(1))
        writer.rotate_if_due()
        assert writer.segment == 1


def test_a_journal_without_room_refuses_what_needs_a_segment(tmp_path, journal):
    """Records go into the open segment, and no further than the bound; with room again they go on."""
    room = JournalRoom(tmp_path, 3 * SEGMENT)
    with closing(journal.open_writer(tmp_path)) as writer:
        writer.room = room.left()
        refused = 0
        for _ in range(200):
            try:
                writer.append(journal.record(writer.records, 2000))
            except JournalFull:
                refused += 1
        assert refused > 50
        assert room.taken() <= 3 * SEGMENT
        assert room.left() < SEGMENT
        with pytest.raises(JournalFull):
            writer.probe()
        folder = journal.only_folder(tmp_path)
        folder.segment(1).unlink()
        writer.room = room.left()
        writer.append(journal.record(writer.records, 2000))
        records = writer.records
    assert room.taken() >= folder.bytes() > 0
    assert journal.read_all(folder)[1].position.ordinal == records


def test_the_open_segments_of_the_living_are_not_counted(tmp_path, journal):
    """A dead life's segments count in full, a living one's only when they are finished."""
    room = JournalRoom(tmp_path, 10 * SEGMENT)
    writers = [journal.open_writer(tmp_path, f"life-{number}") for number in range(3)]
    assert room.taken() == 0
    for writer in writers:
        writer.close()
    assert room.taken() == sum(LifeFolder(tmp_path / f"life-{number}").bytes() for number in range(3)) > 0
    assert JournalRoom(tmp_path / "none", 7).left() == 7


def test_failures_have_a_quota(tmp_path, journal):
    """Records that are not 2xx, and late results, are refused beyond it; others are not, and it comes back."""
    failed = PredictionRecord("f", 1, 0.1, Outcome.INVALID, 400, error_message="x" * 2000)
    with closing(journal.open_writer(tmp_path, failure_bytes=10_000)) as writer:
        for _ in range(4):
            writer.append(failed)
        with pytest.raises(FailureQuotaFull):
            writer.append(failed)
        kept = writer.records
        assert kept == 4
        with pytest.raises(FailureQuotaFull):
            writer.append(LateResult("f", 0.2, Outcome.ERROR, "x", "y" * 2000))
        writer.append(journal.record(1, 4000))
        # The open segment is ended, so that a relay can deliver it and clear it away.
        writer.rotate_if_due()
        assert writer.segment == 2
        folder = journal.only_folder(tmp_path)
        writer.prune(folder.segments(), before=writer.segment)
        with pytest.raises(FailureQuotaFull):
            writer.append(failed)
        folder.segment(1).unlink()
        writer.prune(folder.segments(), before=writer.segment)
        writer.append(failed)
        assert writer.records == kept + 2


@pytest.mark.parametrize("power_loss", [False, True])
@pytest.mark.parametrize("how", ["journal", "folder", "segment"])
def test_what_was_accepted_outlives_its_folder(tmp_path, journal, how, power_loss):
    """A journal that was deleted under its writer is put back with all that its open segment held."""
    writer = journal.open_writer(tmp_path / "journal", power_loss=power_loss)
    for number in range(5):
        writer.append(journal.record(number))
    assert not writer.removed()
    target = {
        "journal": tmp_path / "journal",
        "folder": writer.folder.path,
        "segment": writer.folder.segment(1),
    }[how]
    shutil.rmtree(target) if target.is_dir() else target.unlink()
    assert writer.removed()
    writer.append(journal.record(5))
    writer.rescue()
    folder = journal.only_folder(tmp_path / "journal")
    assert not folder.alive()
    frames, reader = journal.read_all(folder)
    assert journal.ids(frames) == [f"p{number}" for number in range(6)]
    assert reader.torn == 0
    writer.close()
    assert sorted(path.name for path in folder.path.iterdir()) in (["00000001.seg"], ["00000001.seg", "lock"])


def test_a_journal_that_is_closed_after_it_was_deleted_is_put_back(tmp_path, journal):
    """The last records of a worker that ends are not lost with the directory."""
    writer = journal.open_writer(tmp_path / "journal")
    writer.append(journal.record(1))
    shutil.rmtree(tmp_path / "journal")
    writer.close()
    assert journal.ids(journal.read_all(journal.only_folder(tmp_path / "journal"))[0]) == ["p1"]


async def test_a_sync_of_a_closed_journal_is_told(tmp_path, journal):
    """Whoever waits for a journal that is gone gets an error, not silence."""
    writer = journal.open_writer(tmp_path, power_loss=True)
    writer.close()
    with pytest.raises(OSError, match=r".+"):
        await asyncio.wait_for(writer.sync(), 30)


def test_windows_is_refused_in_one_line():
    """Where there are no file locks, the import says what to do."""
    import subprocess
    import sys

    code = "import sys; sys.modules['fcntl'] = None\nimport e2i_serving.journal"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ImportError: e2i-serving runs on Linux and macOS.")


def test_a_frame_that_is_being_written_is_not_damaged(tmp_path, journal, monkeypatch):
    """What was half written when it was read, and whole a moment later, is read then."""
    with closing(journal.open_writer(tmp_path)) as writer:
        for number in range(3):
            writer.append(journal.record(number))
        folder = journal.only_folder(tmp_path)
        reader = JournalReader(folder)
        offset = frame_offsets(folder)[1] + FRAME_HEAD.size + 3
        damage(folder, offset)
        pread, reads = os.pread, []

        def mended(fd: int, size: int, at: int) -> bytes:
            data = pread(fd, size, at)
            reads.append(at)
            if len(reads) == 1 + whole:
                damage(folder, offset)
            return data

        monkeypatch.setattr(os, "pread", pread)
        assert journal.ids(reader.read(1, ended=False)) == ["p0"]
        at_damage = reader.position
        whole = 2  # the frame's head, then its chunk, then the rest to look behind it
        monkeypatch.setattr(os, "pread", mended)
        assert reader.read(10, ended=False) == []
        assert reader.position == at_damage
        monkeypatch.setattr(os, "pread", pread)
        assert journal.ids(reader.read(10, ended=False)) == ["p1", "p2"]
