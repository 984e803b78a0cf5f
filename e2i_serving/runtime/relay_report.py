"""What the relay says of itself: how far each destination is behind, and what became of what was accepted."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from e2i_serving.exceptions import EncryptionError, JournalError
from e2i_serving.journal import JournalReader, LifeFolder, Position, list_lives
from e2i_serving.observers.metrics import RelayMetrics
from e2i_serving.record import PredictionRecord
from e2i_serving.relay import Delivery, Ledger
from e2i_serving.relay.breaker import BreakerState
from e2i_serving.typing import Cipher

logger = logging.getLogger("e2i_serving.relay")

_STATES = {BreakerState.CLOSED: 0, BreakerState.HALF_OPEN: 1, BreakerState.OPEN: 2}
_FRAMES = 4096
_BYTES = 8 * 1024 * 1024
_OTHER_FRAMES = 64
"""How many frames that are no records may stand before the oldest record, and it is still found."""


def open_report(data_dir: Path, deliveries: Sequence[Delivery], ledger: Ledger, cipher: Cipher | None) -> RelayReport:
    """A report in the instance's metrics; one that says nothing when there is no room for it."""
    try:
        metrics = RelayMetrics(data_dir / "metrics")
    except OSError as error:
        logger.warning("The relay's metrics can't be kept: %s", error)
        metrics = None
    return RelayReport(data_dir, deliveries, ledger, metrics, cipher)


class RelayReport:
    """Brings the relay's metrics up to date, from the journal and the ledger.

    Called from the relay's main thread, every few seconds.

    Args:
        data_dir: The instance's data directory.
        deliveries: One for each destination.
        ledger: The ledger they keep.
        metrics: Where the numbers go; ``None`` when they have nowhere to go.
        cipher: Decrypts the journal.
    """

    def __init__(
        self,
        data_dir: Path,
        deliveries: Sequence[Delivery],
        ledger: Ledger,
        metrics: RelayMetrics | None,
        cipher: Cipher | None = None,
    ) -> None:
        self._journal = data_dir / "journal"
        self._deliveries = deliveries
        self._ledger = ledger
        self._metrics = metrics
        self._cipher = cipher
        self._tips: dict[str, JournalReader] = {}

    def update(self) -> None:
        """Say how it is with every destination now; never raises."""
        if self._metrics is None:
            return
        try:
            self._update(self._metrics)
        except Exception:
            # What is delivered matters more than what is said of it.
            logger.exception("The relay's metrics could not be brought up to date.")

    def close(self) -> None:
        """Give the metrics' file up."""
        if self._metrics is not None:
            self._metrics.close()

    def _update(self, metrics: RelayMetrics) -> None:
        folders = {folder.life: folder for folder in list_lives(self._journal)}
        self._tips = {life: tip for life, tip in self._tips.items() if life in folders}
        for delivery in self._deliveries:
            self._report(metrics, delivery, folders)
        metrics.show()

    def _report(self, metrics: RelayMetrics, delivery: Delivery, folders: dict[str, LifeFolder]) -> None:
        stored = dead_letters = backlog = 0
        dropped: Counter[str] = Counter()
        positions: dict[str, tuple[Position, int]] = {}
        closed: set[str] = set()
        for life in self._ledger.totals(delivery.name):
            stored += life.stored
            dead_letters += life.dead_lettered
            dropped.update(life.dropped)
            positions[life.life] = life.position, life.given_up
            if life.closed:
                closed.add(life.life)
        oldest = 0.0
        for name, folder in folders.items():
            if name in closed:
                continue
            position, given_up = positions.get(name, (Position(), 0))
            try:
                pending = self._last_ordinal(folder, position) - position.ordinal - given_up
                if pending > 0:
                    backlog += pending
                    oldest = max(oldest, self._age(folder, position))
            except (JournalError, EncryptionError, OSError):
                continue  # the delivery says so itself, and the rest of the numbers hold
        state = _STATES[delivery.breaker.state]
        metrics.destination(
            delivery.name, backlog=backlog, oldest_age=oldest, dead_letters=dead_letters, breaker_state=state
        )
        metrics.counted(delivery.name, stored, dropped)

    def _last_ordinal(self, folder: LifeFolder, position: Position) -> int:
        """How many records a life has journaled; of all its segments but the last one, the heads tell."""
        tip = self._tips.get(folder.life)
        if tip is None or tip.position.segment < position.segment:
            tip = self._tips[folder.life] = JournalReader(folder, position)
        segments = folder.segments()
        if segments and segments[-1] > tip.position.segment:
            tip.skip_to_segment(segments[-1], "")
        while tip.read(_FRAMES, ended=False, max_bytes=_BYTES):
            pass
        return tip.position.ordinal

    def _age(self, folder: LifeFolder, position: Position) -> float:
        """How long ago the first record behind a position was made, in seconds."""
        for frame in JournalReader(folder, position).read(_OTHER_FRAMES, ended=False, max_bytes=_BYTES):
            body = frame.decode(self._cipher)
            if isinstance(body, PredictionRecord):
                return max(0.0, time.time() - body.time_ns / 1e9)
        return 0.0
