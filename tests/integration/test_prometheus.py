"""A real Prometheus scrapes a real service with two workers."""

from __future__ import annotations

import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

ROW = [0.5, 1.0, -0.5, 0.25]


def executable(name: str) -> str:
    """A program of Debian's package ``prometheus``."""
    found = shutil.which(name)
    assert found, f"{name} is not installed: apt-get install prometheus"
    return found


@pytest.fixture(scope="module")
def server(serve):
    """The probe service, after exactly fifty predictions of three rows and four that were invalid."""
    with serve("probe:Probe") as running:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda _: running.predict(instances=[ROW] * 3), range(50)))
        for _ in range(4):
            running.post("/predict", content=b"{")
        yield running


@pytest.fixture
def prometheus(server, tmp_path, free_port, eventually):
    """A Prometheus that scrapes the service every second; asks it a query and gives the value by labels."""
    config = tmp_path / "prometheus.yml"
    target = server.url.removeprefix("http://")
    config.write_text(
        "global: {scrape_interval: 1s}\n"
        f"scrape_configs: [{{job_name: probe, static_configs: [{{targets: ['{target}']}}]}}]\n"
    )
    url = f"http://127.0.0.1:{free_port}"
    command = [
        executable("prometheus"),
        f"--config.file={config}",
        f"--storage.tsdb.path={tmp_path / 'tsdb'}",
        f"--web.listen-address=127.0.0.1:{free_port}",
    ]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)

    def query(expression: str) -> list[tuple[dict[str, str], float]]:
        answer = httpx.get(f"{url}/api/v1/query", params={"query": expression}).json()
        assert answer["status"] == "success", answer
        return [(each["metric"], float(each["value"][1])) for each in answer["data"]["result"]]

    def ready() -> bool:
        try:
            return httpx.get(f"{url}/-/ready").status_code == 200 and bool(query("e2i_predictions_total"))
        except httpx.TransportError:
            return False

    try:
        eventually(ready, what="Prometheus to have scraped the service")
        yield query
    finally:
        process.terminate()
        process.wait(20)


def test_recorded_values_are_what_was_sent(prometheus):
    """Counts are exact over both workers, in Prometheus as in the text, and the target is up."""
    assert prometheus('up{job="probe"}')[0][1] == 1
    ((labels, count),) = prometheus('e2i_predictions_total{outcome="ok"}')
    assert (labels["model"], labels["task"], count) == ("probe", "classification", 50)
    assert prometheus('sum(e2i_prediction_items_total{outcome="ok"})')[0][1] == 150
    assert prometheus('sum(e2i_predictions_total{outcome="invalid"})')[0][1] == 4
    assert prometheus('e2i_prediction_duration_seconds_count{model="probe",phase="total"}')[0][1] == 54


def test_percentiles_can_be_asked_for(prometheus):
    """``histogram_quantile`` gives a percentile by model and phase."""
    expression = 'histogram_quantile(0.95, sum by (le, phase) (e2i_prediction_duration_seconds_bucket{model="probe"}))'
    found = {labels["phase"]: value for labels, value in prometheus(expression)}
    assert {"total", "predict", "decode", "queue"} <= found.keys()
    assert 0 < found["predict"] <= found["total"]


def test_our_metrics_pass_promtools_lint(server):
    """Names, units, types and help are as Prometheus wants them."""
    text = httpx.get(server.url + "/metrics").text
    ours = "".join(f"{line}\n" for line in text.splitlines() if "e2i_" in line)
    done = subprocess.run(
        [executable("promtool"), "check", "metrics"], input=ours, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
