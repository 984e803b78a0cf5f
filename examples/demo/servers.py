"""The demo's own directory and environment, and the servers that run in it."""

from __future__ import annotations

import os
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import httpx

from e2i_serving.relay import RelayLock

EXAMPLES_DIR = Path(__file__).resolve().parents[1]
EXAMPLES = ("breast_cancer", "diabetes", "uplift")
CLI = "from e2i_serving.cli import main; main()"
STOP_SECONDS = 20.0
LOG_LINES = 15


class DemoError(Exception):
    """A step failed; the message says which one and why."""


@dataclass(frozen=True)
class Server:
    """A running ``bentoml serve``."""

    name: str
    port: int
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def url(self) -> str:
        """Where it is reached."""
        return f"http://127.0.0.1:{self.port}"

    def await_ready(self) -> None:
        """Wait until it takes requests.

        Raises:
            DemoError: It ended, or took too long.
        """

        def ready() -> bool:
            if self.process.poll() is not None:
                raise DemoError(f"The server of {self.name} ended with {self.process.returncode}.")
            try:
                return httpx.get(f"{self.url}/readyz").status_code == httpx.codes.OK
            except httpx.TransportError:
                return False

        poll(ready, f"{self.name} is ready")

    def log_end(self) -> str:
        """The last lines of its log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").splitlines()
        return "\n".join([f"--- the end of {self.log}", *lines[-LOG_LINES:]])


class Demo:
    """A place of the demo's own, apart from anything else on the machine.

    Args:
        directory: Where models, bentos, logs and the audit trail go.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.data = directory / "data"
        self.servers: list[Server] = []
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("E2I_SERVING_")},
            "BENTOML_HOME": str(directory / "bentoml"),
            "BENTOML_DO_NOT_TRACK": "true",
            "E2I_SERVING_DATA_DIR": str(self.data),
            "E2I_SERVING_ENVIRONMENT": "demo",
            "E2I_SERVING_RELAY_LINGER_SECONDS": "1",
        }

    def clear(self) -> None:
        """Begin with nothing; a relay of the run before is let finish first."""
        self.await_relay()
        shutil.rmtree(self.directory, ignore_errors=True)
        for name in ("bentoml", "data", "logs"):
            (self.directory / name).mkdir(parents=True)

    def held_out(self, name: str) -> Path:
        """Where the rows are that a model was not trained on, as a request's body."""
        return self.directory / f"{name}.json"

    def train(self, name: str) -> None:
        """Train a model and keep its held-out rows."""
        self._run(EXAMPLES_DIR / name, "train.py", "--held-out", str(self.held_out(name)))

    def build(self, name: str) -> None:
        """Build a bento."""
        self._run(EXAMPLES_DIR / name, "-m", "bentoml", "build")

    def start(self, name: str) -> None:
        """Begin to serve a bento."""
        log = self.directory / "logs" / f"{name}.log"
        port = free_port()
        where = ("--host", "127.0.0.1", "--port", str(port))
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "bentoml", "serve", f"{name}:latest", *where],
                cwd=self.directory,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self.servers.append(Server(name, port, process, log))

    def stop(self) -> None:
        """End every server and its workers: asked first, killed if they do not listen."""
        running = [server.process for server in self.servers if server.process.poll() is None]
        for process in running:
            _signal(process, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        try:
            for process in running:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(max(0.0, deadline - time.monotonic()))
        finally:
            for process in running:
                _signal(process, signal.SIGKILL)
                process.wait()

    def await_relay(self) -> None:
        """Wait until the relay has delivered what is left and ended by itself."""
        poll(lambda: RelayLock(self.data).holder() is None, "the relay has ended")

    def cli(self, *arguments: str) -> None:
        """Run ``e2i-serving`` as anyone would, its output going where ours goes.

        Raises:
            DemoError: It failed.
        """
        done = subprocess.run([sys.executable, "-c", CLI, *arguments], env=self._environment, check=False)
        if done.returncode:
            raise DemoError(f"e2i-serving {shlex.join(arguments)} ended with {done.returncode}.")

    def _run(self, where: Path, *command: str) -> None:
        done = subprocess.run(
            [sys.executable, *command],
            cwd=where,
            env=self._environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        if done.returncode:
            raise DemoError(f"{shlex.join(command)} in {where} ended with {done.returncode}:\n{done.stdout[-3000:]}")


def poll(condition: Callable[[], bool], what: str, seconds: float = 60.0) -> None:
    """Wait for a condition.

    Raises:
        DemoError: It did not come true in time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise DemoError(f"Waited {seconds:g} s in vain until {what}.")
        time.sleep(0.1)


def free_port() -> int:
    """A TCP port that is free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def _signal(process: subprocess.Popen[bytes], number: int) -> None:
    # To the group, which workers stay in when their supervisor is gone.
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)
