"""Gives up a server that does not answer.

The server's own time-outs don't help when its process hangs: its kernel goes on acknowledging what it is sent.
"""

from __future__ import annotations

import os
import socket
import threading
from contextlib import suppress
from typing import Any, Final

from sqlalchemy import Engine, event

HANG_SECONDS: Final = 60.0
"""How long a write may take at a PostgreSQL server before its connection is cut."""


class Watchdog:
    """Cuts the connection of a write that takes too long, so that the write raises. For one writing thread.

    Use it as a context manager around what may hang. With SQLite, which waits for no server, it does nothing.

    Args:
        engine: The store's.
    """

    def __init__(self, engine: Engine) -> None:
        self._is_server = engine.dialect.name == "postgresql"
        self._lock = threading.Lock()
        self._connection: Any = None
        self._timer: threading.Timer | None = None
        if self._is_server:
            # First of all listeners: those of SQLAlchemy ask the server for its version.
            event.listen(engine, "connect", self._remember, insert=True)

    def __enter__(self) -> None:
        """Begin to count."""
        if self._is_server:
            self._count()

    def __exit__(self, *_: object) -> None:
        """Stop counting."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
                self._timer = None

    def _count(self) -> None:
        self._timer = threading.Timer(HANG_SECONDS, self._cut)
        self._timer.daemon = True
        self._timer.start()

    def _remember(self, connection: Any, _record: Any) -> None:
        with self._lock:
            self._connection = connection

    def _cut(self) -> None:
        with self._lock:
            if self._timer is None:
                return
            self._count()  # the connection that is made in its place may hang as well
            # It may have been closed in the meantime, which is as good.
            with suppress(Exception), socket.socket(fileno=os.dup(self._connection.fileno())) as line:
                line.shutdown(socket.SHUT_RDWR)
