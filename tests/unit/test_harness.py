"""A service in a test's process: what it leaves behind, and where."""

from __future__ import annotations

from pathlib import Path

import bentoml
import pytest
import yaml

import e2i_serving
from e2i_serving.settings import CONFIG_FILE_NAME
from e2i_serving.testing import ExportReceiver, ServiceHarness


@pytest.fixture
def receiver():
    """What takes whatever is sent."""
    with ExportReceiver() as running:
        yield running


@pytest.fixture
def places(tmp_path, receiver, monkeypatch):
    """Where a service of production would store and send; none of the folders is there yet."""
    folder = tmp_path / "real"
    found = {
        "audit_url": f"sqlite:///{folder}/audit.db",
        "checkpoint_dir": str(folder / "checkpoints"),
        "signing_key_file": str(folder / "signing.key"),
        "jsonl_path": str(folder / "trail.jsonl"),
        "webhook_url": receiver.url,
        "webhook_secret": "a secret of its own",
        "sentry_dsn": "http://public@127.0.0.1:9/1",
        "trace_exporter": "otlp-http",
        "trace_sample_rate": 1.0,
        "metrics_exporter": "otlp-http",
        "log_exporter": "otlp-http",
        "otlp_logs_enabled": True,
        "opik_enabled": True,
        "opik_url": receiver.url,
    }
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", receiver.url)
    return found


def given_in_code(places, monkeypatch):
    """They stand in the service."""
    return places


def given_in_the_environment(places, monkeypatch):
    """They stand in variables."""
    for name, value in places.items():
        monkeypatch.setenv(f"E2I_SERVING_{name.upper()}", str(value).lower() if value is True else str(value))
    return {}


def given_in_the_file(places, monkeypatch):
    """They stand in a file that is named."""
    Path(CONFIG_FILE_NAME).write_text(yaml.safe_dump(places), encoding="utf-8")
    monkeypatch.setenv("E2I_SERVING_CONFIG_FILE", CONFIG_FILE_NAME)
    return {}


def given_in_standard_variables(places, monkeypatch):
    """They stand in the variables of OpenTelemetry and of Sentry."""
    monkeypatch.setenv("SENTRY_DSN", places["sentry_dsn"])
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_on")
    for signal in ("TRACES", "METRICS", "LOGS"):
        monkeypatch.setenv(f"OTEL_{signal}_EXPORTER", "otlp")
    return {}


def prices(observability):
    """A service with these settings."""

    @e2i_serving.service(observability=observability)
    class Prices:
        @bentoml.api
        def net(self, gross: float) -> float:
            return 1.2 / gross

    return Prices


@pytest.mark.parametrize(
    "give", [given_in_code, given_in_the_environment, given_in_the_file, given_in_standard_variables]
)
def test_a_test_stores_and_exports_nothing(give, places, receiver, tmp_path, monkeypatch):
    """Wherever production's places are named: its predictions are in the trail of its own data directory alone."""
    service = prices(give(places, monkeypatch))
    with ServiceHarness(service) as harness:
        reply = harness.request("POST", "/net", json={"gross": 12.0})
        assert harness.request("POST", "/net", json={"gross": 0.0}).status == 500
        with harness.trail() as trail:
            assert trail.count() == 2
            assert trail.get(reply.record.prediction_id)["outcome"] == "ok"
        with harness.trail() as trail:
            assert [row["action"] for row in trail.accesses()] == ["get", "count"]
        assert (harness.data_dir / "audit.db").exists()
    assert receiver.requests == []
    assert {path.name for path in tmp_path.iterdir()} <= {CONFIG_FILE_NAME}


def test_a_test_stores_and_exports_what_it_names(tmp_path, places, monkeypatch):
    """What the test itself asks for is done, whatever the service says."""
    asked = {"audit_url": f"sqlite:///{tmp_path}/asked.db", "jsonl_path": str(tmp_path / "asked.jsonl")}
    with ServiceHarness(prices(places), observability=asked) as harness:
        assert harness.request("POST", "/net", json={"gross": 12.0}).status == 200
        with harness.trail() as trail:
            assert trail.count() == 1
    assert {path.stem for path in tmp_path.iterdir()} == {"asked"}
    assert len((tmp_path / "asked.jsonl").read_text().splitlines()) == 1
