"""Metrics of a real service with several workers: exact, and the same whichever worker is asked."""

from __future__ import annotations

import re
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

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
    """A server of this module's own, so that its counts are exact."""
    with serve("probe:Probe") as server:
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
        assert total(samples, "e2i_prediction_duration_seconds_count", phase="total") == 65
        assert total(samples, "e2i_prediction_duration_seconds_count", phase="predict") >= 60
        assert total(samples, "e2i_audit_records_accepted_total") == 65
        assert total(samples, "e2i_service_info") == 2
    assert re.fullmatch(r"[a-z0-9]{16}", next(dict(has)["version"] for name, has in samples if "info" in name))

    measured.workers()[0].kill()
    eventually(lambda: total(scrape(measured), "e2i_service_info") == 1, what="the dead worker's gauge to go")
    assert total(scrape(measured), "e2i_predictions_total") == 65


def test_users_own_and_bentomls_metrics_are_still_served(measured):
    """What a service registers with prometheus_client stands beside ours, in one valid text."""
    answer = httpx.get(measured.url + "/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    names = {family.name for family in text_string_to_metric_families(answer.text)}
    assert {"e2i_predictions", "probe_own"} <= names
