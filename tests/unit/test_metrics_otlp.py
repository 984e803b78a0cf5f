"""Metrics by OTLP: the same counts, and percentiles that are true, at a receiver."""

from __future__ import annotations

import math
import random
from contextlib import ExitStack, closing

import pytest

from e2i_serving.observers.metrics import SeriesFile, families
from e2i_serving.observers.metrics.buckets import DURATION_GRID
from e2i_serving.observers.metrics.otlp import SCALE, exponential
from e2i_serving.runtime.metrics_export import MetricsExport, metrics_export_of
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
def worker(tmp_path):
    """The numbers of a worker that lives."""
    file = SeriesFile(tmp_path / "metrics", "life-1")
    file.series(families.PREDICTIONS, "credit", "v1", "classification", "ok").add(3)
    file.series(families.IN_PROGRESS).set(2.0)
    duration = file.series(families.DURATION, "credit", "v1")
    phase = file.series(families.PHASE_DURATION, "credit", "v1", "predict")
    for seconds in (0.01, 0.02, 0.02):
        duration.observe(seconds)
        phase.observe(seconds)
    file.series(families.SERVICE_INFO, "Credit", "credit", "b7", "credit", "v1", "classification", "1").set(1.0)
    yield file
    file.close()


@pytest.fixture
def exporting(tmp_path, monkeypatch):
    """Starts the export of a relay to a receiver."""
    with MetricsReceiver() as receiver, ExitStack() as stack:
        for name, value in receiver.environment.items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("OTEL_METRIC_EXPORT_INTERVAL", "100")

        def start() -> tuple[MetricsReceiver, MetricsExport]:
            settings = Settings(metrics_exporter="otlp-http", pod="pod-7", environment="test")
            export = metrics_export_of(settings, tmp_path, 1_000)
            assert export is not None
            stack.callback(export.close)
            return receiver, export

        yield start


@pytest.fixture
def sent(worker, exporting, eventually):
    """Metrics of a worker, as a receiver got them."""
    receiver, export = exporting()
    eventually(lambda: receiver.metrics, what="metrics")
    export.close()
    return receiver


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
    resource = predictions["resource"]
    assert (resource["service.name"], resource["service.namespace"]) == ("Credit", "credit")
    assert (resource["service.version"], resource["service.instance.id"]) == ("b7", "pod-7")
    assert resource["deployment.environment.name"] == "test"


def test_a_number_of_things_has_no_unit(sent):
    """Prometheus would call a gauge of unit 1 a ratio, and name it so."""
    assert {metric["name"]: metric["unit"] for metric in sent.metrics if metric["kind"] == "gauge"} == {
        "e2i_predictions_in_progress": "",
        "e2i_service_info": "",
        "e2i_relay_up": "",
    }


def test_numbers_stay_their_service_s_without_its_workers(worker, exporting, eventually):
    """When no worker lives they are sent on as the same service's, and not before its first one has lived."""
    receiver, _ = exporting()
    eventually(lambda: receiver.metrics, what="metrics")
    worker.close()
    eventually(lambda: "e2i_service_info" not in {each["name"] for each in receiver.metrics}, what="metrics since")
    assert receiver.metrics[0]["resource"]["service.instance.id"] == "pod-7"


def test_nothing_is_sent_of_a_service_that_is_not_known(tmp_path, exporting):
    """A relay without a worker does not send a service's counters as those of another, nameless one."""
    with closing(SeriesFile(tmp_path / "metrics", "life-1")) as file:
        file.series(families.PREDICTIONS, "credit", "v1", "classification", "ok").add(3)
        receiver, export = exporting()
        export.close()  # which sends what there is
        assert not receiver.metrics


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
