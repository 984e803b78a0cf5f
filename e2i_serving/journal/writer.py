"""The writing end: append a frame, in one system call, on the event loop."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Collection
from pathlib import Path

import msgspec

from e2i_serving.exceptions import FailureQuotaFull, JournalError, JournalFull
from e2i_serving.journal.frame import FRAME_HEAD, KINDS, FrameKind, encode_into, segment_head
from e2i_serving.journal.lives import SPARE_NAME, LifeFolder
from e2i_serving.journal.syncing import GroupedSync, sync_data, sync_directory
from e2i_serving.record import Body, LateResult, Life, PredictionRecord
from e2i_serving.typing import Cipher

TOO_LARGE = "too-large"
"""Name in ``PredictionRecord.redactions`` of a record whose payload was larger than the bound."""

_SUCCESS = 2
"""The hundreds of an HTTP status that says so."""


class JournalWriter:
    """Appends the frames of one life.

    All methods are called from one thread, the event loop's, but for ``prepare`` and, of a life that was removed,
    ``rescue``. ``append`` makes one ``write`` to a preallocated local file; it does not wait for the disk.

    Args:
        journal: The journal's folder, ``<data>/journal``.
        life: Who writes; stands at the head of every segment.
        segment_bytes: Size to which a segment is preallocated.
        record_bytes: Largest record; the payload of a larger one is left out.
        segment_seconds: Age at which a segment that holds anything is followed by the next.
        failure_bytes: Most bytes of records whose answer was not 2xx, in the segments that are still there.
        power_loss: Let ``sync`` wait until the disk has the frames.
        cipher: Encrypts what frames hold.

    Attributes:
        records: How many prediction records were appended: the ordinal of the last one.
        room: How many more bytes finished segments may take, ``None`` for any number. Whoever measures the disk sets
            it, and each finished segment lowers it.
        segment: Number of the segment that is written to.

    Raises:
        JournalError: The folder or the first segment can't be made.
    """

    def __init__(
        self,
        journal: Path,
        life: Life,
        *,
        segment_bytes: int,
        record_bytes: int,
        segment_seconds: float = float("inf"),
        failure_bytes: float = float("inf"),
        power_loss: bool = False,
        cipher: Cipher | None = None,
    ) -> None:
        self.life = life
        self.records = 0
        self.room: int | None = None
        self.segment = 0
        self._segment_bytes = segment_bytes
        self._record_bytes = record_bytes
        self._segment_seconds = segment_seconds
        self._failure_bytes = failure_bytes
        self._cipher = cipher
        self._sequence = 0
        self._fd = -1
        self._offset = 0
        self._size = 0
        self._before = 0
        """Sequence number of the last frame before the open segment."""
        self._opened_at = 0.0
        self._buffer = bytearray()
        self._failures: dict[int, int] = {}
        """Bytes of records of requests that failed, by segment."""
        self._failure_total = 0
        self._failure_refused = False
        self._was_full = False
        """Whether a frame was refused that the open segment has no space for."""
        self._spare: int | None = None
        self._spare_lock = threading.Lock()
        self._sync = GroupedSync(self._duplicate) if power_loss else None
        self.folder, self._lock = LifeFolder.create(journal, life.life, power_loss=power_loss)
        try:
            self._rotate(0)
        except OSError as error:
            os.close(self._lock)
            self.folder.remove()
            raise JournalError(f"No segment can be made in {journal}: {error.strerror}.") from error

    def append(self, body: Body) -> None:
        """Append one frame; when this returns, the kill of any process can't lose it.

        Raises:
            FailureQuotaFull: It is of a request that failed, and too many such are undelivered.
            JournalFull: It needs a segment for which there is no room.
            OSError: It was not written; the next frame will take its place.
            OverflowError: The body holds a number that is out of MessagePack's range.
        """
        kind = KINDS[type(body)]
        sequence = self._sequence + 1
        ordinal = self.records
        failed = False
        if isinstance(body, PredictionRecord):
            ordinal += 1
            failed = body.status // 100 != _SUCCESS
        elif isinstance(body, LateResult):
            failed = True
        buffer = self._buffer
        encode_into(buffer, body, kind, sequence, ordinal, self._cipher, self.life.life)
        if len(buffer) > self._record_bytes:
            cut = _cut(body)
            encode_into(buffer, cut, kind, sequence, ordinal, self._cipher, self.life.life)
        size = len(buffer)
        if failed and self._failure_total + size > self._failure_bytes:
            self._failure_refused = True
            raise FailureQuotaFull("Undelivered records of requests that failed take all the disk that they may.")
        if self._offset + size > self._size:
            self._rotate(size)
        self._write(buffer)
        self._sequence = sequence
        self.records = ordinal
        if failed:
            self._failures[self.segment] = self._failures.get(self.segment, 0) + size
            self._failure_total += size

    async def sync(self) -> None:
        """Wait until all that was appended survives a power loss; returns at once unless that was asked for."""
        if self._sync is not None:
            await self._sync.wait()

    def probe(self) -> None:
        """Try to write where the next frame will go, without writing one.

        Raises:
            JournalFull: There is no room for a segment.
            OSError: The next frame could not be written.
        """
        if self._was_full or self._offset + FRAME_HEAD.size > self._size:
            self._rotate(FRAME_HEAD.size)
        os.pwrite(self._fd, bytes(FRAME_HEAD.size), self._offset)

    def prepare(self) -> None:
        """Make the next segment ahead of need. May be called from another thread; blocks on the disk."""
        if self._spare is None:
            with self._spare_lock:
                closed = self._fd < 0
                needed = self._offset * 2 > self._size or self._is_due
                if not closed and needed and self._has_room:
                    self._spare = _preallocated(self._spare_path, self._segment_bytes)

    def rotate_if_due(self) -> None:
        """Begin the next segment if this one is old, or keeps failures on the disk that new ones wait for.

        Raises:
            JournalFull: There is no room for it.
            OSError: It can't be made.
        """
        if self._is_due:
            self._rotate(0)

    def prune(self, kept: Collection[int], *, before: int) -> None:
        """Take note of which segments are gone, and give back their share of the quota of failures.

        Args:
            kept: Numbers of the segments that are there.
            before: Only those of lower numbers were looked for.
        """
        for number in [number for number in self._failures if number < before and number not in kept]:
            self._failure_total -= self._failures.pop(number)

    def removed(self) -> bool:
        """Whether the open segment was deleted under its writer, so that nobody will read what is appended."""
        return self._fd >= 0 and os.fstat(self._fd).st_nlink == 0

    def rescue(self) -> None:
        """Put the open segment of a removed life back where it was, for the relay to find, and end the life.

        May be called from another thread, once nothing more is appended; blocks on the disk.

        Raises:
            OSError: It can't be put there; try again.
            JournalError: The folder can't be made; try again.
        """
        lock = -1
        if not self.folder.path.is_dir():
            self.folder, lock = LifeFolder.create(
                self.folder.path.parent, self.life.life, power_loss=self._sync is not None
            )
        try:
            # Under a name of its own until it is whole, so that no reader meets half of it.
            draft = self.folder.path / "rescued"
            fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
            with os.fdopen(fd, "wb") as target:
                target.write(os.pread(self._fd, self._offset, 0))
                if self._sync is not None:
                    target.flush()
                    sync_data(fd)
            draft.rename(self.folder.segment(self.segment))
            if self._sync is not None:
                sync_directory(self.folder.path)
        finally:
            if lock >= 0:
                os.close(lock)
        self._close(seal=False)

    def close(self) -> None:
        """End the life: cut the last segment to its data and give up the lock."""
        if self.removed():
            self.rescue()
        else:
            self._close(seal=True)

    def _close(self, *, seal: bool) -> None:
        with self._spare_lock:
            if self._fd < 0:
                return
            fd, self._fd = self._fd, -1
            try:
                if seal:
                    self._seal(fd, self._offset)
                else:
                    os.close(fd)
            finally:
                if self._spare is not None:
                    os.close(self._spare)
                    self._spare_path.unlink(missing_ok=True)
                    self._spare = None
                os.close(self._lock)
                if self._sync is not None:
                    self._sync.close()

    @property
    def _spare_path(self) -> Path:
        return self.folder.path / SPARE_NAME

    @property
    def _has_room(self) -> bool:
        return self.room is None or self._offset <= self.room

    @property
    def _is_due(self) -> bool:
        if self._sequence == self._before:
            return False
        aged = time.monotonic() - self._opened_at >= self._segment_seconds
        return aged or (self._failure_refused and self.segment in self._failures)

    def _duplicate(self) -> int:
        return os.dup(self._fd)

    def _write(self, data: bytes | bytearray) -> None:
        written = os.pwrite(self._fd, data, self._offset)
        if written != len(data):
            # Wipe what a full disk took of it, so that the reader finds zeros and not half a frame.
            os.pwrite(self._fd, bytes(written), self._offset)
            raise OSError(errno.ENOSPC, "The disk took only part of the frame")
        self._offset += written

    def _rotate(self, needed: int) -> None:
        if not self._has_room:
            self._was_full = True
            raise JournalFull(f"The journal in {self.folder.path.parent} takes all the disk it may.")
        number = self.segment + 1
        path = self.folder.segment(number)
        life_frame = bytearray()
        encode_into(life_frame, self.life, FrameKind.LIFE, self._sequence, self.records)
        head = segment_head(number, time.time_ns()) + life_frame
        size = max(self._segment_bytes, len(head) + needed)
        with self._spare_lock:
            fd, self._spare = self._spare, None
            if fd is None or size > self._segment_bytes:
                if fd is not None:
                    os.close(fd)
                fd = _preallocated(self._spare_path, size)
            try:
                os.pwrite(fd, head, 0)
                # The segment gets its name once it is readable, so that the reader never meets an empty one.
                self._spare_path.rename(path)
            except OSError:
                os.close(fd)
                raise
        finished, end = self._fd, self._offset
        # Before the old one is sealed: from here on the reader looks for frames in the new one only.
        self._fd, self._offset, self._size, self.segment = fd, len(head), size, number
        self._before, self._opened_at = self._sequence, time.monotonic()
        self._failure_refused = self._was_full = False
        if self.room is not None:
            self.room -= end
        if finished >= 0:
            self._seal(finished, end)
        if self._sync is not None:
            sync_directory(self.folder.path)

    def _seal(self, fd: int, end: int) -> None:
        try:
            os.ftruncate(fd, end)
            if self._sync is not None:
                sync_data(fd)
        finally:
            os.close(fd)


def _cut(body: Body) -> Body:
    """What is left of a body that is too large; events of a few words are left as they are."""
    if isinstance(body, PredictionRecord):
        return without_payload(body, TOO_LARGE)
    if isinstance(body, LateResult):
        return msgspec.structs.replace(body, outputs={}, redactions=(*body.redactions, TOO_LARGE))
    return body


def without_payload(record: PredictionRecord, reason: str) -> PredictionRecord:
    """The record with its ids, outcome and sizes, and none of its payload.

    Args:
        record: The record.
        reason: Why; stands among its redactions.
    """
    return msgspec.structs.replace(
        record,
        entities={},
        inputs={},
        outputs={},
        attributes={},
        feature_provenance=None,
        redactions=(*record.redactions, reason),
    )


def _preallocated(path: Path, size: int) -> int:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(fd, 0, size)
        else:
            os.ftruncate(fd, size)
    except OSError:
        os.close(fd)
        path.unlink(missing_ok=True)
        raise
    return fd
