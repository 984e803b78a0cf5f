"""Waiting for the disk: one ``fdatasync`` for all frames that wait for one."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path


class GroupedSync:
    """Lets any number of requests share the next ``fdatasync``. Used on one event loop.

    Args:
        duplicate: Gives a descriptor of the file to sync, which is closed here.
    """

    def __init__(self, duplicate: Callable[[], int]) -> None:
        self._duplicate = duplicate
        self._executor = ThreadPoolExecutor(1, thread_name_prefix="e2i-journal-sync")
        self._waiting: list[asyncio.Future[None]] = []
        self._running: asyncio.Task[None] | None = None

    async def wait(self) -> None:
        """Wait until all that was written before this call is on the disk.

        Raises:
            OSError: It may not be.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._waiting.append(done)
        if self._running is None or self._running.done():
            self._running = loop.create_task(self._run())
        await done

    def close(self) -> None:
        """End the thread that waits for the disk."""
        self._executor.shutdown(wait=True)

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            group, self._waiting = self._waiting, []
            try:
                # A duplicate, because the loop may rotate (and close) the segment meanwhile; sealing syncs it.
                fd = self._duplicate()
                try:
                    await loop.run_in_executor(self._executor, sync_data, fd)
                finally:
                    os.close(fd)
            except (OSError, RuntimeError) as error:
                _settle(group, error)
            else:
                _settle(group, None)


def _settle(group: list[asyncio.Future[None]], error: Exception | None) -> None:
    for done in group:
        if done.done():
            continue
        if error is None:
            done.set_result(None)
        else:
            done.set_exception(error if isinstance(error, OSError) else OSError(str(error)))


def sync_data(fd: int) -> None:
    """Wait until a file's content is on the disk.

    Raises:
        OSError: It may not be.
    """
    if sys.platform == "darwin":
        import fcntl  # noqa: PLC0415  # F_FULLFSYNC exists on macOS only

        fcntl.fcntl(fd, fcntl.F_FULLFSYNC)
    else:
        os.fdatasync(fd)


def sync_directory(path: Path) -> None:
    """Wait until a folder's names are on the disk.

    Raises:
        OSError: They may not be.
    """
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
