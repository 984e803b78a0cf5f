"""What is wrong is said in one line before any worker starts."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

SERVICES = Path(__file__).parent / "services"
COMMAND = Path(sys.executable).with_name("e2i-serving")


@pytest.fixture
def start(model_home, tmp_path):
    """Start a service that should be refused; returns what it said and its exit code."""

    def run(target: str = "probe:Probe", *, folder: Path = SERVICES, command=(), **environment: str):
        full = {
            **os.environ,
            "BENTOML_HOME": str(model_home),
            "E2I_SERVING_DATA_DIR": str(tmp_path / "data"),
            **environment,
        }
        full = {name: value for name, value in full.items() if value}
        args = command or (sys.executable, "-m", "bentoml", "serve", target, "--port", "0")
        return subprocess.run(args, cwd=folder, env=full, capture_output=True, text=True, timeout=60, check=False)

    return run


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"E2I_SERVING_SEGMENT_BYTES": "7"}, "E2I_SERVING_SEGMENT_BYTES"),
        ({"E2I_SERVING_AUDIT_REQIRED": "true"}, "Did you mean 'E2I_SERVING_AUDIT_REQUIRED'?"),
        ({"E2I_SERVING_DATA_DIR": "/proc/no/such"}, "can't be written to"),
        ({"E2I_SERVING_CONFIG_FILE": "/no/such.yaml"}, "which is no file"),
    ],
)
def test_bad_settings_are_refused(start, environment, said):
    """A bad value, an unknown name, an unwritable directory, a missing file: exit code 1, the mend, no traceback."""
    done = start(**environment)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_missing_model_is_refused(start, tmp_path):
    """A tag that is not in the store is named, with what to do about it."""
    code = """
        import e2i_serving

        @e2i_serving.service
        class Lost(e2i_serving.ClassificationService):
            model = "no_such_model:latest"
    """
    (tmp_path / "lost.py").write_text(textwrap.dedent(code))
    done = start("lost:Lost", folder=tmp_path)
    assert done.returncode == 1
    assert "no_such_model:latest" in done.stdout + done.stderr
    assert "bentoml models list" in done.stdout + done.stderr
    assert "Traceback" not in done.stdout + done.stderr


def test_a_model_whose_framework_is_missing_is_refused(start, tmp_path):
    """No worker is started to fail on it again and again; the module is named, with what to do about it."""
    train = "import bentoml\nwith bentoml.models.create('alien', module='no_such_framework'): pass\n"
    code = """
        import e2i_serving

        @e2i_serving.service
        class Alien(e2i_serving.ClassificationService):
            model = "alien:latest"
    """
    home = str(tmp_path / "home")
    assert start(command=(sys.executable, "-c", train), BENTOML_HOME=home).returncode == 0
    (tmp_path / "alien.py").write_text(textwrap.dedent(code))
    done = start("alien:Alien", folder=tmp_path, BENTOML_HOME=home)
    said = [line for line in (done.stdout + done.stderr).splitlines() if "no_such_framework" in line]
    assert done.returncode == 1
    assert len(said) == 1
    assert said[0].lstrip().startswith("[framework] The model alien:")
    assert "Install its framework, or override load()." in said[0]
    assert "Traceback" not in done.stdout + done.stderr


def test_a_method_that_lost_its_decorator_is_refused(start, tmp_path):
    """An override that would silently drop the route is an error that says what to do."""
    code = """
        import e2i_serving

        @e2i_serving.service
        class Dropped(e2i_serving.ClassificationService):
            model = "probe:latest"

            def predict(self, request):
                return None
    """
    (tmp_path / "dropped.py").write_text(textwrap.dedent(code))
    done = start("dropped:Dropped", folder=tmp_path)
    assert done.returncode != 0
    assert "decorate it with @bentoml.api" in done.stdout + done.stderr


def test_the_doctor_runs_the_same_checks(start):
    """``e2i-serving doctor`` says what the start would, without starting."""
    good = start(command=(COMMAND, "doctor", "probe:Probe"))
    assert good.returncode == 0, good.stdout + good.stderr
    bad = start(command=(COMMAND, "doctor", "probe:Probe"), E2I_SERVING_DATA_DIR="/proc/no/such")
    assert bad.returncode == 1
    assert "can't be written to" in bad.stdout
