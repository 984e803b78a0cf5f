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
        # Kept open for its lock, by which a scrape knows that the worker lives.
        self._fd = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        # Reserved in full, because a store to a mapped hole of a full disk would kill the worker.
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(self._fd, 0, FILE_BYTES)
        else:
            os.ftruncate(self._fd, FILE_BYTES)
        self._map = mmap.mmap(self._fd, FILE_BYTES)
        self._numbers = memoryview(self._map).cast("d")
        self._used = HEAD_SIZE
        self._map[: HEAD.size] = HEAD.pack(MAGIC, self._used)
        self._series: dict[tuple[str, tuple[str, ...]], Series] = {}

    def series(self, family: Family, *labels: str) -> Series:
        """The series of a family with these label values, made if it is new.

        When the file is full, the family's ``__other__`` series takes what comes; room for it is kept.
        """
        key = (family.name, labels)
        known = self._series.get(key)
        if known is not None:
            return known
        encoded = msgspec.msgpack.encode((family.name, labels))
        reserve = 0 if OTHER in labels else FILE_BYTES // 4
        start = self._allocate(encoded, family.width, reserve)
        if start is None:
            if OTHER in labels:
                raise OSError(f"{self.path} has no room for another series.")
            made = self.series(family, *(OTHER for _ in labels))
        else:
            made = Series(family, self._numbers, start)
        self._series[key] = made
        return made

    def close(self) -> None:
        """Give up the lock; the numbers stay for others to read."""
        if self._fd >= 0:
            self._map.flush()
            os.close(self._fd)
            self._fd = -1

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


def read_series(content: bytes) -> Iterator[Sample]:
    """The samples in the bytes of a series file; nothing, when it is no such file."""
    if len(content) < HEAD_SIZE or not content.startswith(MAGIC):
        return
    used = min(HEAD.unpack_from(content)[1], len(content))
    at = HEAD_SIZE
    while at < used:
        size, values, key_length, _ = ENTRY_HEAD.unpack_from(content, at)
        key_at = at + ENTRY_HEAD.size
        family, labels = msgspec.msgpack.decode(
            content[key_at : key_at + key_length], type=tuple[str, tuple[str, ...]]
        )
        yield Sample(family, labels, struct.unpack_from(f"<{values}d", content, at + size - 8 * values))
        at += size
