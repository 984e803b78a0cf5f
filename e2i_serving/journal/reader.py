"""The reading end: follow a life's frames from a position, while its worker writes or after it died."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from e2i_serving.exceptions import FrameError
from e2i_serving.journal.frame import FRAME_HEAD, SEGMENT_HEAD, Frame, FrameKind, gap_frame, parse
from e2i_serving.journal.lives import LifeFolder
from e2i_serving.journal.segments import life_frame, read_at
from e2i_serving.record import Gap, Life

CHUNK = 1024 * 1024
DAMAGED = "damaged"
"""Reason of a gap whose frames are not in the journal, or not as they were written."""


class Position(NamedTuple):
    """Where a reader stands: behind the last frame it has dealt with.

    Attributes:
        segment: The segment's number.
        offset: The offset in it.
        sequence: Sequence number of the last frame dealt with, a gap's last one included.
        ordinal: How many prediction records stand before this position, those in gaps included.
    """

    segment: int = 1
    offset: int = SEGMENT_HEAD.size
    sequence: int = 0
    ordinal: int = 0


class JournalReader:
    """Reads the frames of one life in order.

    Frames are numbered without a hole, so that whatever is missing shows when the next one is read. It is then
    returned as a frame of kind ``GAP``, in its place: its sequence is that of the last frame missing, and it
    decodes to a ``Gap`` that says how many frames and records are gone. A damaged frame costs itself alone where
    its length still leads to a whole frame that numbers on; else what stands behind it in its segment.

    Args:
        folder: The life's folder.
        position: Where to begin.
        given_up: Numbers of segments of which nothing counts but whose they are.

    Attributes:
        position: Behind the last frame returned.
        life: The life, once its first frame was read.
        given_up: As above; may be added to.
    """

    def __init__(self, folder: LifeFolder, position: Position | None = None, given_up: Iterable[int] = ()) -> None:
        self.folder = folder
        self.position = position or Position()
        self.life: Life | None = None
        self.given_up = set(given_up)
        self._torn_at: set[tuple[int, int]] = set()

    def read(self, limit: int, *, ended: bool, max_bytes: int = sys.maxsize) -> list[Frame]:
        """The next frames, gaps among them, life frames left out.

        Args:
            limit: Most frames to return.
            ended: Whether the life is over, so that what is not whole will never be.
            max_bytes: Bytes of payload after which no more are looked for.

        Returns:
            Frames in order; fewer than ``limit`` only when there are so many bytes, or no more for now.

        Raises:
            FrameError: A segment is not of this format, or none says whose it is.
            OSError: A segment can't be read. In either case the reader stays where it was.
        """
        start = self.position
        try:
            return self._read(limit, ended=ended, max_bytes=max_bytes)
        except (FrameError, OSError):
            self.position = start
            raise

    def skip_to_segment(self, number: int, reason: str) -> Frame | None:
        """Pass over what is left before a segment.

        Args:
            number: The segment to go on with.
            reason: Why, for the gap.

        Returns:
            The gap in the form of a frame; ``None`` if there was nothing to pass over.

        Raises:
            FrameError: The segment does not say what stands before it.
            OSError: The segment can't be read. In either case the reader stays where it was.
        """
        if number <= self.position.segment:
            return None
        head = life_frame(self.folder.segment(number))
        gap = self._gap_before(head, reason)
        self.position = Position(
            number,
            SEGMENT_HEAD.size,
            max(self.position.sequence, head.sequence),
            max(self.position.ordinal, head.ordinal),
        )
        return gap

    @property
    def torn(self) -> int:
        """How many torn tails were met."""
        return len(self._torn_at)

    def _read(self, limit: int, *, ended: bool, max_bytes: int) -> list[Frame]:
        frames: list[Frame] = []
        while len(frames) < limit and sum(len(frame.payload) for frame in frames) < max_bytes:
            later = self._next_segment()
            before = self.position
            torn = self._read_segment(frames, limit)
            if len(frames) >= limit or self.position != before:
                continue
            # Nothing more here. The segment is finished only if a later one was there *before* we looked.
            if not (later or ended):
                break
            if torn:
                self._torn_at.add((before.segment, before.offset))
            if later is None:
                break
            self.position = self.position._replace(segment=later, offset=SEGMENT_HEAD.size)
        return frames

    def _next_segment(self) -> int | None:
        try:
            return next((number for number in self.folder.segments() if number > self.position.segment), None)
        except FileNotFoundError:
            return None

    def _read_segment(self, frames: list[Frame], limit: int) -> bool:
        """Read on in the current segment; returns whether what stands there is a torn or foreign frame."""
        path = self.folder.segment(self.position.segment)
        try:
            data = read_at(path, self.position.offset, FRAME_HEAD.size)
            if any(data[:4]):
                data = read_at(path, self.position.offset, CHUNK)
            if self.life is None:
                self.life = self._find_life(path)
        except FileNotFoundError:
            return False
        life = self.life.life
        data = self._without_lost(data)
        offset = 0
        try:
            while len(frames) < limit:
                parsed = parse(data, offset, life)
                if parsed is None and offset == 0 and len(data) == CHUNK and any(data[:4]):
                    data = read_at(path, self.position.offset, None)  # a frame larger than a chunk
                    parsed = parse(data, offset, life)
                if parsed is None:
                    break
                frame, end = parsed
                gap = self._gap_before(frame, DAMAGED)
                if gap is not None:
                    frames.append(gap)
                    self.position = self.position._replace(sequence=gap.sequence, ordinal=gap.ordinal)
                    continue
                self._advance(frame, end - offset)
                offset = end
                if frame.kind != FrameKind.LIFE:
                    frames.append(frame)
        except FrameError:
            return offset > 0 or not self._pass_damage(path, life)
        return any(data[offset : offset + 4])

    def _without_lost(self, data: bytes) -> bytes:
        """What counts of a segment's bytes: what was given up is not there, whether or not it could be cut off."""
        if self.position.segment not in self.given_up:
            return data
        if self.position.offset > SEGMENT_HEAD.size or len(data) < FRAME_HEAD.size:
            return b""
        return data[: FRAME_HEAD.size + FRAME_HEAD.unpack_from(data)[0]]

    def _gap_before(self, frame: Frame, reason: str) -> Frame | None:
        sequence, ordinal = self.position.sequence, self.position.ordinal
        last = frame.sequence - (frame.kind != FrameKind.LIFE)
        if last <= sequence:
            return None
        before = max(ordinal, frame.ordinal - (frame.kind == FrameKind.RECORD))
        return gap_frame(Gap(sequence + 1, last, before - ordinal, reason), before, frame.life or self.folder.life)

    def _advance(self, frame: Frame, length: int) -> None:
        position = self.position
        self.position = Position(
            position.segment,
            position.offset + length,
            max(position.sequence, frame.sequence),
            max(position.ordinal, frame.ordinal),
        )

    def _pass_damage(self, path: Path, life: str) -> bool:
        """Go behind the damaged frame here, if its length leads to a whole one; returns whether it did."""
        data = read_at(path, self.position.offset, None)
        at = 0
        while len(data) - at >= FRAME_HEAD.size:
            length: int = FRAME_HEAD.unpack_from(data, at)[0]
            if length == 0:
                return False
            at += FRAME_HEAD.size + length
            try:
                parsed = parse(data, at, life)
            except FrameError:
                continue  # several in a row
            # Looked at once more: a frame with a whole one behind it is written, and a moment ago it may not have been.
            if parsed is None or not self._numbers_on(parsed[0]) or not _is_damaged(path, self.position.offset, at):
                return False
            self.position = self.position._replace(offset=self.position.offset + at)
            return True
        return False

    def _numbers_on(self, frame: Frame) -> bool:
        further = frame.sequence - self.position.sequence
        return further > 0 and 0 <= frame.ordinal - self.position.ordinal <= further

    def _find_life(self, path: Path) -> Life:
        """The life as this segment's head says it, or another's where this one's is damaged."""
        try:
            return _life_of(path)
        except FrameError:
            for number in self.folder.segments():
                try:
                    return _life_of(self.folder.segment(number))
                except (FrameError, FileNotFoundError):
                    continue
            raise


def _life_of(path: Path) -> Life:
    body = life_frame(path).decode()
    if not isinstance(body, Life):
        raise FrameError(f"{path} does not begin with the life that wrote it.")
    return body


def _is_damaged(path: Path, offset: int, size: int) -> bool:
    try:
        return parse(read_at(path, offset, size), 0) is None
    except FrameError:
        return True
