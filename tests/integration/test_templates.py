"""A newcomer's first hour: each template, with nothing but the built wheel in a fresh environment."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from e2i_serving.testing import ExportReceiver, OpikReceiver


class Newcomer:
    """A fresh environment, and a BentoML home that holds nothing yet."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.bin = folder / "venv" / "bin"
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("E2I_", "PYTHON", "COV"))}
        self.environment = kept | {
            "BENTOML_HOME": str(folder / "bentoml"),
            "BENTOML_DO_NOT_TRACK": "True",
            "E2I_SERVING_RELAY_LINGER_SECONDS": "0",
            "VIRTUAL_ENV": str(folder / "venv"),
            "PATH": f"{self.bin}{os.pathsep}{os.environ['PATH']}",
        }

    def run(self, *command: str | Path, cwd: Path | None = None, timeout: float = 300) -> str:
        """Run a command that must succeed; returns what it wrote to standard output."""
        done = subprocess.run(
            command,
            cwd=cwd or self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        assert done.returncode == 0, f"{command}:\n{done.stdout[-4000:]}\n{done.stderr[-4000:]}"
        return done.stdout

    def begin(self, name: str) -> Path:
        """Begin with a data directory of this name, which holds nothing yet."""
        data_dir = self.folder / f"data-{name}"
        self.environment["E2I_SERVING_DATA_DIR"] = str(data_dir)
        return data_dir

    @contextmanager
    def serving(self, target: str, port: int, eventually: Callable[..., None]) -> Iterator[str]:
        """Serve a bento for the length of a with-block; gives its address."""
        url, log = f"http://127.0.0.1:{port}", self.folder / "server.log"
        command = [self.bin / "bentoml", "serve", target, "--host", "127.0.0.1", "--port", str(port)]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, cwd=self.folder, env=self.environment, stdout=output, stderr=output, start_new_session=True
            )
        try:
            eventually(lambda: self._is_ready(process, url, log), deadline=90, what="the bento's readiness")
            yield url
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait(10)

    @staticmethod
    def _is_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> bool:
        assert process.poll() is None, log.read_text(errors="replace")[-4000:]
        try:
            return httpx.get(f"{url}/readyz", timeout=5).status_code == 200
        except httpx.TransportError:
            return False


@pytest.fixture(scope="module")
def newcomer(tmp_path_factory: pytest.TempPathFactory, project_root: Path) -> Newcomer:
    """The wheel built, and installed as anybody would."""
    person = Newcomer(tmp_path_factory.mktemp("newcomer"))
    wheels = person.folder / "dist"
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run([*build, "--wheel-dir", wheels, project_root], check=True, timeout=120)
    person.run(sys.executable, "-m", "venv", "venv")
    (wheel,) = wheels.glob("*.whl")
    person.run(person.bin / "pip", "install", "--quiet", "uv")
    person.run(person.bin / "uv", "pip", "install", "--quiet", wheel)
    return person


@pytest.fixture
def opik(newcomer: Newcomer) -> Iterator[OpikReceiver]:
    """What stands for Opik, where the newcomer's environment says that it is."""
    with OpikReceiver() as receiver:
        newcomer.environment["OPIK_URL_OVERRIDE"] = receiver.url
        yield receiver


@pytest.fixture
def collector(newcomer: Newcomer) -> Iterator[ExportReceiver]:
    """What stands for an OpenTelemetry collector, likewise."""
    with ExportReceiver() as receiver:
        newcomer.environment["OTEL_EXPORTER_OTLP_ENDPOINT"] = receiver.url
        yield receiver


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("classification", ()),
        ("regression", ("--pyproject",)),
        ("causal", ("--feast", "--opik", "--otlp", "--sentry")),
    ],
)
def test_template_from_nothing_to_an_audited_prediction(
    newcomer, opik, collector, free_port, eventually, kind, options
):
    """New, train, test, build, serve, predict, query, scrape, with no edit; the row names the bento and its version."""
    name = f"my-{kind}"
    data_dir = newcomer.begin(name)
    newcomer.run("e2i-serving", "new", kind, name, *options)
    project = newcomer.folder / name
    assert [path.name for path in (project / "wheels").iterdir()], "the project carries the wheel"
    newcomer.run("uv", "pip", "install", "--quiet", "-r", "requirements-dev.txt", cwd=project)
    newcomer.run("python", "train.py", cwd=project)
    newcomer.run("python", "-m", "pytest", "-q", cwd=project)
    newcomer.run("e2i-serving", "doctor", cwd=project)
    assert bool(collector.requests) is ("--otlp" in options)
    tag = newcomer.run("bentoml", "build", "--output", "tag", cwd=project, timeout=900).strip().splitlines()[-1]
    bento, version = tag.removeprefix("__tag__:").split(":")
    assert bento == f"my_{kind}"
    locked = newcomer.folder / "bentoml" / "bentos" / bento / version / "env" / "python" / "requirements.txt"
    assert "e2i_serving-" in locked.read_text()
    assert "numpy==" in locked.read_text(), "what the bento installs is locked"

    with newcomer.serving(f"{bento}:{version}", free_port, eventually) as url:
        body = json.loads((project / "rows.json").read_text())
        answer = httpx.post(f"{url}/predict", json=body, headers={"x-request-id": "first"}, timeout=30)
        assert answer.status_code == 200, answer.text
        assert "e2i_predictions_total{" in httpx.get(f"{url}/metrics", timeout=30).text
        eventually((data_dir / "audit.db").exists, what="the audit store")

        def rows() -> list[str]:
            return newcomer.run("e2i-serving", "audit", "query", "--format", "json").splitlines()

        (row,) = map(json.loads, eventually(rows, what="the prediction's row"))
    assert (row["bento"], row["bento_version"]) == (bento, version)
    assert row["request_id"] == "first"
    assert row["outcome"] == "ok"
    (asked_about,) = body.values()
    assert len(row["item_rows"]) == len(asked_about) == 10
    assert bool(row["feature_provenance"]) is ("--feast" in options)
    if "--opik" in options:
        eventually(lambda: row["prediction_id"] in opik.traces, what="the prediction's trace in Opik")
    else:
        assert not opik.traces
    assert newcomer.run("e2i-serving", "audit", "books")
    assert newcomer.run("e2i-serving", "update", cwd=project) == "The project is as the templates make it.\n"
