"""A life's folder, and the lock that tells the living from the dead."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import uuid_utils

from e2i_serving.exceptions import JournalError
from e2i_serving.journal.segments import SegmentTotals, life_frame
from e2i_serving.journal.syncing import sync_directory

try:
    import fcntl
except ImportError as error:
    raise ImportError("e2i-serving runs on Linux and macOS. On Windows, run it in WSL 2.") from error

LOCK_NAME = "lock"
SEGMENT_SUFFIX = ".seg"
SPARE_NAME = "next"
"""Name of a segment that was made ahead of need."""
BLOCK_BYTES = 512
"""Unit of ``st_blocks``, whatever a file system's own blocks are."""


def new_life_id() -> str:
    """A fresh id for a life, sortable by time."""
    return str(uuid_utils.uuid7())


class LifeFolder:
    """The folder of one life in a journal.

    Attributes:
        path: ``<journal>/<life>``.
        life: The life's id.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.life = path.name

    @classmethod
    def create(cls, journal: Path, life: str, *, power_loss: bool = False) -> tuple[LifeFolder, int]:
        """Make a life's folder and take its lock, so that none sees the folder unlocked.

        Args:
            journal: The journal's folder, made if need be.
            life: The life's id.
            power_loss: Wait until the way to the folder survives a power loss.

        Returns:
            The folder, and the lock's file descriptor, to be kept open as long as the life lasts.

        Raises:
            JournalError: The folder can't be made.
        """
        made = hidden = journal / f".{life}"
        lock = -1
        try:
            hidden.mkdir(parents=True)
            lock = os.open(hidden / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            made = hidden.rename(journal / life)
            if power_loss:
                _sync_way(journal)
        except OSError as error:
            if lock >= 0:
                os.close(lock)
            shutil.rmtree(made, ignore_errors=True)
            raise JournalError(
                f"No journal can be made in {journal}: {error.strerror}. Make it writable, or set data_dir to another."
            ) from error
        return cls(journal / life), lock

    def alive(self) -> bool:
        """Whether the worker that made this life still runs."""
        with self.inherit() as inherited:
            return not inherited

    @contextmanager
    def inherit(self) -> Iterator[bool]:
        """Hold the lock of a dead life; yields whether that was possible, false while its worker lives."""
        try:
            lock = os.open(self.path / LOCK_NAME, os.O_RDWR)
        except FileNotFoundError:
            yield True
            return
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True
        finally:
            os.close(lock)

    def segments(self) -> list[int]:
        """Numbers of the segments that are there, in order."""
        names = (entry.name for entry in os.scandir(self.path) if entry.name.endswith(SEGMENT_SUFFIX))
        return sorted(int(name.removesuffix(SEGMENT_SUFFIX)) for name in names)

    def segment(self, number: int) -> Path:
        """The path of a segment."""
        return self.path / f"{number:08d}{SEGMENT_SUFFIX}"

    def segment_totals(self, number: int) -> SegmentTotals | None:
        """What stands in a finished segment, told from the heads of it and of the next one.

        Returns:
            The numbers; ``None`` for the last segment, which nothing behind it tells of, and for one that is gone.

        Raises:
            FrameError: One of the two heads can't be read.
        """
        later = next((other for other in self.segments() if other > number), None)
        if later is None:
            return None
        try:
            this, after = life_frame(self.segment(number)), life_frame(self.segment(later))
        except FileNotFoundError:
            return None
        return SegmentTotals(this.sequence + 1, after.sequence, this.ordinal, after.ordinal - this.ordinal)

    def bytes(self) -> int:
        """Disk taken by the folder's files, preallocated segments in full."""
        taken = 0
        with suppress(FileNotFoundError):
            for entry in os.scandir(self.path):
                with suppress(FileNotFoundError):
                    taken += entry.stat().st_blocks * BLOCK_BYTES
        return taken

    def remove(self) -> None:
        """Delete the folder and all in it. For a dead life whose every frame is accounted for."""
        shutil.rmtree(self.path, ignore_errors=True)


def _sync_way(journal: Path) -> None:
    """Wait until a journal's names are on the disk, and those of the folders above it, which may be as new."""
    sync_directory(journal)
    for folder in journal.absolute().parents:
        try:
            sync_directory(folder)
        except OSError:
            return  # not ours to open, so it was there before


def list_lives(journal: Path) -> list[LifeFolder]:
    """The lives of a journal, the oldest first."""
    try:
        names = sorted(entry.name for entry in os.scandir(journal) if entry.is_dir() and not entry.name.startswith("."))
    except FileNotFoundError:
        return []
    return [LifeFolder(journal / name) for name in names]
