"""The failure guard: no fault of ours ever fails or delays a prediction."""

from __future__ import annotations

import logging
import time
from collections import Counter

logger = logging.getLogger("e2i_serving")

REPEAT_AFTER_SECONDS = 60.0


class FailureGuard:
    """Takes what our own parts raise: counts it by part, logs it now and then, and carries on.

    Catch ``Exception`` only, at the seam where a part is called, and hand it over::

        try:
            observer.on_end(record)
        except Exception as error:
            guard.caught("observer", error)

    Args:
        strict: Raise again instead, as tests want.

    Attributes:
        failures: How often each part failed.
    """

    def __init__(self, *, strict: bool = False) -> None:
        self.strict = strict
        self.failures: Counter[str] = Counter()
        self._said: dict[str, float] = {}

    def caught(self, part: str, error: Exception) -> None:
        """Deal with what ``part`` raised.

        Raises:
            Exception: ``error`` itself, if the guard is strict.
        """
        self.failures[part] += 1
        if self.strict:
            raise error
        now = time.monotonic()
        if now - self._said.get(part, -REPEAT_AFTER_SECONDS) >= REPEAT_AFTER_SECONDS:
            self._said[part] = now
            logger.warning(
                "The %s failed (%d times so far). Predictions go on, with less of their observability: %s: %s",
                part,
                self.failures[part],
                type(error).__name__,
                error,
                exc_info=error,
            )
