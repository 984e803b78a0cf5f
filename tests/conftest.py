"""Fixtures that any test may use: an environment that is the tests' own, and a real ``bentoml serve``."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import hypothesis
import psutil
import pytest

SERVICES = Path(__file__).parent / "e2e" / "services"

# Set where the tests are to run against an installed wheel, not against the source tree.
INSTALLED_VARIABLE = "E2I_TEST_INSTALLED"


def pytest_configure(config: pytest.Config) -> None:
    """Keep the tests away from the developer's BentoML home and settings."""
    for name in [name for name in os.environ if name.startswith("E2I_SERVING_")]:
        del os.environ[name]
    os.environ.pop("PROMETHEUS_MULTIPROC_DIR", None)
    os.environ["BENTOML_DO_NOT_TRACK"] = "True"
    os.environ["BENTOML_HOME"] = home = tempfile.mkdtemp(prefix="e2i-bentoml-")
    config.add_cleanup(lambda: shutil.rmtree(home, ignore_errors=True))
    # How long an example takes is the machine's affair, and a gate must not depend on chance.
    hypothesis.settings.register_profile(
        "project",
        deadline=None,
        derandomize=bool(os.environ.get("CI")),
        suppress_health_check=[hypothesis.HealthCheck.too_slow],
    )
    hypothesis.settings.load_profile("project")


def pytest_sessionstart() -> None:
    """Refuse to test the source tree when the wheel was asked for."""
    if os.environ.get(INSTALLED_VARIABLE):
        import e2i_serving

        if "site-packages" not in Path(e2i_serving.__file__).parts:
            pytest.exit(f"{INSTALLED_VARIABLE} is set, yet e2i_serving is {e2i_serving.__file__}.", returncode=1)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Async tests run on the loop that services run on."""
    return "asyncio", {"use_uvloop": True}


@pytest.fixture(scope="session")
def project_root() -> Path:
    """The repository's root."""
    return Path(__file__).parents[1]


@pytest.fixture
def free_port() -> int:
    """A TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture
def eventually() -> Callable[..., Any]:
    """Poll a condition until it is true, and return what it gave; fail when the deadline passes."""

    def poll(condition: Callable[[], Any], *, deadline: float = 30.0, what: str = "the condition") -> Any:
        end = time.monotonic() + deadline
        while not (value := condition()):
            assert time.monotonic() < end, f"{what} did not come true within {deadline:g} s"
            time.sleep(0.02)
        return value

    return poll


@dataclass
class Server:
    """A running server and what belongs to it."""

    url: str
    process: subprocess.Popen[bytes]
    data_dir: Path
    log: Path

    def post(self, path: str, **options: Any) -> httpx.Response:
        """Send a POST request on a connection of its own."""
        return httpx.post(self.url + path, timeout=30, **options)

    def predict(self, headers: dict[str, str] | None = None, **body: Any) -> httpx.Response:
        """Ask ``/predict`` with a JSON body."""
        return self.post("/predict", json=body, headers=headers)

    def workers(self) -> list[psutil.Process]:
        """The worker processes, without what they started."""
        children = psutil.Process(self.process.pid).children(recursive=True)
        return [child for child in children if "_bentoml_impl.worker.service" in " ".join(_command(child))]

    def relays(self) -> list[psutil.Process]:
        """The relay processes of this server's data directory."""
        return [
            process
            for process in psutil.process_iter()
            if "e2i_serving.runtime.relay_process" in " ".join(_command(process))
            and _environment(process).get("E2I_SERVING_DATA_DIR") == str(self.data_dir)
        ]

    def trail(self) -> Any:
        """The audit trail, for reading, once the relay has made it."""
        end = time.monotonic() + 30
        while not (self.data_dir / "audit.db").exists():
            assert time.monotonic() < end, "The relay made no audit store."
            time.sleep(0.05)
        from e2i_serving.runtime.trail import AuditTrail

        return AuditTrail.open(self.data_dir)

    def stop(self) -> None:
        """End the server as a terminal's Ctrl-C would."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            try:
                self.process.wait(20)
            except subprocess.TimeoutExpired:
                _kill_tree(self.process.pid)
                self.process.wait(20)


Serve = Callable[..., Any]


@pytest.fixture(scope="session")
def model_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A BentoML home with the models that the test services name."""
    home = tmp_path_factory.mktemp("bentoml")
    environment = {**os.environ, "BENTOML_HOME": str(home)}
    subprocess.run([sys.executable, SERVICES / "train.py"], env=environment, check=True, timeout=120)
    return home


@pytest.fixture(scope="session")
def serve(model_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Serve:
    """What serves a named service for the length of a with-block."""

    @contextmanager
    def run(target: str, *, folder: Path = SERVICES, patience: float = 60, **settings: str) -> Iterator[Server]:
        base = tmp_path_factory.mktemp("serve")
        data_dir, log = base / "data", base / "server.log"
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        environment = {
            **os.environ,
            "BENTOML_HOME": str(model_home),
            "BENTOML_DO_NOT_TRACK": "True",
            "E2I_SERVING_DATA_DIR": str(data_dir),
            **settings,
        }
        command = [sys.executable, "-m", "bentoml", "serve", target, "--host", "127.0.0.1", "--port", str(port)]
        with log.open("wb") as output:
            process = subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output)
        server = Server(f"http://127.0.0.1:{port}", process, data_dir, log)
        try:
            _await_ready(server, patience)
            yield server
        except BaseException:
            sys.stderr.write(log.read_text(errors="replace")[-8000:])
            raise
        finally:
            server.stop()
            _kill_relays(server)

    return run


@pytest.fixture(scope="module")
def probe(serve: Serve) -> Iterator[Server]:
    """The probe service with two workers, shared by the tests of a module."""
    with serve("probe:Probe") as server:
        yield server


def _await_ready(server: Server, patience: float) -> None:
    end = time.monotonic() + patience
    while True:
        assert server.process.poll() is None, server.log.read_text(errors="replace")[-4000:]
        try:
            if httpx.get(server.url + "/readyz", timeout=5).status_code == 200:
                return
        except httpx.TransportError:
            pass
        assert time.monotonic() < end, server.log.read_text(errors="replace")[-4000:]
        time.sleep(0.1)


def _command(process: psutil.Process) -> list[str]:
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


def _kill_tree(pid: int) -> None:
    try:
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue


def _kill_relays(server: Server) -> None:
    # SIGTERM first: a relay that is killed writes no coverage.
    relays = server.relays()
    for relay in relays:
        relay.terminate()
    _, alive = psutil.wait_procs(relays, timeout=10)
    for relay in alive:
        relay.kill()
