"""Importing the package costs nothing and changes nothing."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

import pytest

OPTIONAL = ("duckdb", "deltalake", "econml", "feast", "opik", "pandas", "psycopg", "sentry_sdk")
HEAVY = ("bentoml", "sqlalchemy", "starlette", "typer", "uvicorn")

PROBE = """
import json, logging, os, sys, threading

before = dict(os.environ)
loggers = set(logging.root.manager.loggerDict)
{statement}
after = dict(os.environ)
handlers = [str(handler) for handler in logging.root.handlers]
for name, logger in logging.root.manager.loggerDict.items():
    if name not in loggers and name.startswith("e2i_serving") and isinstance(logger, logging.Logger):
        handlers += [str(handler) for handler in logger.handlers]
modules = sorted(sys.modules)
from opentelemetry import trace

print(json.dumps({{
    "modules": modules,
    "environment": sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name)),
    "multiprocess": os.environ.get("PROMETHEUS_MULTIPROC_DIR"),
    "handlers": handlers,
    "threads": threading.active_count(),
    "tracer_provider": type(trace.get_tracer_provider()).__name__,
}}))
"""


def probe(statement: str) -> dict[str, Any]:
    """What a fresh interpreter looks like after a statement."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE.format(statement=statement)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.fixture(scope="module")
def imported() -> dict[str, Any]:
    """A fresh interpreter after the import."""
    return probe("import e2i_serving")


@pytest.mark.parametrize("module", OPTIONAL + HEAVY)
def test_import_leaves_others_out(imported: dict[str, Any], module: str) -> None:
    """Neither a client of an extra nor BentoML is imported before it is needed."""
    assert module not in imported["modules"]


def test_import_changes_nothing(imported: dict[str, Any]) -> None:
    """The environment, the logging, the threads and the global tracer provider stay as they were."""
    assert imported["environment"] == []
    assert imported["multiprocess"] is None
    assert imported["handlers"] == []
    assert imported["threads"] == 1
    assert imported["tracer_provider"] == "ProxyTracerProvider"


def test_public_names_import_no_client() -> None:
    """No public name brings in a client of an extra, and none sets up logging, metrics or tracing."""
    found = probe("import e2i_serving; [getattr(e2i_serving, name) for name in e2i_serving.__all__]")
    assert [module for module in OPTIONAL if module in found["modules"]] == []
    assert found["multiprocess"] is None
    assert found["handlers"] == []
    assert found["tracer_provider"] == "ProxyTracerProvider"


@pytest.mark.parametrize(
    "module", ["context", "exceptions", "guard", "journal", "observers", "propagation", "record", "settings", "typing"]
)
def test_lower_layers_do_without_bentoml(module: str) -> None:
    """What runs on the path or in the relay can be imported without BentoML."""
    assert "bentoml" not in probe(f"import e2i_serving.{module}")["modules"]
