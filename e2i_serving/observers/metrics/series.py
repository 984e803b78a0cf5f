"""A worker's numbers, in a memory-mapped file that outlives it.

The file is a 64-byte head (magic, bytes used), then one entry a series, each aligned to 8 bytes::

    entry   size u32 | values u32 | key length u32 | reserved u32 | key (padded) | values x float64

The key is MessagePack, ``[family, [label values]]``. An entry is complete before ``used`` covers it. Each number is
one aligned 8-byte store by one thread, so that a reader in another process never sees half of one.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import threading
from bisect import bisect_left
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import msgspec

from e2i_serving.observers.metrics.families import Family

MAGIC = b"E2IMETR\x01"
HEAD = struct.Struct("<8sQ")
HEAD_SIZE = 64
ENTRY_HEAD = struct.Struct("<IIII")
FILE_SUFFIX = ".series"
FILE_BYTES = 1024 * 1024
OTHER = "__other__"
"""Label value of all series that no longer found room."""


class Sample(NamedTuple):
    """A series as read back."""

    family: str
    labels: tuple[str, ...]
    values: tuple[float, ...]


class Series:
    """The numbers of one series of one worker. Written by one thread only.

    Args:
        family: The family it is of.
        view: All numbers of the file.
        start: Index of its first number.
    """

    __slots__ = ("_buckets", "_start", "_sum", "_view")

    def __init__(self, family: Family, view: memoryview[float], start: int) -> None:
        self._view = view
        self._start = start
        self._buckets = family.buckets
        self._sum = start + family.width - 1

    def add(self, amount: float = 1.0) -> None:
        """Add to a counter or gauge."""
        self._view[self._start] += amount

    def set(self, value: float) -> None:
        """Set a counter or gauge that is counted elsewhere."""
        self._view[self._start] = value

    def observe(self, value: float) -> None:
        """Count a value in a histogram."""
        view = self._view
        view[self._start + bisect_left(self._buckets, value)] += 1.0
        view[self._sum] += value


class SeriesFile:
    """The series of one worker life.

    Args:
        folder: ``<data>/metrics``.
        life: The life's id; names the file.

    Raises:
        OSError: The file can't be made.
    """

    def __init__(self, folder: Path, life: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{life}{FILE_SUFFIX}"
        draft = folder / f".{life}"
        # Kept open for its lock, by which a scrape knows that the worker lives.
        self._fd = os.open(draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Reserved in full, because a store to a mapped hole of a full disk would kill the worker.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(self._fd, 0, FILE_BYTES)
            else:
                os.ftruncate(self._fd, FILE_BYTES)
            self._map = mmap.mmap(self._fd, FILE_BYTES)
            self._map[: HEAD.size] = HEAD.pack(MAGIC, HEAD_SIZE)
            # Its name comes last, so that none takes it for a dead worker's, and folds it, before it is locked.
            draft.rename(self.path)
        except OSError:
            os.close(self._fd)
            draft.unlink(missing_ok=True)
            raise
        self._numbers = memoryview(self._map).cast("d")
        self._used = HEAD_SIZE
        self._series: dict[tuple[str, tuple[str, ...]], Series] = {}
        self._making = threading.Lock()

    def series(self, family: Family, *labels: str) -> Series:
        """The series of a family with these label values, made if it is new.

        When the file is full, the family's ``__other__`` series takes what comes; room for it is kept.
        """
        key = (family.name, labels)
        known = self._series.get(key)
        if known is not None:
            return known
        # A scrape makes series in a thread of its own.
        with self._making:
            return self._series.get(key) or self._make(family, labels)

    def close(self) -> None:
        """Give up the lock; the numbers stay for others to read."""
        if self._fd >= 0:
            self._map.flush()
            fcntl.flock(self._fd, fcntl.LOCK_UN)  # the map keeps the file open
            os.close(self._fd)
            self._fd = -1

    def _make(self, family: Family, labels: tuple[str, ...]) -> Series:
        is_last = not labels or OTHER in labels
        encoded = msgspec.msgpack.encode((family.name, labels))
        start = self._allocate(encoded, family.width, 0 if is_last else FILE_BYTES // 4)
        if start is not None:
            made = Series(family, self._numbers, start)
        elif is_last:
            raise OSError(f"{self.path} has no room for another series.")
        else:
            others = (OTHER,) * len(labels)
            made = self._series.get((family.name, others)) or self._make(family, others)
        self._series[family.name, labels] = made
        return made

    def _allocate(self, key: bytes, values: int, reserve: int) -> int | None:
        key_room = -(-len(key) // 8) * 8
        size = ENTRY_HEAD.size + key_room + 8 * values
        if self._used + size > FILE_BYTES - reserve:
            return None
        at = self._used
        ENTRY_HEAD.pack_into(self._map, at, size, values, len(key), 0)
        self._map[at + ENTRY_HEAD.size : at + ENTRY_HEAD.size + len(key)] = key
        self._used += size
        HEAD.pack_into(self._map, 0, MAGIC, self._used)
        return (at + ENTRY_HEAD.size + key_room) // 8


_decode_key = msgspec.msgpack.Decoder(tuple[str, tuple[str, ...]]).decode


def read_series(content: bytes) -> Iterator[Sample]:
    """The samples in the bytes of a series file; nothing, when it is no such file.

    Ends early at an entry that is not whole, as a machine that lost its power may leave one.
    """
    if len(content) < HEAD_SIZE or not content.startswith(MAGIC):
        return
    used = min(HEAD.unpack_from(content)[1], len(content))
    at = HEAD_SIZE
    while at < used:
        if used - at < ENTRY_HEAD.size:
            return
        size, values, key_length, _ = ENTRY_HEAD.unpack_from(content, at)
        key_at = at + ENTRY_HEAD.size
        if not ENTRY_HEAD.size + key_length + 8 * values <= size <= used - at:
            return
        try:
            family, labels = _decode_key(content[key_at : key_at + key_length])
        except msgspec.DecodeError:
            return
        yield Sample(family, labels, struct.unpack_from(f"<{values}d", content, at + size - 8 * values))
        at += size
