"""A worker's numbers, in a memory-mapped file that outlives it.

The file is a 64-byte head (magic, bytes used), then entries, each aligned to 8 bytes::

    entry   size u32 | values u32 | key length u32 | exemplars u32 | key (padded) | values x float64 | exemplars x 88 B

The key is MessagePack: ``[family, [label values]]`` of a series, or a whole family before its first series, by which
a reader of any release knows the family's type, labels and buckets. An entry is complete before ``used`` covers it.
Each number is one aligned 8-byte store by one thread, so that a reader in another process never sees half of one; an
exemplar has a checksum for that.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import threading
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import msgspec

from e2i_serving.observers.metrics.exemplars import EXEMPLAR_BYTES, Exemplar, read_exemplars, write_exemplar
from e2i_serving.observers.metrics.families import Family

MAGIC = b"E2IMETR\x02"
HEAD = struct.Struct("<8sQ")
HEAD_SIZE = 64
ENTRY_HEAD = struct.Struct("<IIII")
FILE_SUFFIX = ".series"
FILE_BYTES = 2 * 1024 * 1024
OTHER = "__other__"
"""Label value of all series that no longer found room."""

_IS_FAMILY = 0xFFFFFFFF
"""Stands for the number of exemplars in an entry that describes a family."""


class Sample(NamedTuple):
    """A series as read back."""

    family: str
    labels: tuple[str, ...]
    values: tuple[float, ...]
    exemplars: dict[int, Exemplar] = {}
    """By index of their bucket."""


class Series:
    """The numbers of one series of one worker. Written by one thread only.

    Args:
        family: The family it is of.
        numbers: All numbers of the file.
        start: Index of its first number.
        content: All bytes of the file.
    """

    __slots__ = ("_buckets", "_content", "_exemplars", "_numbers", "_start", "_sum")

    def __init__(self, family: Family, numbers: memoryview[float], start: int, content: mmap.mmap) -> None:
        self._numbers = numbers
        self._start = start
        self._buckets = family.buckets
        self._sum = start + family.width - 1
        self._content = content
        self._exemplars = 8 * (start + family.width)

    def add(self, amount: float = 1.0) -> None:
        """Add to a counter or gauge."""
        self._numbers[self._start] += amount

    def set(self, value: float) -> None:
        """Set a counter or gauge that is counted elsewhere."""
        self._numbers[self._start] = value

    def move(self, numbers: memoryview[float], content: mmap.mmap) -> None:
        """Go on in a copy of the file."""
        self._numbers = numbers
        self._content = content

    def observe(self, value: float) -> None:
        """Count a value in a histogram."""
        numbers = self._numbers
        numbers[self._start + bisect_left(self._buckets, value)] += 1.0
        numbers[self._sum] += value

    def observe_example(self, value: float, time: float, trace_id: str, prediction_id: str) -> None:
        """Count a value in a histogram whose family has exemplars, and remember whose it was."""
        bucket = bisect_left(self._buckets, value)
        numbers = self._numbers
        numbers[self._start + bucket] += 1.0
        numbers[self._sum] += value
        write_exemplar(self._content, self._exemplars + EXEMPLAR_BYTES * bucket, value, time, trace_id, prediction_id)

    def observe_counts(self, counts: Sequence[int], total: float) -> None:
        """Count many values in a histogram at once.

        Args:
            counts: How many there are in each bucket, the last of them above all bounds.
            total: Their sum.
        """
        numbers = self._numbers
        for bucket, count in enumerate(counts, self._start):
            if count:
                numbers[bucket] += count
        numbers[self._sum] += total


class SeriesFile:
    """The series of one worker life.

    Args:
        folder: ``<data>/metrics``.
        life: The life's id; names the file.
        suffix: How the file's name ends.
        size: Its size, in bytes.
        shown: Whether it is read from now on; else from ``show`` on.

    Raises:
        OSError: The file can't be made.
    """

    def __init__(
        self, folder: Path, life: str, *, suffix: str = FILE_SUFFIX, size: int = FILE_BYTES, shown: bool = True
    ) -> None:
        self._folder = folder
        self.path = folder / f"{life}{suffix}"
        self._draft = draft_of(folder, life)
        self._size = size
        self._used = HEAD_SIZE
        self._series: dict[tuple[str, tuple[str, ...]], Series] = {}
        self._described: set[str] = set()
        self._making = threading.Lock()
        self._fd, self._map = self._make_file(HEAD.pack(MAGIC, HEAD_SIZE), shown=shown)
        self._numbers = memoryview(self._map).cast("d")

    def _make_file(self, content: bytes, *, shown: bool = True) -> tuple[int, mmap.mmap]:
        self._folder.mkdir(parents=True, exist_ok=True)
        # Kept open for its lock, by which a scrape knows that the worker lives.
        fd = os.open(self._draft, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Reserved in full, because a store to a mapped hole of a full disk would kill the worker.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(fd, 0, self._size)
            else:
                os.ftruncate(fd, self._size)
            mapped = mmap.mmap(fd, self._size)
            mapped[: len(content)] = content
            # Its name comes last, so that none takes it for a dead worker's, and folds it, before it is locked.
            if shown:
                self.show()
        except OSError:
            os.close(fd)
            self._draft.unlink(missing_ok=True)
            raise
        return fd, mapped

    def show(self) -> None:
        """Have others read the file, in the place of one of the same name.

        Raises:
            OSError: It can't be put there.
        """
        self._draft.rename(self.path)

    def restore(self) -> None:
        """If the file was deleted under its worker, put it back with all its numbers. Called where they are written.

        Raises:
            OSError: It can't be put back now.
        """
        if self._fd < 0 or os.fstat(self._fd).st_nlink:
            return
        with self._making:
            fd, mapped = self._make_file(self._map[: self._used])
            os.close(self._fd)
            self._fd, self._map = fd, mapped
            self._numbers = memoryview(mapped).cast("d")
            for series in self._series.values():
                series.move(self._numbers, mapped)

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
        others = _others(family, labels)
        # A quarter is kept for the others, and for what has no labels and so no others.
        reserve = 0 if OTHER in labels or labels == others else self._size // 4
        if family.name not in self._described:
            described = self._allocate(msgspec.msgpack.encode(family), 0, _IS_FAMILY, reserve)
            if described is None:
                return self._without_room(family, labels, others)
            self._described.add(family.name)
        exemplars = family.width - 1 if family.exemplars else 0
        encoded = msgspec.msgpack.encode((family.name, labels))
        start = self._allocate(encoded, family.width, exemplars, reserve)
        if start is None:
            return self._without_room(family, labels, others)
        made = self._series[family.name, labels] = Series(family, self._numbers, start, self._map)
        return made

    def _without_room(self, family: Family, labels: tuple[str, ...], others: tuple[str, ...]) -> Series:
        if labels == others:
            raise OSError(f"{self.path} has no room for another series.")
        made = self._series.get((family.name, others)) or self._make(family, others)
        self._series[family.name, labels] = made
        return made

    def _allocate(self, key: bytes, values: int, exemplars: int, reserve: int) -> int | None:
        key_room = -(-len(key) // 8) * 8
        examples = 0 if exemplars == _IS_FAMILY else exemplars
        size = ENTRY_HEAD.size + key_room + 8 * values + EXEMPLAR_BYTES * examples
        if self._used + size > self._size - reserve:
            return None
        at = self._used
        ENTRY_HEAD.pack_into(self._map, at, size, values, len(key), exemplars)
        self._map[at + ENTRY_HEAD.size : at + ENTRY_HEAD.size + len(key)] = key
        self._used += size
        HEAD.pack_into(self._map, 0, MAGIC, self._used)
        return (at + ENTRY_HEAD.size + key_room) // 8


def draft_of(folder: Path, life: str) -> Path:
    """A file under its name before it is shown, which no pattern for those that are finds."""
    return folder / f".{life}.new"


def _others(family: Family, labels: tuple[str, ...]) -> tuple[str, ...]:
    """The label values of the series that takes what found no room; names among the labels stay."""
    fixed = len(family.labels)
    named = (name if place % 2 == 0 else OTHER for place, name in enumerate(labels[fixed:]))
    return (OTHER,) * fixed + tuple(named)


_decode_key = msgspec.msgpack.Decoder(tuple[str, tuple[str, ...]]).decode
_decode_family = msgspec.msgpack.Decoder(Family).decode


def read_entries(content: bytes) -> Iterator[Sample | Family]:
    """The samples in the bytes of a series file, each behind its family; nothing, when it is no such file.

    Ends early at an entry that is not whole, as a machine that lost its power may leave one.
    """
    if len(content) < HEAD_SIZE or not content.startswith(MAGIC):
        return
    used = min(HEAD.unpack_from(content)[1], len(content))
    at = HEAD_SIZE
    while at < used:
        if used - at < ENTRY_HEAD.size:
            return
        size, values, key_length, exemplars = ENTRY_HEAD.unpack_from(content, at)
        key_at = at + ENTRY_HEAD.size
        values_at = key_at + -(-key_length // 8) * 8
        examples = 0 if exemplars == _IS_FAMILY else exemplars
        examples_at = values_at + 8 * values
        if not examples_at + EXEMPLAR_BYTES * examples <= at + size <= used:
            return
        try:
            key = content[key_at : key_at + key_length]
            if exemplars == _IS_FAMILY:
                yield _decode_family(key)
            else:
                family, labels = _decode_key(key)
                numbers = struct.unpack_from(f"<{values}d", content, values_at)
                yield Sample(family, labels, numbers, read_exemplars(content, examples_at, examples))
        except msgspec.DecodeError:
            return
        at += size


def read_series(content: bytes) -> Iterator[Sample]:
    """The samples alone, as ``read_entries`` gives them."""
    return (entry for entry in read_entries(content) if isinstance(entry, Sample))
