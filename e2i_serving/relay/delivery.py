"""Delivery: one destination's way through the journals of all lives."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

import msgspec

from e2i_serving.exceptions import E2IServingError, EncryptionError, FrameError, RefusedError, StoreError
from e2i_serving.journal import Frame, JournalReader, LifeFolder, Position
from e2i_serving.record import Entry, Gap, Life
from e2i_serving.relay.breaker import Breaker, BreakerState
from e2i_serving.relay.dead_letters import DEAD_LETTERED, DeadLetter
from e2i_serving.relay.destination import Destination
from e2i_serving.relay.entries import Decoded, decode, records_in, tail
from e2i_serving.relay.ledger import GivenUp, Ledger
from e2i_serving.typing import Cipher

logger = logging.getLogger("e2i_serving.relay")

BATCH_BYTES: Final = 8 * 1024 * 1024
"""About the most bytes of frames a batch."""

Lives = Sequence[tuple[LifeFolder, bool]]
"""Folders of lives, each with whether the life is over."""


@dataclass(slots=True)
class Course:
    """How far a destination has come with one life."""

    reader: JournalReader
    position: Position
    """Behind the last frame that was dealt with for certain."""
    state: bytes
    given_up: list[GivenUp]
    handed: tuple[int, int] | None = None
    """First and last segment of the frames that the destination was handed and has not taken for certain."""
    finished: bool = False
    """Whether the life is over and all of it was dealt with."""


@dataclass(slots=True)
class _Handed:
    """What became of a batch."""

    state: bytes
    stored: int = 0
    dead_letters: list[DeadLetter] = field(default_factory=list)


class Delivery:
    """Hands each life's entries to a destination in order, and remembers how far it came.

    A batch counts as delivered once the destination has it for good; after a crash the last one is handed over
    again. What is refused for good is found by halving batches, and kept aside as a dead letter. One thread delivers;
    ``breaker``, ``courses``, ``idle_at`` and ``request_retry`` are for others too.

    Args:
        destination: Where to.
        ledger: Where progress is kept.
        batch_size: Most frames a batch.
        batch_bytes: Bytes of frames after which a batch takes no more.
        cipher: Decrypts frames.
        journal_lock: Held while frames are read, so that none is given up while it is on its way.

    Attributes:
        name: The destination's name.
        destination: Where to.
        breaker: Whether the destination is handed anything.
        courses: How far it has come, by life.
        idle_at: The number of the last round of lives in which it had nothing left to do.
    """

    def __init__(
        self,
        destination: Destination,
        ledger: Ledger,
        *,
        batch_size: int,
        batch_bytes: int = BATCH_BYTES,
        cipher: Cipher | None = None,
        journal_lock: threading.Lock | None = None,
    ) -> None:
        self.name = destination.name
        self.destination = destination
        self.breaker = Breaker()
        self.courses: dict[str, Course] = {}
        self.idle_at = -1
        self.journal_lock = journal_lock or threading.Lock()
        self._ledger = ledger
        self._batch_size = batch_size
        self._batch_bytes = batch_bytes
        self._limit = batch_size
        self._cipher = cipher
        self._said: set[str] = set()
        self._failed_life = ""
        self._retry = True
        self._full = False
        self._dealt = 0

    @property
    def is_busy(self) -> bool:
        """Whether the last round dealt with anything, or failed."""
        return self._dealt > 0 or self.failing

    @property
    def failing(self) -> bool:
        """Whether the destination failed at the last thing that it was handed."""
        return self.breaker.failures > 0

    @property
    def had_full_batch(self) -> bool:
        """Whether a life had a whole batch to deliver in the last round, so that there may be more."""
        return self._full

    def request_retry(self) -> None:
        """Let the next round look for dead letters that were asked for."""
        self._retry = True

    def round(self, lives: Lives, number: int = 0) -> int:
        """Deliver one batch of every life.

        Args:
            lives: The lives there are.
            number: Number of this round.

        Returns:
            How many frames were dealt with.
        """
        self._full = False
        dealt = self._retry_dead_letters() if self._retry else 0
        # The life that failed goes first: what of its batch has arrived is open, so nothing else must be tried.
        for folder, ended in sorted(lives, key=lambda each: each[0].life != self._failed_life):
            if self.breaker.state is BreakerState.OPEN:
                break
            dealt += self.advance(folder, ended=ended)
        for gone in self.courses.keys() - {folder.life for folder, _ in lives}:
            del self.courses[gone]
        try:
            self.destination.tick()
        except Exception:
            logger.exception("%s failed at what is due by time.", self.name)
        self._dealt = dealt
        if not dealt and not self.failing:
            self.idle_at = number
        return dealt

    def advance(self, folder: LifeFolder, *, ended: bool) -> int:
        """Deliver the next batch of a life.

        Args:
            folder: The life's folder.
            ended: Whether the life is over.

        Returns:
            How many frames were dealt with; 0 when there are none for now, or the destination failed.
        """
        if self.breaker.state is BreakerState.OPEN:
            return 0
        course = self.courses.get(folder.life) or self._begin(folder)
        if course.finished:
            return 0
        before = course.reader.position
        dealt = 0
        try:
            dealt = self._deliver_next(course, before, ended=ended)
            if not dealt and ended and not self.failing:
                self._finish(course)
        except (FrameError, EncryptionError, OSError) as error:
            course.reader.position = before
            if isinstance(error, OSError) and course.handed is not None:
                self._pause(course, error)
            elif folder.life not in self._said:
                self._said.add(folder.life)
                logger.error("The journal of life %s can't be read: %s", folder.life, error)  # noqa: TRY400
        except Exception as error:  # noqa: BLE001  # whatever is wrong, the records are kept, and the log says it
            course.reader.position = before
            self._pause(course, error)
        return dealt

    def give_up(self, life: str, lost: GivenUp) -> None:
        """Learn that a part of a segment is gone. The journal lock is held."""
        course = self.courses.get(life)
        if course is not None:
            course.given_up = [*course.given_up, lost]
            course.reader.given_up.add(lost.segment)

    def has_given_up(self, life: str, segment: int) -> bool:
        """Whether what it lacks of a segment counts as lost. The journal lock is held."""
        course = self.courses.get(life)
        lost = course.given_up if course is not None else self._ledger.given_up(self.name, life)
        return any(each.segment == segment for each in lost)

    def position(self, life: str) -> Position:
        """How far the destination has come with a life."""
        course = self.courses.get(life)
        return course.position if course else self._ledger.position(self.name, life)

    def is_handed(self, life: str, segment: int) -> bool:
        """Whether frames of a segment are, or may be, on their way. The journal lock is held."""
        course = self.courses.get(life)
        return course is not None and course.handed is not None and course.handed[0] <= segment <= course.handed[1]

    def _begin(self, folder: LifeFolder) -> Course:
        with self.journal_lock:  # or a part might be given up in between
            position, state = self._ledger.cursor(self.name, folder.life)
            given_up = self._ledger.given_up(self.name, folder.life)
            reader = JournalReader(folder, position, (lost.segment for lost in given_up))
            course = self.courses[folder.life] = Course(reader, position, state, given_up)
        return course

    def _deliver_next(self, course: Course, before: Position, *, ended: bool) -> int:
        while True:
            limit = self._limit
            decoded = self._read(course, before, limit, ended=ended)
            if decoded is None:
                return self._pass_tail(course) if ended and course.given_up else 0
            if not decoded.used and decoded.waits_for is not None:
                raise decoded.waits_for
            life = course.reader.life
            if life is None:
                raise FrameError(f"{course.reader.folder.path} has frames but does not say whose they are.")
            handed = self._hand_over(course, life, decoded)
            if handed is None:
                course.reader.position = before
                self._limit = max(1, decoded.used // 2)
                continue
            self._note(course, life, handed, decoded)
            self._limit = min(self._batch_size, limit * 2)
            return decoded.used

    def _read(self, course: Course, before: Position, limit: int, *, ended: bool) -> Decoded | None:
        """Read and decode up to so many frames, as far as they can be dealt with now."""
        reader = course.reader
        with self.journal_lock:
            frames = reader.read(limit, ended=ended, max_bytes=self._batch_bytes)
            if not frames:
                return None
            if reader.life is None:
                raise FrameError(f"{reader.folder.path} has frames but does not say whose they are.")
            course.handed = (before.segment, reader.position.segment)
        self._full |= len(frames) == limit or sum(len(frame.payload) for frame in frames) > self._batch_bytes // 2
        decoded = decode(reader.life, frames, before, course.given_up, self._cipher)
        if 0 < decoded.used < len(frames):
            # What stands before it is delivered; it, and the life with it, waits.
            reader.position = before
            with self.journal_lock:
                reader.read(decoded.used, ended=ended)
        return decoded

    def _hand_over(self, course: Course, life: Life, decoded: Decoded) -> _Handed | None:
        """Deliver a batch; ``None`` when a part of it is refused and it is to be halved."""
        entries = decoded.entries
        if not entries:
            return _Handed(course.state)
        try:
            state = self.destination.deliver(entries, course.state)
        except RefusedError:
            if decoded.used > 1:
                return None
        else:
            return _Handed(state, records_in(entries))
        handed = _Handed(course.state)
        frames = {frame.sequence: frame for frame in decoded.frames}
        for entry in entries:
            self._hand_over_alone(handed, life, entry, frames.get(entry.sequence))
        return handed

    def _hand_over_alone(self, handed: _Handed, life: Life, entry: Entry, frame: Frame | None) -> None:
        try:
            handed.state = self.destination.deliver([entry], handed.state)
        except RefusedError as error:
            if isinstance(entry.body, Gap) or frame is None:
                logger.error("%s refused a gap of life %s: %s", self.name, life.life, error)  # noqa: TRY400
                return
            records = records_in([entry])
            digest = self.destination.digest(entry)
            gap = Gap(entry.sequence, entry.sequence, records, DEAD_LETTERED, digest)
            try:
                handed.state = self.destination.deliver([Entry(life, entry.sequence, gap)], handed.state)
            except RefusedError:
                logger.error("%s refused the gap of a dead letter of life %s.", self.name, life.life)  # noqa: TRY400
            logger.error("%s refused frame %d of life %s: %s", self.name, entry.sequence, life.life, error)  # noqa: TRY400
            handed.dead_letters.append(
                DeadLetter(
                    destination=self.name,
                    life=life.life,
                    sequence=entry.sequence,
                    ordinal=frame.ordinal,
                    kind=frame.kind,
                    schema=frame.schema,
                    key_id=frame.key_id,
                    records=records,
                    message=str(error),
                    time_ns=time.time_ns(),
                    about=msgspec.msgpack.encode(life),
                    payload=frame.payload,
                    digest=digest,
                    state=handed.state,
                )
            )
        else:
            handed.stored += records_in([entry])

    def _note(self, course: Course, life: Life, handed: _Handed, decoded: Decoded) -> None:
        position = course.reader.position
        not_kept = self._ledger.advance(
            self.name,
            life,
            position,
            stored=handed.stored,
            dropped=decoded.dropped,
            state=handed.state,
            dead_letters=handed.dead_letters,
        )
        if not_kept:
            logger.error(
                "Dead letters take all the disk that they may (dead_letter_bytes), so what %s refused of life %s is "
                "lost. Retry or discard those that there are.",
                *(self.name, life.life),
            )
        with self.journal_lock:
            course.position, course.state, course.handed = position, handed.state, None
            course.given_up = [lost for lost in course.given_up if lost.last > position.sequence]
        self.breaker.succeeded()
        self._failed_life = ""

    def _pass_tail(self, course: Course) -> int:
        """Go past what was given up at the end of a dead life, where no later frame shows the gap."""
        life, before = course.reader.life, course.reader.position
        if life is None:
            return 0
        last = course.given_up[-1]
        decoded = tail(life, before, course.given_up)
        course.reader.position = before._replace(sequence=last.last, ordinal=last.last_ordinal)
        handed = self._hand_over(course, life, decoded)
        self._note(course, life, handed or _Handed(course.state), decoded)
        return 1

    def _finish(self, course: Course) -> None:
        if course.state:
            self.destination.closed(course.reader.folder.life)
        course.finished = True

    def _pause(self, course: Course, error: Exception) -> None:
        self._failed_life = course.reader.folder.life
        self._say_pause(error)

    def _say_pause(self, error: Exception) -> None:
        pause = self.breaker.failed(error.retry_after if isinstance(error, StoreError) else 0.0)
        expected = isinstance(error, E2IServingError | OSError)
        details = None if expected or self.breaker.failures > 1 else error
        logger.warning("%s took nothing, next try in %.1f s: %s", self.name, pause, error, exc_info=details)

    def _retry_dead_letters(self) -> int:
        """Hand over again what was asked for; returns how many letters were dealt with."""
        if self.breaker.state is BreakerState.OPEN:
            return 0
        dealt = 0
        for letter in self._ledger.dead_letters.each(self.name, requested=True):
            dealt += 1
            try:
                self._redeliver(letter)
            except (RefusedError, FrameError, EncryptionError) as error:
                self._ledger.dead_letters.refused_again(letter, str(error), time.time_ns())
            except Exception as error:  # noqa: BLE001  # as in advance
                self._say_pause(error)
                return 0
        self._retry = False
        return dealt

    def _redeliver(self, letter: DeadLetter) -> None:
        body = letter.frame().decode(self._cipher)
        if isinstance(body, Life):
            raise FrameError(f"Frame {letter.sequence} is a life's.")
        entry = Entry(letter.life_of(), letter.sequence, body, len(letter.payload))
        self.destination.redeliver(entry, letter.state, letter.digest)
        self._ledger.dead_letters.delivered(letter)
        self.breaker.succeeded()
