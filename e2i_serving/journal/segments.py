"""Segments on disk: bytes out of one, and what the life frame at its head says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from e2i_serving.exceptions import FrameError
from e2i_serving.journal.frame import FRAME_HEAD, SEGMENT_HEAD, SEGMENT_MAGIC, Frame, FrameKind, parse


class SegmentTotals(NamedTuple):
    """What stands in a finished segment, by numbers.

    Attributes:
        first: Sequence number of its first frame.
        last: Sequence number of its last frame; ``first - 1`` when it holds none.
        ordinal: How many prediction records the life had journaled before it.
        records: How many prediction records it holds.
    """

    first: int
    last: int
    ordinal: int
    records: int


def read_at(path: Path, offset: int, size: int | None) -> bytes:
    """Bytes of a file from an offset; all there are when no size is given, fewer at its end."""
    fd = os.open(path, os.O_RDONLY)
    try:
        if size is None:
            size = max(0, os.fstat(fd).st_size - offset)
        return os.pread(fd, size, offset)
    finally:
        os.close(fd)


def life_frame(path: Path) -> Frame:
    """The frame at a segment's head, which says whose it is and how many frames and records stand before it.

    Raises:
        FrameError: The segment is not of this format, or does not begin with a life.
        OSError: It can't be read.
    """
    head = read_at(path, 0, SEGMENT_HEAD.size + FRAME_HEAD.size)
    if not head.startswith(SEGMENT_MAGIC):
        raise FrameError(f"{path} is no journal segment of this format.")
    if len(head) == SEGMENT_HEAD.size + FRAME_HEAD.size:
        length: int = FRAME_HEAD.unpack_from(head, SEGMENT_HEAD.size)[0]
        try:
            parsed = parse(read_at(path, SEGMENT_HEAD.size, FRAME_HEAD.size + length), 0)
        except FrameError:
            parsed = None
        if parsed is not None and parsed[0].kind == FrameKind.LIFE:
            return parsed[0]
    raise FrameError(f"{path} does not begin with the life that wrote it.")
