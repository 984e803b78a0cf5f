r"""The frame: the unit of the journal, the same for good.

A segment is a 32-byte head, then frames back to back, then zeros to its preallocated size::

    segment head   magic "E2IJRNL\x01" | number u32 | reserved u32 | created_ns u64 | reserved u64
    frame          length u32 | crc u32 | schema u8 | kind u8 | flags u16 | key id u32
                   | sequence u64 | ordinal u64 | payload (length bytes)

All little-endian. ``crc`` is CRC-32 over the frame from ``schema`` on. ``sequence`` numbers the frames of
a life from 1; the life frame that opens each segment repeats that of the last frame before it. ``ordinal`` is
how many prediction records the life has journalled up to and with this frame. So any two frames tell how many
frames, and how many records among them, stood between them. A length of zero is where the data ends.

The payload is MessagePack, its shape given by kind and schema. When bit 0 of ``flags`` is set it is encrypted,
with the key of that number and the life's id as context; life frames never are. When bit 1 is set the payload was
erased after it was delivered: zeros stand in its place. All other bits, the key id of a plain frame and the reserved
bytes are zero.
"""

from __future__ import annotations

import struct
import zlib
from enum import IntEnum
from typing import NamedTuple

import msgspec

from e2i_serving.exceptions import EncryptionError, FrameError, NewerFrameError
from e2i_serving.record import (
    SCHEMA_VERSION,
    AccessEvent,
    Body,
    Gap,
    LateResult,
    Life,
    OutcomeEvent,
    PredictionRecord,
    StreamEnd,
)
from e2i_serving.record.kept import stand_in, with_whole_texts
from e2i_serving.typing import Cipher

SEGMENT_MAGIC = b"E2IJRNL\x01"
SEGMENT_HEAD = struct.Struct("<8sIIQQ")
FRAME_HEAD = struct.Struct("<IIBBHIQQ")
CHECKED_FROM = 8
"""Offset in a frame from which the checksum covers it."""


ENCRYPTED = 1
"""The flag of a frame whose payload is encrypted."""

ERASED = 2
"""The flag of a frame whose payload was erased."""


class FrameKind(IntEnum):
    """What a frame's payload is."""

    GAP = 0
    """Never stands in a segment: the reader's word for frames that are missing there."""
    LIFE = 1
    RECORD = 2
    STREAM_END = 3
    LATE_RESULT = 4
    OUTCOME = 5
    ACCESS = 6


class Frame(NamedTuple):
    """A frame as read back, its payload still encoded, and encrypted if it was."""

    kind: int
    """A ``FrameKind``, or what a newer release added to them."""
    schema: int
    sequence: int
    ordinal: int
    payload: bytes
    key_id: int = 0
    """Number of the key that encrypted the payload; 0 when it is plain."""
    life: str = ""
    """Id of the life that wrote it, which is the context of its encryption."""

    @property
    def is_newer(self) -> bool:
        """Whether a newer release wrote it, so that this one can't decode it."""
        return self.schema > SCHEMA_VERSION

    def decode(self, cipher: Cipher | None = None) -> Life | Body | Gap:
        """The payload as what it is.

        Args:
            cipher: Decrypts what is encrypted.

        Raises:
            NewerFrameError: It was written by a newer release.
            EncryptionError: It is encrypted, and its key is not there.
            FrameError: It is not what its kind says.
        """
        if self.is_newer:
            raise NewerFrameError(
                f"Frame {self.sequence} has schema {self.schema}; this release reads up to {SCHEMA_VERSION}. "
                "Let the newer release's relay deliver it."
            )
        kind = FrameKind(self.kind)
        payload = self.payload
        if self.key_id:
            if cipher is None:
                raise EncryptionError(
                    f"Frame {self.sequence} is encrypted with key {self.key_id}. Set encryption_key_file to the file "
                    "that holds it."
                )
            payload = cipher.decrypt(self.key_id, self.life, payload)
        try:
            return _DECODERS[kind].decode(payload)
        except msgspec.DecodeError as error:
            raise FrameError(f"Frame {self.sequence} of kind {kind.name} can't be decoded: {error}") from error


KINDS: dict[type, FrameKind] = {
    PredictionRecord: FrameKind.RECORD,
    StreamEnd: FrameKind.STREAM_END,
    LateResult: FrameKind.LATE_RESULT,
    OutcomeEvent: FrameKind.OUTCOME,
    AccessEvent: FrameKind.ACCESS,
}
"""The kind of frame by what it holds, life frames and gaps left out."""

_ON_DISK = frozenset(FrameKind) - {FrameKind.GAP}
_DECODERS: dict[FrameKind, msgspec.msgpack.Decoder[Life | Body | Gap]] = {
    FrameKind.GAP: msgspec.msgpack.Decoder(Gap),
    FrameKind.LIFE: msgspec.msgpack.Decoder(Life),
    **{kind: msgspec.msgpack.Decoder(body) for body, kind in KINDS.items()},
}


def gap_frame(gap: Gap, ordinal: int, life: str) -> Frame:
    """A gap in the form of a frame, so that it can stand among others in their order.

    Args:
        gap: What is missing.
        ordinal: How many prediction records stand before the frame behind it.
        life: The life's id.
    """
    return Frame(FrameKind.GAP, SCHEMA_VERSION, gap.last, ordinal, _ENCODER.encode(gap), 0, life)


_ENCODER = msgspec.msgpack.Encoder(enc_hook=stand_in)


def encode_into(
    buffer: bytearray,
    body: Life | Body,
    kind: FrameKind,
    sequence: int,
    ordinal: int,
    cipher: Cipher | None = None,
    life: str = "",
) -> None:
    r"""Write one frame into ``buffer``, which afterwards holds exactly that frame.

    Half a character, as in a file's name that is no UTF-8, is written as ``\udc..``.

    Args:
        buffer: Where to; what it held goes.
        body: What to write.
        kind: Its kind.
        sequence: Its number.
        ordinal: How many prediction records there are up to and with it.
        cipher: Encrypts the payload.
        life: Id of the life that writes it, the context of the encryption.

    Raises:
        OverflowError: A number is out of MessagePack's range.
    """
    try:
        _ENCODER.encode_into(body, buffer, FRAME_HEAD.size)
    except UnicodeEncodeError:
        _ENCODER.encode_into(with_whole_texts(body), buffer, FRAME_HEAD.size)
    flags = key_id = 0
    if cipher is not None:
        flags, key_id = ENCRYPTED, cipher.key_id
        buffer[FRAME_HEAD.size :] = cipher.encrypt(life, bytes(memoryview(buffer)[FRAME_HEAD.size :]))
    length = len(buffer) - FRAME_HEAD.size
    FRAME_HEAD.pack_into(buffer, 0, length, 0, SCHEMA_VERSION, kind, flags, key_id, sequence, ordinal)
    with memoryview(buffer) as view:
        crc = zlib.crc32(view[CHECKED_FROM:])
    struct.pack_into("<I", buffer, 4, crc)


def segment_head(number: int, created_ns: int) -> bytes:
    """The first bytes of a segment."""
    return SEGMENT_HEAD.pack(SEGMENT_MAGIC, number, 0, created_ns, 0)


def parse(data: bytes, offset: int, life: str = "") -> tuple[Frame, int] | None:
    """Read the frame at an offset.

    Args:
        data: Bytes of a segment.
        offset: Where in ``data`` the frame begins.
        life: Id of the life whose segment it is.

    Returns:
        The frame and the offset behind it; ``None`` when no whole frame is there: the data ends, or the
        rest of the frame has not been read or not been written yet.

    Raises:
        FrameError: What stands there is whole and not a frame: it was torn or altered.
    """
    if len(data) - offset < FRAME_HEAD.size:
        return None
    length, crc, schema, kind, flags, key_id, sequence, ordinal = FRAME_HEAD.unpack_from(data, offset)
    if length == 0:
        return None
    end = offset + FRAME_HEAD.size + length
    if end > len(data):
        return None
    if zlib.crc32(memoryview(data)[offset + CHECKED_FROM : end]) != crc:
        raise FrameError("The frame's checksum does not match its content.")
    if kind not in _ON_DISK and schema <= SCHEMA_VERSION:
        raise FrameError(f"Frame {sequence} is of kind {kind}, which no release knows.")
    key_id = key_id if flags & ENCRYPTED else 0
    return Frame(kind, schema, sequence, ordinal, data[offset + FRAME_HEAD.size : end], key_id, life), end
