"""What is appended beside a prediction's record: how it ended later, what turned out to be true, who looked.

Nothing here changes a record. Each is a frame of its own in a journal and a row of its own in a store.
"""

from __future__ import annotations

from typing import Any

import msgspec

from e2i_serving.record.columns import Column
from e2i_serving.record.prediction import Outcome, PredictionRecord

WHOLE_REQUEST = -1
"""The item index of what is said about a request as a whole."""


class StreamEnd(msgspec.Struct, frozen=True, omit_defaults=True):
    """How an answer ended after its record was made: a stream's end, or a refusal at the last moment.

    Where it says something else than the record, it is right.

    Attributes:
        prediction_id: The record it ends.
        duration: Seconds from arrival to the last byte.
        outcome: How it ended.
        response_bytes: Bytes of body sent.
        error_type: As in the record.
        error_message: As in the record.
        status: The HTTP status sent, if another than the record's; else 0.
        salt: Random bytes from which commitment salts are derived.
    """

    prediction_id: str
    duration: float
    outcome: Outcome
    response_bytes: int = -1
    error_type: str = ""
    error_message: str = ""
    status: int = 0
    salt: bytes = b""


class LateResult(msgspec.Struct, frozen=True, omit_defaults=True):
    """What the thread of a request that had been answered already (504, usually) came to in the end.

    Attributes:
        prediction_id: The record, which stays as it is.
        duration: Seconds from arrival to the thread's end.
        outcome: ``ok`` or ``error``: how the thread ended.
        error_type: As in the record.
        error_message: As in the record.
        items: How many items the outputs describe.
        outputs: By name, one value an item, as far as they were known.
        redactions: As in the record.
        salt: Random bytes from which commitment salts are derived.
    """

    prediction_id: str
    duration: float
    outcome: Outcome
    error_type: str = ""
    error_message: str = ""
    items: int = 0
    outputs: dict[str, Column] = {}
    redactions: tuple[str, ...] = ()
    salt: bytes = b""


class OutcomeEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """What turned out to be true of a prediction, or how someone scored it. Append-only: a correction is one more.

    Attributes:
        outcome_id: UUIDv7 in text form.
        time_ns: Wall clock when it was recorded, nanoseconds since the epoch.
        prediction_id: The request it is about; empty when only its request id is known.
        item_index: The item in it; ``WHOLE_REQUEST`` for all of it.
        request_id: The caller's request id, when that is what was given.
        name: What was observed: ``truth``, or the name of a score.
        value: The truth: any plain value.
        score: A number, for scores.
        source: Who or what says so.
        comment: Free text.
        observed_ns: When it became true or known, nanoseconds since the epoch.
        salt: Random bytes from which commitment salts are derived.
    """

    outcome_id: str
    time_ns: int
    prediction_id: str = ""
    item_index: int = WHOLE_REQUEST
    request_id: str = ""
    name: str = "truth"
    value: Any = None
    score: float | None = None
    source: str = ""
    comment: str = ""
    observed_ns: int = 0
    salt: bytes = b""


class AccessEvent(msgspec.Struct, frozen=True, omit_defaults=True):
    """Someone looked at the trail.

    Attributes:
        access_id: UUIDv7 in text form.
        time_ns: Wall clock, nanoseconds since the epoch.
        principal: Who: the operating system's name of the user, or who a request authenticated as.
        source: From where: the host's name, or an address.
        way: How: ``cli``, ``python``, ``http``.
        action: What was done, such as ``audit query``.
        conditions: What was asked for, by name.
        predictions: How many predictions were shown; -1 when they were read one after another.
        salt: Random bytes from which commitment salts are derived.
    """

    access_id: str
    time_ns: int
    principal: str = ""
    source: str = ""
    way: str = ""
    action: str = ""
    conditions: dict[str, Any] = {}
    predictions: int = 0
    salt: bytes = b""


class Gap(msgspec.Struct, frozen=True, omit_defaults=True):
    """Numbered frames of a life that have no row: the tombstone that keeps their place.

    Attributes:
        first: Sequence number of the first of them.
        last: Sequence number of the last.
        records: How many prediction records are among them; never more than the journal's numbering shows.
        reason: Why: ``damaged``, ``undecodable``, ``overflow``, ``dead-lettered``.
        digest: Digest of what is missing, where it is kept elsewhere (a dead letter) or was read; else empty.
    """

    first: int
    last: int
    records: int
    reason: str
    digest: bytes = b""


Body = PredictionRecord | StreamEnd | LateResult | OutcomeEvent | AccessEvent
"""What a journal frame holds, besides the life that opens a segment."""
