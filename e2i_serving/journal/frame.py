r"""The frame: the unit of the journal, the same for good.

A segment is a 32-byte head, then frames back to back, then zeros to its preallocated size::

    segment head   magic "E2IJRNL\x01" | number u32 | reserved u32 | created_ns u64 | reserved u64
    frame          length u32 | crc u32 | schema u8 | kind u8 | flags u16 | reserved u32
                   | sequence u64 | ordinal u64 | payload (length bytes)

All little-endian. ``crc`` is CRC-32 over the frame from ``schema`` on. ``sequence`` numbers the frames of
a life from 1; the life frame that opens each segment has 0. ``ordinal`` is how many prediction records
the life has journalled up to and with this frame. ``flags`` and the reserved bytes are zero. A length of zero
is where the data ends. The payload is MessagePack, its shape given by kind and schema.
"""

from __future__ import annotations

import struct
import zlib
from enum import IntEnum
from typing import NamedTuple

import msgspec
import numpy as np

from e2i_serving.exceptions import FrameError, NewerFrameError
from e2i_serving.record import SCHEMA_VERSION, Life, PredictionRecord, StreamEnd

SEGMENT_MAGIC = b"E2IJRNL\x01"
SEGMENT_HEAD = struct.Struct("<8sIIQQ")
FRAME_HEAD = struct.Struct("<IIBBHIQQ")
CHECKED_FROM = 8
"""Offset in a frame from which the checksum covers it."""


class FrameKind(IntEnum):
    """What a frame's payload is."""

    LIFE = 1
    RECORD = 2
    STREAM_END = 3


class Frame(NamedTuple):
    """A frame as read back, its payload still encoded."""

    kind: int
    """A ``FrameKind``, or what a newer release added to them."""
    schema: int
    sequence: int
    ordinal: int
    payload: bytes

    @property
    def is_newer(self) -> bool:
        """Whether a newer release wrote it, so that this one can't decode it."""
        return self.schema > SCHEMA_VERSION

    def decode(self) -> Life | PredictionRecord | StreamEnd:
        """The payload as what it is.

        Raises:
            NewerFrameError: It was written by a newer release.
            FrameError: It is not what its kind says.
        """
        if self.is_newer:
            raise NewerFrameError(
                f"Frame {self.sequence} has schema {self.schema}; this release reads up to {SCHEMA_VERSION}. "
                "Let the newer release's relay deliver it."
            )
        kind = FrameKind(self.kind)
        try:
            return _DECODERS[kind].decode(self.payload)
        except msgspec.DecodeError as error:
            raise FrameError(f"Frame {self.sequence} of kind {kind.name} can't be decoded: {error}") from error


_KINDS = frozenset(FrameKind)
_DECODERS: dict[FrameKind, msgspec.msgpack.Decoder[Life | PredictionRecord | StreamEnd]] = {
    FrameKind.LIFE: msgspec.msgpack.Decoder(Life),
    FrameKind.RECORD: msgspec.msgpack.Decoder(PredictionRecord),
    FrameKind.STREAM_END: msgspec.msgpack.Decoder(StreamEnd),
}


def _stand_in(value: object) -> object:
    if isinstance(value, np.generic):
        plain = value.item()
        if not isinstance(plain, np.generic):
            return plain
    return f"<{type(value).__module__}.{type(value).__qualname__}>"


# A value that has no plain form costs its own content, never the record.
_ENCODER = msgspec.msgpack.Encoder(enc_hook=_stand_in)


def encode_into(
    buffer: bytearray, body: Life | PredictionRecord | StreamEnd, kind: FrameKind, sequence: int, ordinal: int
) -> None:
    """Write one frame into ``buffer``, which afterwards holds exactly that frame.

    Raises:
        OverflowError: A number is out of MessagePack's range.
    """
    _ENCODER.encode_into(body, buffer, FRAME_HEAD.size)
    length = len(buffer) - FRAME_HEAD.size
    FRAME_HEAD.pack_into(buffer, 0, length, 0, SCHEMA_VERSION, kind, 0, 0, sequence, ordinal)
    with memoryview(buffer) as view:
        crc = zlib.crc32(view[CHECKED_FROM:])
    struct.pack_into("<I", buffer, 4, crc)


def segment_head(number: int, created_ns: int) -> bytes:
    """The first bytes of a segment."""
    return SEGMENT_HEAD.pack(SEGMENT_MAGIC, number, 0, created_ns, 0)


def parse(data: bytes, offset: int) -> tuple[Frame, int] | None:
    """Read the frame at an offset.

    Args:
        data: Bytes of a segment.
        offset: Where in ``data`` the frame begins.

    Returns:
        The frame and the offset behind it; ``None`` when no whole frame is there: the data ends, or the
        rest of the frame has not been read or not been written yet.

    Raises:
        FrameError: What stands there is whole and not a frame: it was torn or altered.
    """
    if len(data) - offset < FRAME_HEAD.size:
        return None
    length, crc, schema, kind, _flags, _reserved, sequence, ordinal = FRAME_HEAD.unpack_from(data, offset)
    if length == 0:
        return None
    end = offset + FRAME_HEAD.size + length
    if end > len(data):
        return None
    if zlib.crc32(memoryview(data)[offset + CHECKED_FROM : end]) != crc:
        raise FrameError("The frame's checksum does not match its content.")
    if kind not in _KINDS and schema <= SCHEMA_VERSION:
        raise FrameError(f"Frame {sequence} is of kind {kind}, which no release knows.")
    return Frame(kind, schema, sequence, ordinal, data[offset + FRAME_HEAD.size : end]), end
