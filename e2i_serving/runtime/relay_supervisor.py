"""Sees to it that an instance has a relay: any worker starts one when none runs."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

from e2i_serving.relay import RelayLock
from e2i_serving.settings import Settings, environment_of

logger = logging.getLogger("e2i_serving.relay")

FIRST_PAUSE_SECONDS = 3.0
"""How long a relay that was started is given to take the lock."""
LONGEST_PAUSE_SECONDS = 60.0
SETTLED_SECONDS = 15.0
"""A relay that still runs so long after its start did not fail at it."""

_DETACHED = '"$0" -m e2i_serving.runtime.relay_process &'


class RelaySupervisor:
    """Starts the relay process, and starts it again when it dies.

    Args:
        settings: The worker's settings; the relay gets the same through its environment.
        data_dir: The instance's data directory.
    """

    def __init__(self, settings: Settings, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._lock = RelayLock(data_dir)
        self._environment = environment_of(settings.model_copy(update={"data_dir": data_dir}))
        self._started_at = 0.0
        self._starts = 0

    def ensure(self) -> bool:
        """Start a relay if none runs. Blocks for some milliseconds, so call it off the event loop.

        Returns:
            Whether one was started.
        """
        since_start = time.monotonic() - self._started_at
        if self._lock.holder() is not None:
            if since_start >= SETTLED_SECONDS:
                self._starts = 0
            return False
        pause = min(LONGEST_PAUSE_SECONDS, FIRST_PAUSE_SECONDS * 2.0 ** (self._starts - 1)) if self._starts else 0.0
        if since_start < pause:
            return False
        # Through a shell that ends at once and in a session of its own: the relay is nobody's child then, and
        # neither Ctrl-C at the terminal nor the end of the server's process tree ends it before its work is done.
        subprocess.run(  # noqa: S603  # a fixed command; the interpreter's path is an argument, not shell text
            ["/bin/sh", "-c", _DETACHED, sys.executable],
            env={**os.environ, **self._environment},  # noqa: TID251  # handed on, not read
            stdin=subprocess.DEVNULL,
            start_new_session=True,
            check=True,
        )
        self._started_at = time.monotonic()
        self._starts += 1
        logger.info("No relay ran for %s; started one.", self._data_dir)
        return True
