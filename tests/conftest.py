"""Fixtures that any test may use, and an environment that is the tests' own."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
