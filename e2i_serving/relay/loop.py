"""The relay's loop: every life, every destination, until told to stop or no longer needed."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from e2i_serving.exceptions import FrameError
from e2i_serving.journal import (
    LifeFolder,
    countable_records,
    is_unreadable,
    list_lives,
    set_aside,
    set_aside_bytes,
)
from e2i_serving.record import Life
from e2i_serving.relay.audit_destination import AUDIT_STORE
from e2i_serving.relay.delivery import Delivery, Lives
from e2i_serving.relay.ledger import Ledger
from e2i_serving.relay.overflow import finish_given_up, make_room

logger = logging.getLogger("e2i_serving.relay")

HOUSEKEEPING_SECONDS: Final = 5.0
ROOM_SECONDS: Final = 1.0
"""How often the disk that undelivered records take is looked at."""
LOOK_SECONDS: Final = 0.2
"""The longest that a signal, or the end of what is left to do, goes unnoticed."""
SHORT_SECONDS: Final = 0.01
TRIES_ONCE: Final = 5
"""Failures in a row after which an exporter is not waited for by a relay that is to end soon."""
JOIN_SECONDS: Final = 0.5
"""How long a destination may take to notice the end, beyond the deadline."""


class Relay:
    """Delivers what the lives of an instance journaled, and clears away what is done with.

    Each destination has a thread of its own, so that none holds up another, nor what this one does: look at lives,
    clear segments that all have dealt with, make room, tidy up, and stop in time.

    Args:
        data_dir: The instance's data directory.
        deliveries: One for each destination.
        ledger: The ledger they keep.
        poll_seconds: How long to wait for new records before looking again.
        linger_seconds: How long to stay once no worker lives; ``None`` to stay until told to stop.
        housekeeping: Called every few seconds.
        drop_above_bytes: What undelivered records may take before the oldest are given up; ``None`` to give up none.
        is_needed: Asked often; the loop ends at once when it says no, for instance when the data directory is gone.
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
        drop_above_bytes: int | None = None,
        is_needed: Callable[[], bool] = lambda: True,
    ) -> None:
        self._journal = data_dir / "journal"
        self._deliveries = deliveries
        self._ledger = ledger
        self._poll_seconds = poll_seconds
        self._linger_seconds = linger_seconds
        self._housekeeping = housekeeping
        self._drop_above_bytes = drop_above_bytes
        self._is_needed = is_needed
        # A signal handler sets these, so there must be no lock in them.
        self._is_stopping = False
        self._deadline = float("inf")
        self._unreadable: set[str] = set()
        self._readable: set[str] = set()
        self._lives: Lives = ()
        self._number = 0
        self._alive = 0
        self._looked_at = 0.0
        self._left_behind: set[str] = set()
        self._ended = threading.Event()
        self._news = threading.Event()
        lock = threading.Lock()
        for delivery in deliveries:
            delivery.journal_lock = lock

    def stop(self, within_seconds: float) -> None:
        """Ask the loop to end when all is delivered, at the latest after a time. A signal handler may call it."""
        self._deadline = min(self._deadline, time.monotonic() + within_seconds)
        self._is_stopping = True

    def run(self, *, once: bool = False) -> None:
        """Deliver until told to stop, or until no longer needed.

        A destination that hangs beyond the time it may take to stop is left behind; what it was handed stays in the
        journal.

        Args:
            once: Return as soon as nothing is left to deliver, but to exporters that failed several times in a row.
        """
        self._ended.clear()
        finish_given_up(self._look(), [delivery.name for delivery in self._deliveries], self._ledger)
        threads = [
            threading.Thread(
                target=self._deliver,
                args=(delivery,),
                kwargs={"once": once},
                name=f"relay-{delivery.name}",
                daemon=True,
            )
            for delivery in self._deliveries
        ]
        for thread in threads:
            thread.start()
        try:
            self._watch(once=once)
        finally:
            self._ended.set()
            for delivery, thread in zip(self._deliveries, threads, strict=True):
                thread.join(JOIN_SECONDS)
                if thread.is_alive():
                    self._left_behind.add(delivery.name)
                    logger.warning("%s did not return in time; the rest stays in the journal.", delivery.name)
        self._tidy()

    def close(self) -> None:
        """Close the destinations, but those that still hang."""
        for delivery in self._deliveries:
            if delivery.name in self._left_behind:
                continue
            try:
                delivery.destination.close()
            except Exception:
                logger.exception("%s can't be closed.", delivery.name)

    def round(self) -> int:
        """Deliver one batch of every life to every destination; returns how many frames were dealt with."""
        lives = self._look()
        dealt = sum(delivery.round(lives, self._number) for delivery in self._deliveries)
        self._settle()
        return dealt

    def _watch(self, *, once: bool) -> None:
        alone_since = time.monotonic()
        tidied_at = 0.0
        self._number += 1  # rounds of an earlier run tell nothing of this one
        while self._is_needed():
            self._look()
            number = self._number
            self._news.wait(min(self._poll_seconds, LOOK_SECONDS))
            self._news.clear()
            is_idle = all(
                delivery.idle_at >= number or (once and _may_be_left(delivery)) for delivery in self._deliveries
            )
            if not self._is_needed():  # workers may make anew what was removed, and it is not this relay's to clear
                break
            self._settle()
            now = time.monotonic()
            if self._alive or any(delivery.is_busy for delivery in self._deliveries):
                alone_since = now
            if now - tidied_at >= HOUSEKEEPING_SECONDS:
                tidied_at = now
                self._tidy()
            if now >= self._deadline:
                break
            if is_idle and (once or (self._is_stopping and not self._alive)):
                break
            if is_idle and self._linger_seconds is not None and now - alone_since >= self._linger_seconds:
                break

    def _deliver(self, delivery: Delivery, *, once: bool) -> None:
        """One destination's thread."""
        while not self._ended.is_set():
            number = self._number
            try:
                delivery.round(self._lives, number)
            except Exception:
                if self._ended.is_set():
                    return
                logger.exception("Delivery to %s failed.", delivery.name)
            if delivery.idle_at >= number:
                self._news.set()
            if not delivery.had_full_batch:
                self._rest(self._poll_seconds, once=once)

    def _rest(self, seconds: float, *, once: bool) -> None:
        """Wait for more, shorter once nobody adds to it."""
        until = time.monotonic() + seconds
        while (left := until - time.monotonic()) > 0 and not self._ended.is_set():
            is_hurried = once or self._is_stopping
            self._ended.wait(min(left, SHORT_SECONDS if is_hurried else LOOK_SECONDS))
            if is_hurried:
                break

    def _look(self) -> Lives:
        """See which lives there are, and which of them are over."""
        over = {folder.life for folder, ended in self._lives if ended}
        lives: list[tuple[LifeFolder, bool]] = []
        for folder in list_lives(self._journal):
            try:
                ended = folder.life in over or not folder.alive()
                if ended and self._ledger.is_closed(folder.life):
                    folder.remove()
                else:
                    lives.append((folder, ended))
            except OSError as error:
                self._say(folder, error)
        self._alive = sum(not ended for _, ended in lives)
        self._readable &= {folder.life for folder, _ in lives}
        before, now = ([(folder.life, ended) for folder, ended in each] for each in (self._lives, lives))
        self._lives = lives
        # Destinations go round each in its own time: a number for each look is one that they never have in common.
        self._number += now != before
        return lives

    def _settle(self) -> None:
        """Clear away what every destination has dealt with, and make room if there must be some."""
        for folder, ended in self._lives:
            try:
                if not (ended and self._set_aside(folder)):
                    self._clear(folder, ended=ended)
            except (FrameError, OSError, sqlite3.Error) as error:
                self._say(folder, error)
        now = time.monotonic()
        if self._drop_above_bytes is not None and now - self._looked_at >= ROOM_SECONDS:
            self._looked_at = now
            try:
                most = self._drop_above_bytes - set_aside_bytes(self._journal)
                make_room(self._lives, self._deliveries, self._ledger, most)
            except (OSError, sqlite3.Error):
                logger.exception("No room can be made in the journal.")

    def _clear(self, folder: LifeFolder, *, ended: bool) -> None:
        courses = [course for delivery in self._deliveries if (course := delivery.courses.get(folder.life))]
        if len(courses) < len(self._deliveries):
            return
        oldest = min(course.position.segment for course in courses)
        for number in folder.segments():
            if number < oldest:
                folder.segment(number).unlink(missing_ok=True)
        if not ended or not all(course.finished for course in courses):
            return
        first = courses[0]
        if first.reader.life is not None:
            self._ledger.close_life(first.reader.life, first.position.ordinal, first.reader.torn)
        folder.remove()

    def _set_aside(self, folder: LifeFolder) -> bool:
        """Set a dead life aside that nobody can read, so that it holds up nothing; returns whether it was."""
        life = folder.life
        if life in self._readable:
            return False
        with self._deliveries[0].journal_lock:
            if not is_unreadable(folder):
                self._readable.add(life)
                return False
            records = countable_records(folder)
            about = Life(life, "", folder.path.stat().st_mtime_ns, 0)
            # Noted before it goes, and closed after: its folder would be removed if it were closed and still there.
            self._ledger.lose_rest(about, records, [delivery.name for delivery in self._deliveries])
            where = set_aside(folder)
            self._ledger.close_life(about, records, 0)
        logger.error(
            "No segment of life %s says whose it is: it can't be read, and is set aside as %s. It is known to have "
            "journaled %d records; those that were not delivered are lost.",
            *(life, where, records),
        )
        return True

    def _tidy(self) -> None:
        for delivery in self._deliveries:
            delivery.request_retry()
        try:
            self._housekeeping()
        except Exception:
            # What is delivered matters more than what is tidied up.
            logger.exception("The relay's housekeeping failed.")

    def _say(self, folder: LifeFolder, error: Exception) -> None:
        if folder.life not in self._unreadable:
            self._unreadable.add(folder.life)
            logger.error("The journal of life %s can't be read: %s", folder.life, error)


def _may_be_left(delivery: Delivery) -> bool:
    # A command's relay may lack an exporter's secrets; what is in the journal waits for the next relay.
    return delivery.name != AUDIT_STORE and delivery.breaker.failures >= TRIES_ONCE
