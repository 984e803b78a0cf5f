"""The writing end: append a frame, in one system call, on the event loop."""

from __future__ import annotations

import asyncio
import errno
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from e2i_serving.exceptions import JournalError
from e2i_serving.journal.frame import FRAME_HEAD, FrameKind, encode_into, segment_head
from e2i_serving.journal.lives import LifeFolder
from e2i_serving.record import Life, PredictionRecord, StreamEnd

TOO_LARGE = "too-large"
"""Name in ``PredictionRecord.redactions`` of a record whose payload was larger than the bound."""


class JournalWriter:
    """Appends the frames of one life.

    All methods but ``prepare`` are called from one thread, the event loop's. ``append`` makes one ``write``
    to a preallocated local file; it does not wait for the disk.

    Args:
        journal: The journal's folder, ``<data>/journal``.
        life: Who writes; stands at the head of every segment.
        segment_bytes: Size to which a segment is preallocated.
        record_bytes: Largest record; the payload of a larger one is left out.
        power_loss: Let ``sync`` wait until the disk has the frames.

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
        power_loss: bool = False,
    ) -> None:
        self.life = life
        self.records = 0
        """How many prediction records were appended: the ordinal of the last one."""
        self._segment_bytes = segment_bytes
        self._record_bytes = record_bytes
        self._sequence = 0
        self._number = 0
        self._fd = -1
        self._offset = 0
        self._size = 0
        self._buffer = bytearray()
        self._spare: int | None = None
        self._spare_lock = threading.Lock()
        self._sync = _GroupedSync(self) if power_loss else None
        self._folder, self._lock = LifeFolder.create(journal, life.life)
        try:
            self._rotate(0)
        except OSError as error:
            os.close(self._lock)
            self._folder.remove()
            raise JournalError(f"No segment can be made in {journal}: {error.strerror}.") from error

    def append(self, body: PredictionRecord | StreamEnd) -> None:
        """Append one frame; when this returns, the kill of any process can't lose it.

        Raises:
            OSError: It was not written; the next frame will take its place.
            OverflowError: The body holds a number that is out of MessagePack's range.
        """
        is_record = isinstance(body, PredictionRecord)
        kind = FrameKind.RECORD if is_record else FrameKind.STREAM_END
        ordinal = self.records + is_record
        buffer = self._buffer
        encode_into(buffer, body, kind, self._sequence + 1, ordinal)
        if len(buffer) > self._record_bytes and isinstance(body, PredictionRecord):
            encode_into(buffer, without_payload(body, TOO_LARGE), kind, self._sequence + 1, ordinal)
        if self._offset + len(buffer) > self._size:
            self._rotate(len(buffer))
        self._write(buffer)
        self._sequence += 1
        self.records = ordinal

    async def sync(self) -> None:
        """Wait until all that was appended survives a power loss; returns at once unless that was asked for."""
        if self._sync is not None:
            await self._sync.wait()

    def probe(self) -> None:
        """Try to write where the next frame will go, without writing one.

        Raises:
            OSError: The next frame could not be written.
        """
        if self._offset + FRAME_HEAD.size > self._size:
            self._rotate(FRAME_HEAD.size)
        os.pwrite(self._fd, bytes(FRAME_HEAD.size), self._offset)

    def prepare(self) -> None:
        """Make the next segment ahead of need. May be called from another thread; blocks on the disk."""
        if self._spare is None:
            with self._spare_lock:
                closed = self._fd < 0
                if not closed and self._offset * 2 > self._size:
                    self._spare = _preallocated(self._spare_path, self._segment_bytes)

    def close(self) -> None:
        """End the life: cut the last segment to its data and give up the lock."""
        with self._spare_lock:
            if self._fd < 0:
                return
            fd, self._fd = self._fd, -1
            try:
                self._seal(fd, self._offset)
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
        return self._folder.path / "next"

    def _write(self, data: bytes | bytearray) -> None:
        written = os.pwrite(self._fd, data, self._offset)
        if written != len(data):
            # Wipe what a full disk took of it, so that the reader finds zeros and not half a frame.
            os.pwrite(self._fd, bytes(written), self._offset)
            raise OSError(errno.ENOSPC, "The disk took only part of the frame")
        self._offset += written

    def _rotate(self, needed: int) -> None:
        number = self._number + 1
        path = self._folder.segment(number)
        life_frame = bytearray()
        encode_into(life_frame, self.life, FrameKind.LIFE, 0, self.records)
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
        self._fd, self._offset, self._size, self._number = fd, len(head), size, number
        if finished >= 0:
            self._seal(finished, end)
        if self._sync is not None:
            _sync_directory(self._folder.path)

    def _seal(self, fd: int, end: int) -> None:
        try:
            os.ftruncate(fd, end)
            if self._sync is not None:
                _sync_data(fd)
        finally:
            os.close(fd)


class _GroupedSync:
    """One ``fdatasync`` for all frames that wait for one."""

    def __init__(self, writer: JournalWriter) -> None:
        self._writer = writer
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="e2i-journal-sync")
        self._waiting: list[asyncio.Future[None]] = []
        self._running: asyncio.Task[None] | None = None

    async def wait(self) -> None:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._waiting.append(done)
        if self._running is None or self._running.done():
            self._running = loop.create_task(self._run())
        await done

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            group, self._waiting = self._waiting, []
            try:
                # A duplicate, because the loop may rotate (and close) the segment meanwhile; sealing syncs it.
                fd = os.dup(self._writer._fd)  # noqa: SLF001  # one object in two halves
                try:
                    await loop.run_in_executor(self._executor, _sync_data, fd)
                finally:
                    os.close(fd)
            except OSError as error:
                _settle(group, error)
            else:
                _settle(group, None)

    def close(self) -> None:
        self._executor.shutdown(wait=True)


def _settle(group: list[asyncio.Future[None]], error: OSError | None) -> None:
    for done in group:
        if done.done():
            continue
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error)


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


def _sync_data(fd: int) -> None:
    if sys.platform == "darwin":
        import fcntl  # noqa: PLC0415  # F_FULLFSYNC exists on macOS only

        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(fd)


def _sync_directory(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
