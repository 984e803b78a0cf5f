"""The relay's numbers, in a file of its own beside those of the workers."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from e2i_serving.observers.metrics import families
from e2i_serving.observers.metrics.collection import RELAY_SUFFIX
from e2i_serving.observers.metrics.series import SeriesFile, draft_of

_FILE_NAME = "relay"
_FILE_BYTES = 64 * 1024


class RelayMetrics:
    """Keeps the relay's numbers. Its counters are set from the ledger, and so of all time: a new relay goes on.

    Until they are shown, those that the last relay left are: a counter that is not there for a moment would look new
    when it comes back. Called from one thread of the relay only, the one that holds the relay's lock.

    Args:
        folder: ``<data>/metrics``.

    Raises:
        OSError: The file can't be made.
    """

    def __init__(self, folder: Path) -> None:
        draft_of(folder, _FILE_NAME).unlink(missing_ok=True)  # of a relay that was killed as it began
        self._file = SeriesFile(folder, _FILE_NAME, suffix=RELAY_SUFFIX, size=_FILE_BYTES, shown=False)
        self._is_shown = False

    def destination(self, name: str, *, backlog: int, oldest_age: float, dead_letters: int, breaker_state: int) -> None:
        """Say how it is with a destination.

        Args:
            name: The destination.
            backlog: Journaled records not yet delivered to it.
            oldest_age: Seconds since the oldest of them was journaled; 0 when there is none.
            dead_letters: Records that it refused for good and that were not delivered since.
            breaker_state: 0 closed, 1 half-open, 2 open.
        """
        series = self._file.series
        series(families.BACKLOG, name).set(backlog)
        series(families.OLDEST_AGE, name).set(oldest_age)
        series(families.DEAD_LETTERS, name).set(dead_letters)
        series(families.BREAKER_STATE, name).set(breaker_state)

    def counted(self, name: str, delivered: int, dropped: Mapping[str, int]) -> None:
        """Take over what the ledger says of a destination.

        Args:
            name: The destination.
            delivered: Records delivered to it, of all time.
            dropped: Records that it will never get, by reason, of all time.
        """
        self._file.series(families.DELIVERED, name).set(delivered)
        for reason, count in dropped.items():
            self._file.series(families.DROPPED, name, reason).set(count)

    def show(self) -> None:
        """Show the numbers from now on; called when all have been said for the first time.

        Raises:
            OSError: The file can't be put in the last one's place.
        """
        if not self._is_shown:
            self._file.show()
            self._is_shown = True

    def close(self) -> None:
        """Give the file up: its gauges are no longer shown, its counters are."""
        self._file.close()
