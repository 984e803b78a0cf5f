"""Examples of what a bucket counted: one prediction's ids, by which a slow answer leads to its trace and its row."""

from __future__ import annotations

import mmap
import struct
from typing import NamedTuple
from zlib import crc32

_FIELDS = struct.Struct("<dd32s36s")
_STORED = struct.Struct("<84sI")

EXEMPLAR_BYTES = 88


class Exemplar(NamedTuple):
    """One counted value, and whose it was.

    Attributes:
        value: The value.
        time: When, in seconds since the epoch.
        trace_id: The trace it belongs to.
        prediction_id: The prediction.
    """

    value: float
    time: float
    trace_id: str
    prediction_id: str


def write_exemplar(content: mmap.mmap, at: int, value: float, time: float, trace_id: str, prediction_id: str) -> None:
    """Put an example where another one, or zeros, stood."""
    fields = _FIELDS.pack(value, time, trace_id.encode(), prediction_id.encode())
    _STORED.pack_into(content, at, fields, crc32(fields))


def read_exemplars(content: bytes, at: int, count: int) -> dict[int, Exemplar]:
    """Those of ``count`` examples that are there and whole, by their index."""
    found: dict[int, Exemplar] = {}
    for index in range(count):
        place = at + EXEMPLAR_BYTES * index
        if content[place + 8 : place + 16] == b"\0\0\0\0\0\0\0\0":
            continue
        fields, checksum = _STORED.unpack_from(content, place)
        if crc32(fields) == checksum:
            value, time, trace_id, prediction_id = _FIELDS.unpack(fields)
            found[index] = Exemplar(value, time, _text(trace_id), _text(prediction_id))
    return found


def _text(padded: bytes) -> str:
    return padded.rstrip(b"\0").decode(errors="replace")
