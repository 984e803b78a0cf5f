"""Overflow: making room for newer records when the disk that undelivered ones may take is nearly full."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from e2i_serving.exceptions import FrameError
from e2i_serving.journal import Frame, FrameKind, LifeFolder
from e2i_serving.journal.frame import SEGMENT_HEAD, parse
from e2i_serving.journal.lives import BLOCK_BYTES
from e2i_serving.record import Life
from e2i_serving.relay.delivery import Delivery, Lives
from e2i_serving.relay.ledger import GivenUp, Ledger

logger = logging.getLogger("e2i_serving.relay")

FULL: Final = 0.9
"""The part of what an instance may take from which room is made: before its workers refuse new records."""


class _Content(NamedTuple):
    """What a segment holds."""

    life: Life
    first: int
    """Sequence number of the first frame."""
    last: int
    before: int
    """Ordinal before the first frame."""
    last_ordinal: int
    life_end: int
    """Where the life frame ends."""
    end: int
    """Where the last frame ends."""
    is_clean: bool
    """Whether nothing but zeros follows."""


def make_room(lives: Lives, deliveries: Sequence[Delivery], ledger: Ledger, most_bytes: int) -> int:
    """Give up the oldest segments that some destination still lacks, until there is room.

    Dead lives go first, the oldest before the others, and never the segment that a living worker writes, nor one of
    which a destination may have a part that it has not confirmed. A segment that is given up keeps its head.

    Args:
        lives: The lives there are.
        deliveries: Every destination's.
        ledger: Where it is noted, before the segment goes.
        most_bytes: What the instance's segments may take.

    Returns:
        How many segments were given up.
    """
    taken = sum(folder.bytes() for folder, _ in lives)
    room = int(most_bytes * FULL)
    count = 0
    for folder, number in _candidates(lives):
        if taken <= room:
            break
        path = folder.segment(number)
        before = _bytes(path)
        try:
            is_lost, end = _give_up(folder.life, number, path, deliveries, ledger)
        except (FrameError, OSError) as error:
            logger.warning("Segment %s can't be given up: %s", path, error)
            continue
        count += is_lost
        if end is None:
            continue
        try:
            os.truncate(path, end)
        except OSError as error:
            # To give up the next ones as well would lose their records, and perhaps make no room either.
            logger.error("Segment %s can't be cut, so no room is made: %s", path, error)  # noqa: TRY400
            break
        taken -= before - _bytes(path)
    return count


def finish_given_up(lives: Lives, names: Iterable[str], ledger: Ledger) -> None:
    """Do again what a crash may have left undone: cut the segments that were noted as given up."""
    for folder, _ in lives:
        for number in sorted({lost.segment for name in names for lost in ledger.given_up(name, folder.life)}):
            path = folder.segment(number)
            try:
                content = _content(path) if path.exists() else None
                if content is not None:
                    os.truncate(path, content.life_end)
            except (FrameError, OSError) as error:
                # It is lost all the same, and goes when every destination is past it.
                logger.warning("Segment %s was given up and can't be cut: %s", path, error)


def _give_up(
    life: str, number: int, path: Path, deliveries: Sequence[Delivery], ledger: Ledger
) -> tuple[bool, int | None]:
    """Note a segment as lost to those who lack it; returns whether any did, and where it may be cut off."""
    with deliveries[0].journal_lock:
        if any(delivery.is_handed(life, number) for delivery in deliveries):
            return False, None
        content = _content(path)
        if content is None:
            return False, None
        if any(ledger.in_doubt(delivery.name, life) >= content.first for delivery in deliveries):
            return False, None  # a relay that died may have stored it: it would be there, and be counted as lost
        before = [delivery for delivery in deliveries if delivery.has_given_up(life, number)]
        lost = {
            delivery.name: _lost(delivery, life, number, content) for delivery in deliveries if delivery not in before
        }
        noted = {name: each for name, each in lost.items() if each is not None}
        if not noted:
            if before:
                return False, content.life_end  # it could not be cut then
            # A killed worker's: what was preallocated and never written.
            return False, content.end if content.is_clean else None
        ledger.give_up(content.life, noted)
        for delivery in deliveries:
            if (each := noted.get(delivery.name)) is not None:
                delivery.give_up(life, each)
    for name, each in noted.items():
        logger.error(
            "The journal is full: %d records of life %s, frames %d to %d, are lost to %s.",
            *(each.records, life, each.first, each.last, name),
        )
    return True, content.life_end


def _lost(delivery: Delivery, life: str, number: int, content: _Content) -> GivenUp | None:
    position = delivery.position(life)
    first = max(content.first, position.sequence + 1)
    if first > content.last:
        return None
    records = content.last_ordinal - max(content.before, position.ordinal)
    return GivenUp(number, first, content.last, max(records, 0), content.last_ordinal)


def _candidates(lives: Lives) -> Iterator[tuple[LifeFolder, int]]:
    for folder, ended in lives:
        if ended:
            yield from ((folder, number) for number in folder.segments())
    living = [(folder, number) for folder, ended in lives if not ended for number in folder.segments()[:-1]]
    yield from sorted(living, key=lambda each: each[0].segment(each[1]).stat().st_mtime)


def _content(path: Path) -> _Content | None:
    """What a segment holds; ``None`` when it has no frame but the life's."""
    data = path.read_bytes()
    opening = parse(data, SEGMENT_HEAD.size)
    life = opening[0].decode() if opening else None
    if opening is None or not isinstance(life, Life):
        raise FrameError(f"{path} does not begin with the life that wrote it.")
    first: Frame | None = None
    last: Frame | None = None
    end = life_end = opening[1]
    try:
        while (parsed := parse(data, end)) is not None:
            last, end = parsed
            first = first or last
    except FrameError:
        pass  # what follows is damaged, and was not going to be delivered
    if first is None or last is None:
        return None
    before = first.ordinal - (first.kind == FrameKind.RECORD)
    is_clean = not data[end:].strip(b"\0")
    return _Content(life, first.sequence, last.sequence, before, last.ordinal, life_end, end, is_clean)


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_blocks * BLOCK_BYTES
    except FileNotFoundError:
        return 0
