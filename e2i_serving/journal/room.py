"""The bound on an instance's journal: how much disk it takes, and how much more it may."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from e2i_serving.journal.damage import set_aside_bytes
from e2i_serving.journal.lives import BLOCK_BYTES, LifeFolder, list_lives


class JournalRoom:
    """Measures what the finished segments of all lives of an instance take, and those of dead lives in full.

    What was set aside as damaged counts like a dead life.

    The segment that a worker has open, and the one made ahead, are not counted: they are what it works with, and
    it can't be without. Blocks on the disk, so it is asked off the path.

    Args:
        journal: The journal's folder, ``<data>/journal``.
        limit: Most bytes the segments may take.
    """

    def __init__(self, journal: Path, limit: int) -> None:
        self._journal = journal
        self._limit = limit
        self._dead: set[str] = set()

    def left(self) -> int:
        """How many more bytes finished segments may take; negative when they take more than they may."""
        return self._limit - self.taken()

    def taken(self) -> int:
        """How many bytes they take."""
        folders = list_lives(self._journal)
        self._dead &= {folder.life for folder in folders}
        return sum(self._taken_by(folder) for folder in folders) + set_aside_bytes(self._journal)

    def _taken_by(self, folder: LifeFolder) -> int:
        # Asked until it is dead, and not after: whoever reads a dead life may hold its lock.
        if folder.life not in self._dead and not folder.alive():
            self._dead.add(folder.life)
        with suppress(FileNotFoundError):
            if folder.life in self._dead:
                return folder.bytes()
            return sum(folder.segment(number).stat().st_blocks * BLOCK_BYTES for number in folder.segments()[:-1])
        return 0
