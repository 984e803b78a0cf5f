"""Percentiles over minutes, as Prometheus makes them of what a service showed at each scrape."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from e2i_serving.observers.metrics import SeriesFile, collect, render
from e2i_serving.observers.metrics.families import DURATION

EVERY_SECONDS = 15
BUCKET = "e2i_prediction_duration_seconds_bucket"


def shown(folder: Path, answered: Sequence[Sequence[float]]) -> Iterator[dict[str, float]]:
    """The buckets at each scrape of a service; what was answered before each of them."""
    with closing(SeriesFile(folder, "life-1")) as file:
        series = file.series(DURATION.bounded_by((0.5,)), "m", "v")
        for durations in answered:
            for duration in durations:
                series.observe(duration)
            families = text_string_to_metric_families(render(collect(folder)))
            yield {
                sample.labels["le"]: sample.value
                for family in families
                for sample in family.samples
                if sample.name == BUCKET
            }


def series_of(scrapes: list[dict[str, float]]) -> list[dict[str, str]]:
    """Scrapes as promtool takes series: a value a scrape, ``_`` where a series is not there."""
    bounds = dict.fromkeys(bound for scrape in scrapes for bound in scrape)
    return [
        {
            "series": f'{BUCKET}{{le="{bound}"}}',
            "values": " ".join(f"{scrape[bound]:g}" if bound in scrape else "_" for scrape in scrapes),
        }
        for bound in bounds
    ]


@pytest.mark.parametrize(
    ("answered", "expected"),
    [
        pytest.param([[], [], [], [], [0.012] * 40, [], []], [None] * 4 + [0.012] * 3, id="scraped before the first"),
        pytest.param([[], [0.8], [], [], [0.012] * 40, []], [None] + [0.8] * 3 + [0.012] * 2, id="the first is slow"),
        pytest.param(
            [[], [5.0] * 9, [0.1] * 30, [0.002] * 99, [0.0002] * 400], [None, 5.0, 0.1, 0.002, 0.0002], id="ever faster"
        ),
    ],
)
def test_percentiles_are_true_from_the_first_request_on(promtool, tmp_path, answered, expected):
    """However slow or fast the first requests are: the median of the last minute is within 5 % of exact."""
    scrapes = list(shown(tmp_path / "metrics", answered))
    median = f"histogram_quantile(0.5, sum by (le) (rate({BUCKET}[1m])))"
    checks = [
        {
            "expr": f"abs({median} / {exact} - 1) > bool 0.05",
            "eval_time": f"{EVERY_SECONDS * number}s",
            "exp_samples": [{"labels": "{}", "value": 0}],
        }
        for number, exact in enumerate(expected)
        if exact is not None
    ]
    test = {"interval": f"{EVERY_SECONDS}s", "input_series": series_of(scrapes), "promql_expr_test": checks}
    (tmp_path / "test.yaml").write_text(json.dumps({"evaluation_interval": "15s", "tests": [test]}))
    command = [promtool, "test", "rules", str(tmp_path / "test.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert all(after.keys() == before.keys() for before, after in pairwise(scrapes))
