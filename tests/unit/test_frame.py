"""The frame: what is written is read back, and nothing else passes for it."""

from __future__ import annotations

import contextlib
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2i_serving.exceptions import FrameError
from e2i_serving.journal.frame import (
    CHECKED_FROM,
    FRAME_HEAD,
    SEGMENT_HEAD,
    SEGMENT_MAGIC,
    Frame,
    FrameKind,
    encode_into,
    parse,
    segment_head,
)
from e2i_serving.record import SCHEMA_VERSION, Life, Matrix, ModelInfo, Outcome, PredictionRecord, StreamEnd, Values

LIFE = Life("life-1", "credit", 1, 2, model=ModelInfo("scorer", "v1", feature_names=("age",), metadata={"auc": 0.9}))
U64 = st.integers(0, 2**64 - 1)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
RECORDS = st.builds(
    PredictionRecord,
    prediction_id=st.uuids().map(str),
    time_ns=U64,
    duration=st.floats(0, 1e6),
    outcome=st.sampled_from(Outcome),
    status=st.integers(0, 599),
    request_id=st.text(),
    phases=st.dictionaries(st.sampled_from(["decode", "predict"]), st.floats(0, 10)),
    labels=st.dictionaries(st.text(), st.text(), max_size=3),
    attributes=st.dictionaries(st.text(), PLAIN, max_size=3),
    items=st.integers(0, 9),
    inputs=st.dictionaries(st.text(), st.lists(PLAIN, max_size=3).map(Values), max_size=2),
    outputs=st.dictionaries(
        st.text(), st.builds(Matrix, st.just("<f8"), st.just((1,)), st.binary(min_size=8, max_size=8)), max_size=2
    ),
    redactions=st.lists(st.text(), max_size=2).map(tuple),
    salt=st.binary(max_size=16),
)
STREAM_ENDS = st.builds(
    StreamEnd, st.uuids().map(str), st.floats(0, 1e6), st.sampled_from(Outcome), st.integers(-1, 2**63), st.text()
)


def framed(body: Life | PredictionRecord | StreamEnd, kind: FrameKind, sequence: int = 1, ordinal: int = 1) -> bytes:
    """The bytes of one frame."""
    buffer = bytearray()
    encode_into(buffer, body, kind, sequence, ordinal)
    return bytes(buffer)


def altered(frame: bytes, **fields: int) -> bytes:
    """A frame with other numbers in its head and a checksum that fits."""
    names = ("length", "crc", "schema", "kind", "flags", "reserved", "sequence", "ordinal")
    head = dict(zip(names, FRAME_HEAD.unpack_from(frame), strict=True)) | fields
    changed = bytearray(FRAME_HEAD.pack(*head.values()) + frame[FRAME_HEAD.size :])
    struct.pack_into("<I", changed, 4, zlib.crc32(changed[CHECKED_FROM:]))
    return bytes(changed)


def record(**changes: object) -> PredictionRecord:
    """A small record."""
    return PredictionRecord(
        **{"prediction_id": "p1", "time_ns": 1, "duration": 0.5, "outcome": "ok", "status": 200} | changes
    )  # type: ignore[arg-type]


@given(RECORDS, U64, U64)
def test_a_record_comes_back_as_it_was(body, sequence, ordinal):
    """Whatever plain data a record holds, its frame gives it back, numbers and all."""
    data = framed(body, FrameKind.RECORD, sequence, ordinal)
    parsed = parse(data, 0)
    assert parsed is not None
    frame, end = parsed
    assert end == len(data)
    assert (frame.kind, frame.schema, frame.sequence, frame.ordinal) == (
        FrameKind.RECORD,
        SCHEMA_VERSION,
        sequence,
        ordinal,
    )
    assert frame.decode() == body


@given(STREAM_ENDS)
def test_a_stream_end_comes_back_as_it_was(body):
    """The end of a stream goes through a frame unchanged."""
    parsed = parse(framed(body, FrameKind.STREAM_END), 0)
    assert parsed is not None
    assert parsed[0].decode() == body


def test_a_life_comes_back_as_it_was():
    """A life keeps its model and deployment."""
    parsed = parse(framed(LIFE, FrameKind.LIFE, 0, 0), 0)
    assert parsed is not None
    assert parsed[0].decode() == LIFE


@given(st.lists(RECORDS, min_size=1, max_size=4), st.binary(max_size=8))
def test_frames_stand_back_to_back(bodies, before):
    """Each frame ends where the next one begins, wherever the first one stands."""
    data = before + b"".join(framed(body, FrameKind.RECORD, at) for at, body in enumerate(bodies))
    offset, found = len(before), []
    while parsed := parse(data, offset):
        frame, offset = parsed
        found.append(frame.decode())
    assert found == bodies
    assert offset == len(data)


def test_a_buffer_is_used_again_for_a_smaller_frame():
    """Nothing of a longer frame is left behind a shorter one."""
    buffer = bytearray()
    encode_into(buffer, record(request_id="x" * 5000), FrameKind.RECORD, 1, 1)
    encode_into(buffer, record(), FrameKind.RECORD, 2, 2)
    assert bytes(buffer) == framed(record(), FrameKind.RECORD, 2, 2)


def test_a_buffer_is_used_again_after_what_can_not_be_encoded():
    """A number out of range raises and spoils nothing."""
    buffer = bytearray()
    with pytest.raises(OverflowError):
        encode_into(buffer, record(attributes={"x": 2**70}), FrameKind.RECORD, 1, 1)
    encode_into(buffer, record(), FrameKind.RECORD, 1, 1)
    assert bytes(buffer) == framed(record(), FrameKind.RECORD)


def test_a_value_without_a_plain_form_leaves_its_type_behind():
    """What a service attached by mistake never costs the record."""
    buffer = bytearray()
    values = {"x": object(), "number": np.float64(0.5), "count": np.int32(3), "long": np.longdouble(1)}
    encode_into(buffer, record(attributes=values), FrameKind.RECORD, 1, 1)
    parsed = parse(bytes(buffer), 0)
    assert parsed is not None
    kept = parsed[0].decode()
    assert isinstance(kept, PredictionRecord)
    assert kept.attributes["x"] == "<builtins.object>"
    assert (kept.attributes["number"], kept.attributes["count"]) == (0.5, 3)
    assert isinstance(kept.attributes["long"], str)


def test_a_frame_that_is_not_all_there_is_no_frame_yet():
    """Cut anywhere, a frame reads as not written, never as something else."""
    data = framed(record(), FrameKind.RECORD)
    assert all(parse(data[:size], 0) is None for size in range(len(data)))


def test_zeros_are_where_the_data_ends():
    """Preallocated space reads as no frame."""
    assert parse(bytes(4096), 0) is None


@given(st.data())
def test_a_changed_byte_is_seen(data):
    """No byte of a frame can be altered and still read as a frame, but for a length that reads as unwritten."""
    frame = framed(record(), FrameKind.RECORD)
    at = data.draw(st.integers(0, len(frame) - 1))
    changed = bytearray(frame)
    changed[at] ^= data.draw(st.integers(1, 255))
    try:
        assert parse(bytes(changed), 0) is None
        assert at < 4
    except FrameError:
        pass


def test_the_head_is_what_the_format_says():
    """The layout on disk is the same for good."""
    frame = framed(record(), FrameKind.RECORD, 7, 3)
    length, crc, schema, kind, flags, reserved, sequence, ordinal = struct.unpack_from("<IIBBHIQQ", frame)
    assert length == len(frame) - 32
    assert crc == zlib.crc32(frame[8:])
    assert (schema, kind, flags, reserved, sequence, ordinal) == (1, 2, 0, 0, 7, 3)
    head = segment_head(5, 99)
    assert len(head) == SEGMENT_HEAD.size == 32
    assert struct.unpack("<8sIIQQ", head) == (SEGMENT_MAGIC, 5, 0, 99, 0)


def test_a_newer_schema_is_said_to_be_one():
    """A frame of a later release is whole, and refuses to be decoded."""
    parsed = parse(altered(framed(record(), FrameKind.RECORD, 9), schema=SCHEMA_VERSION + 1), 0)
    assert parsed is not None
    with pytest.raises(FrameError, match="Frame 9 has schema 2; this release reads up to 1"):
        parsed[0].decode()


def test_an_unknown_kind_is_an_error():
    """What this release has no name for is not taken for data."""
    with pytest.raises(FrameError, match="kind 77"):
        parse(altered(framed(record(), FrameKind.RECORD), kind=77), 0)


@pytest.mark.parametrize("kind", FrameKind)
@pytest.mark.parametrize("payload", [b"\xc1", b"", b"\x80", b"\x93\x01", b"\xa1x"])
def test_a_payload_that_is_no_such_thing_is_an_error(kind, payload):
    """A payload that passes its checksum and is not what its kind says raises one kind of error."""
    with pytest.raises(FrameError, match=f"Frame 4 of kind {kind.name} can't be decoded"):
        Frame(kind, SCHEMA_VERSION, 4, 4, payload).decode()


@given(st.binary(max_size=200), st.integers(0, 200))
def test_any_bytes_are_a_frame_or_none_or_an_error(data, offset):
    """Reading garbage never raises anything but the one error."""
    with contextlib.suppress(FrameError):
        parse(data, offset)


@pytest.mark.parametrize(
    "body",
    [
        PredictionRecord(
            "p1", 1, 0.1, Outcome.OK, 200, request_id="\ud800", inputs={"\udce9": Values(["a", {"\ud800": 1}])}
        ),
        PredictionRecord("p1", 1, 0.1, Outcome.OK, 200, error_message="\ud800", outputs={"x": Matrix.of(np.eye(2))}),
        StreamEnd("p1", 0.1, Outcome.ERROR, error_message="half a \ud800", salt=b"\xff"),
    ],
)
def test_half_a_character_costs_nothing_else(body):
    """Text that has no UTF-8 is written with what is missing spelled out, and the rest as ever."""
    kind = FrameKind.RECORD if isinstance(body, PredictionRecord) else FrameKind.STREAM_END
    parsed = parse(framed(body, kind), 0)
    assert parsed is not None
    read = parsed[0].decode()
    assert type(read) is type(body)
    assert repr(read) == repr(body).replace("\\ud", "\\\\ud")
