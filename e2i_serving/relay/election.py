"""One relay an instance: whoever holds the lock."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType
from typing import Self

LOCK_NAME = "relay.lock"
TRIES = 5
PAUSE_SECONDS = 0.05


class RelayLock:
    """The lock by which an instance's relay is elected. It goes with the process that holds it.

    Args:
        data_dir: The instance's data directory.
    """

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / LOCK_NAME
        self._fd = -1

    def acquire(self) -> bool:
        """Take the lock; false when another process has it. Tries for some tenths of a second."""
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT, 0o600)
        # Whoever asks for the holder has the lock for a moment, and must not be taken for a relay.
        for _ in range(TRIES):
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(PAUSE_SECONDS)
        else:
            os.close(fd)
            return False
        os.ftruncate(fd, 0)
        os.pwrite(fd, str(os.getpid()).encode(), 0)
        self._fd = fd
        return True

    def is_gone(self) -> bool:
        """Whether the lock that is held was deleted, with its data directory for instance, so that it elects nobody."""
        return self._fd >= 0 and os.fstat(self._fd).st_nlink == 0

    def release(self) -> None:
        """Give the lock back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def holder(self) -> int | None:
        """Process id of the running relay; ``None`` when none runs."""
        try:
            fd = os.open(self._path, os.O_RDONLY)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            content = os.pread(fd, 32, 0)
            return int(content) if content.isdigit() else 0
        finally:
            os.close(fd)
        return None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()
