"""Delivery: one destination's way through the journals of all lives."""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from collections.abc import Callable, Sequence

from e2i_serving.exceptions import FrameError, StoreError
from e2i_serving.journal import Frame, FrameKind, JournalReader, LifeFolder
from e2i_serving.record import Entry, Life, PredictionRecord, StreamEnd
from e2i_serving.relay.ledger import Ledger

logger = logging.getLogger("e2i_serving.relay")

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 30.0

UNDECODABLE = "undecodable"


class Delivery:
    """Hands a life's entries to a destination in order, and remembers how far it came.

    A batch counts as delivered once the destination has it for good; after a crash the last one is handed over
    again, so a destination must know an entry it has already. Used by one thread.

    Args:
        destination: The destination's name in the ledger.
        deliver: Takes entries for good, or raises ``StoreError`` and takes none.
        ledger: Where progress is kept.
        batch_size: Most entries a batch.
    """

    def __init__(
        self, destination: str, deliver: Callable[[Sequence[Entry]], object], ledger: Ledger, *, batch_size: int
    ) -> None:
        self.destination = destination
        self._deliver = deliver
        self._ledger = ledger
        self._batch_size = batch_size
        self._readers: dict[str, JournalReader] = {}
        self._failures = 0
        self._resume_at = 0.0

    @property
    def paused(self) -> bool:
        """Whether the destination failed and is left alone for a while."""
        return time.monotonic() < self._resume_at

    @property
    def failing(self) -> bool:
        """Whether the destination refused the last batch that it was handed."""
        return self._failures > 0

    def advance(self, folder: LifeFolder, *, ended: bool) -> int:
        """Deliver the next batch of a life.

        Args:
            folder: The life's folder.
            ended: Whether the life is over.

        Returns:
            How many frames were dealt with; 0 when there are none, or the destination is paused.

        Raises:
            NewerFrameError: The next frame was written by a newer release.
            FrameError: The journal can't be read.
        """
        if self.paused:
            return 0
        reader = self._readers.get(folder.life)
        if reader is None:
            reader = JournalReader(folder, self._ledger.position(self.destination, folder.life))
            self._readers[folder.life] = reader
        before = reader.position
        try:
            frames = reader.read(self._batch_size, ended=ended)
            newer = next((at for at, frame in enumerate(frames) if frame.is_newer), None)
            if newer is not None:
                # What stands before it is delivered; it, and the life with it, waits for a relay that can read it.
                if newer == 0:
                    frames[0].decode()
                reader.position = before
                frames = reader.read(newer, ended=ended)
            return self._deal_with(frames, reader)
        except StoreError as error:
            reader.position = before
            self._pause(error)
            return 0
        except BaseException:
            reader.position = before  # the ledger does not know of these frames
            raise

    def finished(self, folder: LifeFolder) -> JournalReader | None:
        """The reader of a dead life, if it has dealt with all of it."""
        reader = self._readers.get(folder.life)
        if reader is None or self.paused:
            return None
        before = reader.position
        more = reader.read(1, ended=True)
        reader.position = before if more else reader.position
        return None if more else reader

    def forget(self, folder: LifeFolder) -> None:
        """Let go of a life whose folder goes."""
        self._readers.pop(folder.life, None)

    def segment(self, folder: LifeFolder) -> int:
        """The number of the segment it reads in; the ones before it are done with."""
        reader = self._readers.get(folder.life)
        return reader.position.segment if reader else 0

    def _deal_with(self, frames: Sequence[Frame], reader: JournalReader) -> int:
        if not frames:
            return 0
        life = reader.life
        if life is None:
            raise FrameError(f"{reader.folder.path} has frames but does not say whose they are.")
        entries, dropped = _decode(life, frames)
        if entries:
            self._deliver(entries)
        self._failures = 0
        stored = sum(isinstance(entry.body, PredictionRecord) for entry in entries)
        self._ledger.advance(self.destination, life, reader.position, stored=stored, dropped=dropped)
        return len(frames)

    def _pause(self, error: StoreError) -> None:
        self._failures += 1
        longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2 ** min(self._failures - 1, 16))
        pause = longest * random.uniform(0.5, 1.0)  # noqa: S311  # jitter, not a secret
        self._resume_at = time.monotonic() + pause
        logger.warning("%s took nothing, next try in %.1f s: %s", self.destination, pause, error)


def _decode(life: Life, frames: Sequence[Frame]) -> tuple[list[Entry], Counter[str]]:
    entries: list[Entry] = []
    dropped: Counter[str] = Counter()
    for frame in frames:
        try:
            body = frame.decode()
        except FrameError as error:
            logger.error("A frame of life %s is given up: %s", life.life, error)  # noqa: TRY400  # the message says all
            if frame.kind == FrameKind.RECORD:
                dropped[UNDECODABLE] += 1
            continue
        if isinstance(body, PredictionRecord | StreamEnd):
            entries.append(Entry(life, frame.sequence, body))
    return entries, dropped
