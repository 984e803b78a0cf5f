"""A real Prometheus scrapes a real service with two workers."""

from __future__ import annotations

import math
import random
import shutil
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from e2i_serving.journal import new_life_id
from e2i_serving.observers.metrics import CONTENT_TYPE, SeriesFile, collect, render
from e2i_serving.observers.metrics.families import DURATION

ROW = [0.5, 1.0, -0.5, 0.25]
SENT = 600
PARTS = (0.5, 0.9, 0.95, 0.99, 0.999)


def executable(name: str) -> str:
    """A program of Debian's package ``prometheus``."""
    found = shutil.which(name)
    assert found, f"{name} is not installed: apt-get install prometheus"
    return found


class Prometheus:
    """A running Prometheus, to be asked."""

    def __init__(self, url: str) -> None:
        self.url = url

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """The labels and value of each series that an expression gives."""
        answer = httpx.get(f"{self.url}/api/v1/query", params={"query": expression}).json()
        assert answer["status"] == "success", answer
        return [(each["metric"], float(each["value"][1])) for each in answer["data"]["result"]]

    def value(self, expression: str) -> float:
        """The value of the only series."""
        ((_, value),) = self.query(expression)
        return value

    def exemplars(self, expression: str) -> list[dict[str, Any]]:
        """The exemplars of the last hour."""
        parameters = {"query": expression, "start": "0", "end": "4000000000"}
        answer = httpx.get(f"{self.url}/api/v1/query_exemplars", params=parameters).json()
        return [exemplar for series in answer["data"] for exemplar in series["exemplars"]]


@contextmanager
def running(folder: Path, port: int, targets: list[str]) -> Iterator[Prometheus]:
    """A Prometheus that scrapes targets every second."""
    folder.mkdir(exist_ok=True)
    config = folder / "prometheus.yml"
    config.write_text(
        "global: {scrape_interval: 1s}\n"
        f"scrape_configs: [{{job_name: probe, static_configs: [{{targets: {targets}}}]}}]\n"
    )
    command = [
        executable("prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={folder / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--enable-feature=exemplar-storage",
    ]
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield Prometheus(f"http://127.0.0.1:{port}")
    finally:
        process.terminate()
        process.wait(20)


def holds(prometheus: Prometheus, expression: str) -> Any:
    """Whether Prometheus answers and an expression gives anything."""
    try:
        ready = httpx.get(f"{prometheus.url}/-/ready").status_code == 200
        return ready and prometheus.query(expression)
    except httpx.TransportError:
        return False


def exact(values: list[float], part: float) -> float:
    """The value at a part of the ranks, as ``histogram_quantile`` counts them."""
    return sorted(values)[max(0, math.ceil(part * len(values)) - 1)]


@pytest.fixture(scope="module")
def server(serve):
    """The probe service, after exactly so many predictions of three rows and four that were invalid."""
    with serve("probe:Probe") as running:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: running.predict(instances=[ROW] * 3), range(SENT)))
        for _ in range(4):
            running.post("/predict", content=b"{")
        yield running


@pytest.fixture
def prometheus(server, tmp_path, free_port, eventually):
    """A Prometheus that has scraped the service."""
    with running(tmp_path / "prometheus", free_port, [server.url.removeprefix("http://")]) as started:
        eventually(lambda: holds(started, f'e2i_predictions_total{{outcome="ok"}} == {SENT}'), what="a scrape")
        yield started


def test_recorded_values_are_what_was_sent(prometheus):
    """Counts are exact over both workers, in Prometheus as in the text, and the target is up."""
    assert prometheus.value('up{job="probe"}') == 1
    ((labels, count),) = prometheus.query('e2i_predictions_total{outcome="ok"}')
    assert (labels["model"], labels["task"], count) == ("probe", "classification", SENT)
    assert prometheus.value('sum(e2i_prediction_items_total{outcome="ok"})') == 3 * SENT
    assert prometheus.value('sum(e2i_predictions_total{outcome="invalid"})') == 4
    assert prometheus.value('e2i_prediction_duration_seconds_count{model="probe"}') == SENT + 4
    assert prometheus.value("sum(e2i_predicted_class_total)") == 3 * SENT
    assert prometheus.value("e2i_workers") == prometheus.value("e2i_workers_expected") == 2


def test_percentiles_are_those_of_the_trail(server, prometheus, eventually):
    """``histogram_quantile`` over both workers gives each percentile within 5 % of what the trail says exactly."""
    with server.trail() as trail:
        eventually(lambda: trail.count() == SENT + 4, what="every row")
        durations = [row["duration"] for row in trail.query(items=False)]
    for part in PARTS:
        found = prometheus.value(f"histogram_quantile({part}, sum by (le) (e2i_prediction_duration_seconds_bucket))")
        assert found == pytest.approx(exact(durations, part), rel=0.05), part


def test_the_bound_of_an_objective_is_exact(server, prometheus, eventually):
    """How many were answered within an objective's bound is known to the one."""
    with server.trail() as trail:
        eventually(lambda: trail.count() == SENT + 4, what="every row")
        durations = [row["duration"] for row in trail.query(items=False)]
    assert prometheus.value('e2i_prediction_duration_seconds_bucket{le="0.5"}') == sum(
        each <= 0.5 for each in durations
    )


def test_exemplars_lead_to_the_prediction(server, prometheus, eventually):
    """Prometheus keeps, beside a bucket, the trace and the prediction that were counted in it."""
    found = eventually(lambda: prometheus.exemplars("e2i_prediction_duration_seconds_bucket"), what="an exemplar")
    with server.trail() as trail:
        for exemplar in found[:5]:
            row = eventually(lambda: trail.get(exemplar["labels"]["prediction_id"]), what="its row")  # noqa: B023
            assert row["trace_id"] == exemplar["labels"]["trace_id"]
            assert row["duration"] == pytest.approx(float(exemplar["value"]), rel=1e-6)


def test_the_relay_says_how_far_behind_it_is(server, prometheus, eventually):
    """When all is delivered the backlog is nothing, the breaker is closed, and the count delivered is exact."""
    eventually(lambda: holds(prometheus, f"e2i_audit_delivered_total == {SENT + 4}"), what="delivery")
    eventually(lambda: holds(prometheus, "e2i_audit_backlog_records == 0"), what="an empty backlog")
    assert prometheus.value("e2i_relay_up") == 1
    assert prometheus.value("e2i_audit_oldest_record_age_seconds") == 0
    assert prometheus.value("e2i_audit_dead_letters") == 0
    assert prometheus.value("e2i_audit_breaker_state") == 0


def test_replicas_of_different_speeds_have_percentiles_together(tmp_path, free_port, eventually):
    """One that is fast throughout and one that is slow throughout: within 5 % from p50 to p99.9."""
    source = random.Random(7)
    ranges = ((1.5e-4, 4e-3), (8e-3, 20.0))
    values: list[float] = []
    with ExitStack() as stack:
        targets = []
        for number, (fastest, slowest) in enumerate(ranges):
            file = stack.enter_context(closing(SeriesFile(tmp_path / str(number), new_life_id())))
            series = file.series(DURATION, "scorer", "v1")
            for _ in range(20_000):
                value = fastest * (slowest / fastest) ** source.random()
                series.observe(value)
                values.append(value)
            targets.append(stack.enter_context(exposed(render(collect(tmp_path / str(number))))))
        started = stack.enter_context(running(tmp_path / "prometheus", free_port, targets))
        eventually(lambda: holds(started, "count(e2i_prediction_duration_seconds_count) == 2"), what="both scrapes")
        for part in (0.05, *PARTS):
            expression = f"histogram_quantile({part}, sum by (le) (e2i_prediction_duration_seconds_bucket))"
            assert started.value(expression) == pytest.approx(exact(values, part), rel=0.05), part


@contextmanager
def exposed(text: str) -> Iterator[str]:
    """A target that answers each scrape with a text."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", CONTENT_TYPE)
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def test_our_metrics_pass_promtools_lint(server):
    """Names, units, types and help are as Prometheus wants them."""
    text = httpx.get(server.url + "/metrics").text
    ours = "".join(f"{line}\n" for line in text.splitlines() if "e2i_" in line)
    done = subprocess.run(
        [executable("promtool"), "check", "metrics"], input=ours, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
