"""Metrics of a real service with several workers: exact, and the same whichever worker is asked."""

from __future__ import annotations

import json
import re
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics_families
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from e2i_serving.cli import app

ROOT = Path(__file__).parents[2]
ROW = [0.5, 1.0, -0.5, 0.25]


def scrape(server) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """All samples by name and labels."""
    text = httpx.get(server.url + "/metrics").text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def total(samples, name: str, **labels: str) -> float:
    """Sum of a sample over all series that have these labels."""
    return sum(
        value for (found, has), value in samples.items() if found == name and labels.items() <= dict(has).items()
    )


@pytest.fixture(scope="module")
def measured(serve):
    """A server of this module's own, so that its counts are exact; it answers before its second worker is there."""
    with serve("probe:Probe") as server:
        end = time.monotonic() + 60
        while total(scrape(server), "e2i_workers") < 2:
            assert time.monotonic() < end, "The second worker did not start."
            time.sleep(0.05)
        yield server


@pytest.mark.smoke
def test_counts_are_exact_over_workers_and_never_go_back(measured, eventually):
    """Requests, rows and durations equal what was sent, from any worker, also after one was killed."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: measured.predict(instances=[ROW, ROW, ROW]), range(60)))
    for _ in range(4):
        measured.post("/predict", content=b"{")
    measured.predict(instances=[ROW], attributes={"do": "fail"})
    for _ in range(6):
        samples = scrape(measured)
        assert total(samples, "e2i_predictions_total", model="probe", outcome="ok") == 60
        assert total(samples, "e2i_prediction_items_total", outcome="ok") == 180
        assert total(samples, "e2i_predictions_total", outcome="invalid") == 4
        assert total(samples, "e2i_predictions_total", outcome="error") == 1
        assert total(samples, "e2i_prediction_duration_seconds_count") == 65
        assert total(samples, "e2i_prediction_phase_duration_seconds_count", phase="predict") >= 60
        assert total(samples, "e2i_predicted_class_total") == 180
        assert total(samples, "e2i_prediction_score_count") == 180
        assert total(samples, "e2i_batch_items_sum") == 181  # one of the request that failed
        assert total(samples, "e2i_errors_total", type="RuntimeError") == 1
        assert total(samples, "e2i_audit_records_accepted_total") == 65
        assert total(samples, "e2i_service_info") == 1
        assert total(samples, "e2i_workers") == total(samples, "e2i_workers_expected") == 2
        assert total(samples, "e2i_model_ready", model="probe") == 1
        assert total(samples, "e2i_model_load_seconds", model="probe") > 0
        assert total(samples, "bentoml_service_request_total", endpoint="/predict", http_response_code="200") == 60
        assert total(samples, "bentoml_service_request_duration_seconds_count", endpoint="/predict") == 65
    assert re.fullmatch(r"[a-z0-9]{16}", next(dict(has)["version"] for name, has in samples if "info" in name))

    measured.workers()[0].kill()
    eventually(lambda: total(scrape(measured), "e2i_workers") < 2, what="the dead worker's gauge to go")
    assert total(scrape(measured), "e2i_predictions_total") == 65


def test_users_own_and_bentomls_metrics_are_still_served(measured):
    """What a service registers with prometheus_client stands beside ours, in one valid text."""
    answer = httpx.get(measured.url + "/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    names = {family.name for family in text_string_to_metric_families(answer.text)}
    assert {"e2i_predictions", "probe_own"} <= names


def test_metrics_are_documented_as_they_are(measured):
    """Each family of ours that a live service shows is in the table of the documentation, of that type and labels."""
    table = re.findall(r"(?m)^\| `(e2i_\w+)` \| (\w+) \| (.*?) \|", (ROOT / "docs" / "metrics.md").read_text())
    documented = {name: (kind, set(re.findall(r"`(\w+)`", labels))) for name, kind, labels in table}
    for family in text_string_to_metric_families(httpx.get(measured.url + "/metrics").text):
        if not family.name.startswith("e2i_"):
            continue
        name = f"{family.name}_total" if family.type == "counter" else family.name
        kind, labels = documented[name]
        assert family.type == kind
        for sample in family.samples:
            if not name.startswith("e2i_labelled_"):
                assert sample.labels.keys() - {"le"} == labels, name


def test_openmetrics_has_exemplars_that_lead_to_the_prediction(measured):
    """Asked for OpenMetrics, a bucket names the trace and the prediction that it last counted."""
    trace = "0af7651916cd43dd8448eb211c80319c"
    sent = measured.predict({"traceparent": f"00-{trace}-b7ad6b7169203331-01"}, instances=[ROW])
    seen = []
    accept = "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"
    for encoding in ("identity", "gzip"):
        answer = httpx.get(measured.url + "/metrics", headers={"Accept": accept, "Accept-Encoding": encoding})
        assert answer.headers["content-type"] == "application/openmetrics-text; version=1.0.0; charset=utf-8"
        assert answer.headers.get("content-encoding", "identity") == encoding
        families = {family.name: family for family in openmetrics_families(answer.text)}
        assert {"e2i_predictions", "probe_own", "bentoml_service_request"} <= families.keys()
        seen = [
            sample.exemplar.labels for sample in families["e2i_prediction_duration_seconds"].samples if sample.exemplar
        ]
        assert {"trace_id": trace, "prediction_id": sent.headers["x-prediction-id"]} in seen


def test_strange_paths_and_values_make_no_series(measured):
    """Neither random paths nor label values nobody declared add to what is shown, beyond their bounds."""
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: httpx.get(f"{measured.url}/wp-admin/{number}"), range(100)))
        list(pool.map(lambda number: measured.predict(instances=[ROW], labels={"brand": f"b{number}"}), range(150)))
    samples = scrape(measured)
    assert not [has for _, has in samples if "wp-admin" in str(has)]
    brands = {dict(has)["brand"] for name, has in samples if name == "e2i_labelled_predictions_total"}
    assert len(brands) == 101
    assert "__other__" in brands
    assert total(samples, "e2i_labelled_predictions_total") == 150
    assert total(samples, "e2i_label_overflow_total", label="brand") == 50


def test_stats_are_the_same_from_the_service_and_from_the_trail(measured, eventually):
    """The command's percentiles of a live service are within 5 % of the trail's exact ones."""
    sent = total(scrape(measured), "e2i_predictions_total")
    with measured.trail() as trail:
        eventually(lambda: trail.count() == sent, what="every row")

    def stats(*options: str) -> dict[str, dict[str, float]]:
        done = CliRunner().invoke(app, ["stats", "--model", "probe", "--format", "json", *options])
        assert done.exit_code == 0, done.output
        found = [json.loads(line) for line in done.stdout.splitlines()]
        return {each["phase"]: {**each["seconds"], "count": each["count"]} for each in found}

    live, exact = stats("--url", measured.url), stats("--data-dir", str(measured.data_dir))
    assert live["total"] == pytest.approx(exact["total"], rel=0.05)
    assert live.keys() == exact.keys()
    assert live["predict"]["count"] == exact["predict"]["count"]
