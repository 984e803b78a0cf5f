"""The reading end: follow a life's frames from a position, while its worker writes or after it died."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from e2i_serving.exceptions import FrameError
from e2i_serving.journal.frame import FRAME_HEAD, SEGMENT_HEAD, SEGMENT_MAGIC, Frame, FrameKind, parse
from e2i_serving.journal.lives import LifeFolder
from e2i_serving.record import Life

CHUNK = 1024 * 1024


class Position(NamedTuple):
    """Where a reader stands: behind the last frame it has dealt with.

    Attributes:
        segment: The segment's number.
        offset: The offset in it.
        sequence: Sequence number of the last frame dealt with.
        ordinal: How many prediction records stand before this position.
    """

    segment: int = 1
    offset: int = SEGMENT_HEAD.size
    sequence: int = 0
    ordinal: int = 0


class JournalReader:
    """Reads the frames of one life in order.

    Args:
        folder: The life's folder.
        position: Where to begin.

    Attributes:
        position: Behind the last frame returned.
        life: The life, once its first frame was read.
    """

    def __init__(self, folder: LifeFolder, position: Position | None = None) -> None:
        self.folder = folder
        self.position = position or Position()
        self.life: Life | None = None
        self._torn_at: set[Position] = set()

    def read(self, limit: int, *, ended: bool) -> list[Frame]:
        """The next frames, life frames left out.

        Args:
            limit: Most frames to return.
            ended: Whether the life is over, so that what is not whole will never be.

        Returns:
            Frames in order; fewer than ``limit`` only when there are no more for now.

        Raises:
            FrameError: A segment is not of this format, or does not say whose it is.
            OSError: A segment can't be read. In either case the reader stays where it was.
        """
        start = self.position
        try:
            return self._read(limit, ended=ended)
        except (FrameError, OSError):
            self.position = start
            raise

    def _read(self, limit: int, *, ended: bool) -> list[Frame]:
        frames: list[Frame] = []
        while len(frames) < limit:
            later = self._next_segment()
            before = self.position
            torn = self._read_segment(frames, limit)
            if len(frames) >= limit or self.position != before:
                continue
            # Nothing more here. The segment is finished only if a later one was there *before* we looked.
            if not (later or ended):
                break
            if torn:
                self._torn_at.add(before)
            if later is None:
                break
            self.position = self.position._replace(segment=later, offset=SEGMENT_HEAD.size)
        return frames

    @property
    def torn(self) -> int:
        """How many torn tails were met."""
        return len(self._torn_at)

    def _next_segment(self) -> int | None:
        try:
            return next((number for number in self.folder.segments() if number > self.position.segment), None)
        except FileNotFoundError:
            return None

    def _read_segment(self, frames: list[Frame], limit: int) -> bool:
        """Read on in the current segment; returns whether what stands there is a torn or foreign frame."""
        path = self.folder.segment(self.position.segment)
        try:
            data = _read_at(path, self.position.offset, FRAME_HEAD.size)
            if any(data[:4]):
                data = _read_at(path, self.position.offset, CHUNK)
        except FileNotFoundError:
            return False
        if self.life is None:
            self._read_life(path)
        offset = 0
        try:
            while len(frames) < limit:
                parsed = parse(data, offset)
                if parsed is None and offset == 0 and len(data) == CHUNK and any(data[:4]):
                    data = _read_at(path, self.position.offset, None)  # a frame larger than a chunk
                    parsed = parse(data, offset)
                if parsed is None:
                    break
                frame, end = parsed
                self._advance(frame, end - offset)
                offset = end
                if frame.kind != FrameKind.LIFE:
                    frames.append(frame)
        except FrameError:
            return True
        return any(data[offset : offset + 4])

    def _advance(self, frame: Frame, length: int) -> None:
        position = self.position
        self.position = Position(
            position.segment,
            position.offset + length,
            max(position.sequence, frame.sequence),
            max(position.ordinal, frame.ordinal),
        )

    def _read_life(self, path: Path) -> None:
        head = _read_at(path, 0, CHUNK)
        if not head.startswith(SEGMENT_MAGIC):
            raise FrameError(f"{path} is no journal segment of this format.")
        parsed = parse(head, SEGMENT_HEAD.size)
        body = parsed[0].decode() if parsed else None
        if not isinstance(body, Life):
            raise FrameError(f"{path} does not begin with the life that wrote it.")
        self.life = body


def _read_at(path: Path, offset: int, size: int | None) -> bytes:
    fd = os.open(path, os.O_RDONLY)
    try:
        if size is None:
            size = max(0, os.fstat(fd).st_size - offset)
        return os.pread(fd, size, offset)
    finally:
        os.close(fd)
