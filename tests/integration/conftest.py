"""A real Prometheus that scrapes every metric there is."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from exposition import exporter

Series = tuple[dict[str, str], float]


def executable(name: str) -> str:
    """A program of Debian's package ``prometheus``."""
    found = shutil.which(name)
    assert found, f"{name} is not installed: apt-get install prometheus"
    return found


class ScrapingPrometheus(NamedTuple):
    """A running Prometheus: its address, and what asks it an instant query."""

    url: str
    query: Callable[[str], list[Series]]


@pytest.fixture(scope="session")
def promtool() -> str:
    """The program that checks and tests rules."""
    return executable("promtool")


@pytest.fixture(scope="module")
def scraping_prometheus(tmp_path_factory: pytest.TempPathFactory, project_root: Path) -> Iterator[ScrapingPrometheus]:
    """A Prometheus that scrapes all metrics each second and evaluates the default rules as often."""
    folder = tmp_path_factory.mktemp("prometheus")
    for path in (project_root / "prometheus").glob("*.yaml"):
        often = re.sub(r"(?m)^  interval: \w+$", "  interval: 1s", path.read_text())
        (folder / path.name).write_text(often)
    with exporter() as target:
        (folder / "prometheus.yml").write_text(
            "global: {scrape_interval: 1s}\n"
            f"rule_files: ['{folder}/objectives.yaml', '{folder}/alerts.yaml']\n"
            f"scrape_configs: [{{job_name: churn, static_configs: [{{targets: ['{target}']}}]}}]\n"
        )
        command = [
            executable("prometheus"),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'tsdb'}",
            "--web.listen-address=127.0.0.1:0",
        ]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            url = f"http://{_address(process, folder / 'log')}"

            def query(expression: str) -> list[Series]:
                answer = httpx.get(f"{url}/api/v1/query", params={"query": expression}).json()
                assert answer["status"] == "success", (expression, answer)
                return [(each["metric"], float(each["value"][1])) for each in answer["data"]["result"]]

            yield ScrapingPrometheus(url, query)
        finally:
            process.terminate()
            process.wait(20)


def _address(process: subprocess.Popen[bytes], log: Path) -> str:
    """Where it listens, by its log."""
    end = time.monotonic() + 30
    while True:
        text = log.read_text()
        assert process.poll() is None, text
        found = re.search(r"Listening on\S* (?:address=)?(127\.0\.0\.1:\d+)", text)
        if found and "Server is ready" in text:
            return found[1]
        assert time.monotonic() < end, text
        time.sleep(0.05)
