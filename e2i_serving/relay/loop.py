"""The relay's loop: every life, every destination, until told to stop or no longer needed."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from e2i_serving.exceptions import FrameError
from e2i_serving.journal import LifeFolder, list_lives
from e2i_serving.relay.delivery import Delivery
from e2i_serving.relay.ledger import Ledger

logger = logging.getLogger("e2i_serving.relay")

HOUSEKEEPING_SECONDS = 5.0


class Relay:
    """Delivers what the lives of an instance journaled, and clears away what is done with.

    Args:
        data_dir: The instance's data directory.
        deliveries: One for each destination.
        ledger: The ledger they keep.
        poll_seconds: How long to wait for new records before looking again.
        linger_seconds: How long to stay once no worker lives; ``None`` to stay until told to stop.
        housekeeping: Called every few seconds.
    """

    def __init__(
        self,
        data_dir: Path,
        deliveries: Sequence[Delivery],
        ledger: Ledger,
        *,
        poll_seconds: float,
        linger_seconds: float | None,
        housekeeping: Callable[[], object],
    ) -> None:
        self._journal = data_dir / "journal"
        self._deliveries = deliveries
        self._ledger = ledger
        self._poll_seconds = poll_seconds
        self._linger_seconds = linger_seconds
        self._housekeeping = housekeeping
        self._stopping = threading.Event()
        self._deadline = float("inf")
        self._unreadable: set[str] = set()
        self._alive = 0

    def stop(self, within_seconds: float) -> None:
        """Ask the loop to end when all is delivered, at the latest after a time. A signal handler may call it."""
        self._deadline = min(self._deadline, time.monotonic() + within_seconds)
        self._stopping.set()

    def run(self, *, once: bool = False) -> None:
        """Deliver until told to stop, or until no longer needed.

        Args:
            once: Return as soon as nothing is left to deliver.
        """
        alone_since = time.monotonic()
        tidied_at = 0.0
        while True:
            dealt = self.round()
            now = time.monotonic()
            if self._alive or dealt:
                alone_since = now
            if now - tidied_at >= HOUSEKEEPING_SECONDS:
                tidied_at = now
                self._tidy()
            if now >= self._deadline:
                break
            if dealt:
                continue
            # Not "paused": a pause may have ended since the round that found nothing to do because of it.
            failing = any(delivery.failing for delivery in self._deliveries)
            if not failing and (once or (self._stopping.is_set() and not self._alive)):
                break
            lingered = self._linger_seconds is not None and now - alone_since >= self._linger_seconds
            if lingered and not failing:
                break
            time.sleep(self._poll_seconds)
        self._tidy()

    def round(self) -> int:
        """Deliver one batch of every life to every destination; returns how many frames were dealt with."""
        dealt = self._alive = 0
        for folder in list_lives(self._journal):
            try:
                with folder.inherit() as ended:
                    self._alive += not ended
                    if ended and self._ledger.is_closed(folder.life):
                        folder.remove()
                        continue
                    for delivery in self._deliveries:
                        dealt += delivery.advance(folder, ended=ended)
                    self._clear(folder, ended=ended)
            except (FrameError, OSError) as error:
                if folder.life not in self._unreadable:
                    self._unreadable.add(folder.life)
                    logger.error("The journal of life %s can't be read: %s", folder.life, error)  # noqa: TRY400
        return dealt

    def _tidy(self) -> None:
        try:
            self._housekeeping()
        except Exception:
            # What is delivered matters more than what is tidied up.
            logger.exception("The relay's housekeeping failed.")

    def _clear(self, folder: LifeFolder, *, ended: bool) -> None:
        oldest = min(delivery.segment(folder) for delivery in self._deliveries)
        for number in folder.segments():
            if number < oldest:
                folder.segment(number).unlink(missing_ok=True)
        if not ended:
            return
        readers = [delivery.finished(folder) for delivery in self._deliveries]
        done = [reader for reader in readers if reader is not None]
        if len(done) < len(self._deliveries):
            return
        life = done[0].life
        if life is not None:
            self._ledger.close_life(life, done[0].position.ordinal, done[0].torn)
        for delivery in self._deliveries:
            delivery.forget(folder)
        folder.remove()
