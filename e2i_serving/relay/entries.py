"""From frames to entries, with a gap wherever a number is missing."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from typing import Final, NamedTuple

from e2i_serving.exceptions import E2IServingError, EncryptionError, FrameError, NewerFrameError
from e2i_serving.journal import DAMAGED, Frame, FrameKind, Position
from e2i_serving.record import Entry, Gap, Life, PredictionRecord
from e2i_serving.relay.ledger import GivenUp
from e2i_serving.typing import Cipher

logger = logging.getLogger("e2i_serving.relay")

UNDECODABLE: Final = "undecodable"
OVERFLOW: Final = "overflow"


class Decoded(NamedTuple):
    """What frames are."""

    entries: list[Entry]
    frames: list[Frame]
    """The frame of each entry that has one, in order."""
    dropped: Counter[str]
    used: int
    """How many frames were dealt with; the next one must wait."""
    waits_for: E2IServingError | None
    """Why it must wait."""


def decode(
    life: Life, frames: Sequence[Frame], before: Position, given_up: Sequence[GivenUp], cipher: Cipher | None
) -> Decoded:
    """Decode frames, and see what is missing among them.

    A gap never depends on where a batch begins: one run of missing numbers is one gap, and so is each frame that
    can't be decoded. So the same gaps are found when frames are read again.

    Args:
        life: Whose frames they are.
        frames: In order.
        before: The position before the first one.
        given_up: What was given up behind that position.
        cipher: Decrypts them.
    """
    entries: list[Entry] = []
    kept: list[Frame] = []
    dropped: Counter[str] = Counter()
    sequence = before.sequence
    for used, frame in enumerate(frames):
        if frame.sequence <= sequence:
            continue  # known already
        try:
            body = frame.decode(cipher)
        except (NewerFrameError, EncryptionError) as error:
            return Decoded(entries, kept, +dropped, used, error)
        except FrameError as error:
            logger.error("A frame of life %s is given up: %s", life.life, error)  # noqa: TRY400  # the message says all
            records = int(frame.kind == FrameKind.RECORD)
            body = Gap(frame.sequence, frame.sequence, records, UNDECODABLE)
            dropped[UNDECODABLE] += records
        else:
            if isinstance(body, Gap):
                body, damaged = missing(body.first - 1, body.last + 1, body.records, given_up)
                dropped[DAMAGED] += damaged
        sequence = frame.sequence
        if isinstance(body, Life):
            continue
        entries.append(Entry(life, sequence, body, len(frame.payload)))
        kept.append(frame)
    return Decoded(entries, kept, +dropped, len(frames), None)


def tail(life: Life, before: Position, given_up: Sequence[GivenUp]) -> Decoded:
    """What was given up at the end of a dead life, where no later frame shows the gap.

    Args:
        life: The life.
        before: The position behind its last frame.
        given_up: What was given up behind that, at least one.
    """
    last = given_up[-1]
    gap, damaged = missing(before.sequence, last.last + 1, last.last_ordinal - before.ordinal, given_up)
    return Decoded([Entry(life, gap.last, gap)], [], +Counter({DAMAGED: damaged}), 1, None)


def missing(after: int, until: int, records: int, given_up: Sequence[GivenUp]) -> tuple[Gap, int]:
    """The gap between two frames.

    Args:
        after: Sequence number of the last frame before it.
        until: Sequence number of the first frame behind it.
        records: How many records are missing.
        given_up: What was given up.

    Returns:
        The gap, and how many of its records were damaged, not given up.
    """
    known = sum(lost.records for lost in given_up if after < lost.first and lost.last < until)
    overflowed = any(lost.first < until and lost.last > after for lost in given_up)
    return Gap(after + 1, until - 1, max(records, 0), OVERFLOW if overflowed else DAMAGED), max(records - known, 0)


def records_in(entries: Sequence[Entry]) -> int:
    """How many of the entries are predictions."""
    return sum(isinstance(entry.body, PredictionRecord) for entry in entries)
