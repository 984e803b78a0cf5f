"""Metrics by OTLP: the same counts, and percentiles that are true, at a receiver."""

from __future__ import annotations

import math
import random

import pytest

from e2i_serving.observers.metrics import SeriesFile, families
from e2i_serving.observers.metrics.buckets import DURATION_GRID
from e2i_serving.observers.metrics.otlp import SCALE, exponential
from e2i_serving.runtime.metrics_export import metrics_export_of
from e2i_serving.settings import Settings
from e2i_serving.testing import MetricsReceiver


def percentile(offset: int, counts: list[int], part: float) -> float:
    """A percentile read from exponential buckets, at the middle of its bucket."""
    wanted = part * sum(counts)
    seen = 0
    for index, count in enumerate(counts):
        seen += count
        if seen >= wanted:
            return 2 ** ((offset + index + 0.5) / 2**SCALE)
    raise AssertionError(part)


@pytest.mark.parametrize("seed", range(5))
def test_percentiles_of_exponential_buckets_are_true(seed):
    """From 100 microseconds to 60 seconds, p50 to p99.9 are within 5 % of exact."""
    rng = random.Random(seed)
    values = sorted(min(60.0, math.exp(rng.uniform(math.log(1e-4), math.log(60)))) for _ in range(20_000))
    counts = [0] * (len(DURATION_GRID) + 1)
    for value in values:
        counts[next(at for at, bound in enumerate((*DURATION_GRID, math.inf)) if value <= bound)] += 1
    made = exponential(DURATION_GRID, counts)
    assert sum(made.bucket_counts) == len(values)
    for part in (0.5, 0.9, 0.95, 0.99, 0.999):
        exact = values[math.ceil(part * len(values)) - 1]
        assert percentile(made.offset, list(made.bucket_counts), part) == pytest.approx(exact, rel=0.05)


def test_nothing_counted_is_no_bucket():
    """A histogram without observations has no buckets, and one above all bounds has one."""
    assert exponential(DURATION_GRID, [0] * (len(DURATION_GRID) + 1)).bucket_counts == ()
    assert list(exponential((1.0, 2.0), (0, 0, 3)).bucket_counts) == [3]


@pytest.fixture
def sent(tmp_path, monkeypatch, eventually):
    """Metrics of a worker, as a receiver got them."""
    file = SeriesFile(tmp_path / "metrics", "life-1")
    file.series(families.PREDICTIONS, "credit", "v1", "classification", "ok").add(3)
    file.series(families.IN_PROGRESS).set(2.0)
    duration = file.series(families.DURATION, "credit", "v1")
    phase = file.series(families.PHASE_DURATION, "credit", "v1", "predict")
    for seconds in (0.01, 0.02, 0.02):
        duration.observe(seconds)
        phase.observe(seconds)
    file.series(families.SERVICE_INFO, "Credit", "credit", "b7", "credit", "v1", "classification", "1").set(1.0)
    with MetricsReceiver() as receiver:
        for name, value in receiver.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "100")
        export = metrics_export_of(Settings(metrics_exporter="otlp-http"), tmp_path, 1_000)
        assert export is not None
        eventually(lambda: receiver.metrics, what="metrics")
        export.close()
        yield receiver
    file.close()


def test_a_receiver_gets_what_a_scrape_would_read(sent):
    """Counters, gauges and histograms arrive under their names, cumulative, as the service's."""
    found = {metric["name"]: metric for metric in sent.metrics}
    predictions = found["e2i_predictions"]
    assert predictions["kind"] == "sum"
    assert predictions["points"] == [
        {"model": "credit", "version": "v1", "task": "classification", "outcome": "ok", "value": 3.0, "start": 1_000}
    ]
    assert found["e2i_predictions_in_progress"]["points"][0]["value"] == 2.0
    phases = found["e2i_prediction_phase_duration_seconds"]
    assert (phases["kind"], phases["unit"], phases["points"][0]["count"]) == ("histogram", "s", 3)
    duration = found["e2i_prediction_duration_seconds"]["points"][0]
    assert found["e2i_prediction_duration_seconds"]["kind"] == "exponential_histogram"
    assert (duration["count"], duration["sum"]) == (3, pytest.approx(0.05))
    assert percentile(duration["offset"], duration["buckets"], 0.99) == pytest.approx(0.02, rel=0.05)
    assert predictions["resource"]["service.name"] == "Credit"


def test_nothing_is_sent_unless_asked_for(tmp_path, monkeypatch):
    """Without a setting there is no export; OpenTelemetry's own variables can ask for one, or turn all off."""
    assert metrics_export_of(Settings(), tmp_path, 1) is None
    monkeypatch.setenv("OTEL_SDK_DISABLED", "true")
    assert metrics_export_of(Settings(metrics_exporter="otlp-http"), tmp_path, 1) is None
    monkeypatch.delenv("OTEL_SDK_DISABLED")
    monkeypatch.setenv("OTEL_METRICS_EXPORTER", "otlp")
    export = metrics_export_of(Settings(), tmp_path, 1)
    assert export is not None
    export.close()  # nobody listens there; it ends all the same
