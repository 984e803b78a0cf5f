"""The breaker: how long a destination that failed is left alone."""

from __future__ import annotations

import random
import time
from enum import StrEnum
from typing import Final

FIRST_PAUSE_SECONDS = 0.2
LONGEST_PAUSE_SECONDS = 30.0
LONGEST_ASKED_SECONDS = 600.0
"""The longest pause that a destination may ask for: a clock that is wrong there must not stop us for a day."""

_JITTER: Final = random.Random()  # noqa: S311  # no secret; its own, as programs seed the shared one


class BreakerState(StrEnum):
    """Whether a destination is handed anything."""

    CLOSED = "closed"
    """It took what it was handed last."""
    OPEN = "open"
    """It failed and is left alone."""
    HALF_OPEN = "half-open"
    """It failed, and the next batch is the test."""


class Breaker:
    """Pauses that double with each failure, with jitter, and end with a success. Written by one thread, read by any."""

    def __init__(self) -> None:
        self.failures = 0
        """Failures in a row."""
        self._resume_at = 0.0

    @property
    def state(self) -> BreakerState:
        """Whether the destination is handed anything now."""
        if not self.failures:
            return BreakerState.CLOSED
        return BreakerState.OPEN if time.monotonic() < self._resume_at else BreakerState.HALF_OPEN

    def failed(self, retry_after: float = 0.0) -> float:
        """Count a failure; returns the seconds that the destination is left alone.

        Args:
            retry_after: The least number of seconds, when the destination asked for it.
        """
        self.failures += 1
        longest = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** min(self.failures - 1, 16))
        pause = longest * _JITTER.uniform(0.5, 1.0)
        pause = max(pause, min(retry_after, LONGEST_ASKED_SECONDS))
        self._resume_at = time.monotonic() + pause
        return pause

    def succeeded(self) -> None:
        """Forget the failures."""
        self.failures = 0
