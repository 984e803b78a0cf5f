"""Every query of every dashboard, asked of a real Prometheus that has all metrics."""

from __future__ import annotations

import json
import math
import re
import runpy
import time
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest
from exposition import COUNTERS, GAUGES, HISTOGRAMS

FOLDER = Path(__file__).parents[2] / "dashboards"

# What Grafana would put in place of the variables.
VARIABLES = {"job": "churn|other", "model": "churn", "version": ".*", "label": "brand", "__rate_interval": "5s"}


def panels(name: str) -> list[tuple[str, str]]:
    """The title and query of each target of a dashboard."""
    board = json.loads((FOLDER / name).read_text())
    return [
        (f"{panel['title']} {target['refId']}", target["expr"])
        for panel in board["panels"]
        for target in panel.get("targets", ())
    ]


BOARDS = sorted(path.name for path in FOLDER.glob("*.json"))
QUERIES = {f"{name}: {title}": expression for name in BOARDS for title, expression in panels(name)}


def filled(expression: str) -> str:
    """An expression with its variables replaced."""
    return re.sub(r"\$(\w+)", lambda found: VARIABLES[found[1]], expression)


def test_dashboards_in_the_repository_are_current():
    """The dashboards are what their code makes now."""
    made = runpy.run_path(str(FOLDER.parent / "tools" / "dashboards.py"))["made"]()
    assert {path.name: path.read_text() for path in FOLDER.glob("*.json")} == made, "Run tools/dashboards.py."


@pytest.mark.parametrize("which", QUERIES)
def test_query_finds_something(scraping_prometheus, eventually, which):
    """Each query parses, and gives at least one series with a number."""
    expression = filled(QUERIES[which])

    def numbers() -> bool:
        return any(math.isfinite(value) for _, value in scraping_prometheus.query(expression))

    eventually(numbers, what=expression)


@pytest.mark.parametrize("name", BOARDS)
def test_variables_have_values(scraping_prometheus, eventually, name):
    """Each variable that is asked of Prometheus has at least one value."""
    board = json.loads((FOLDER / name).read_text())
    asked = [each["query"] for each in board["templating"]["list"] if each["type"] == "query"]
    assert asked
    for query in asked:
        selector, label = re.fullmatch(r"label_values\((.+), (\w+)\)", query).groups()
        expression = f"count by ({label}) ({filled(selector)})"
        found = eventually(lambda expression=expression: scraping_prometheus.query(expression), what=expression)
        assert all(labels[label] for labels, _ in found)


def test_a_picture_has_a_line_for_each_series(scraping_prometheus, eventually):
    """What is drawn for the README are the dashboard's own panels, with what Prometheus has."""
    draw = runpy.run_path(str(FOLDER.parent / "tools" / "dashboard_picture.py"))["drawn"]
    board = json.loads((FOLDER / "e2i-overview.json").read_text())
    eventually(lambda: scraping_prometheus.query('rate(e2i_predictions_total{job="churn"}[30s])'), what="two scrapes")
    end = time.time()
    picture = ET.fromstring(draw(board, scraping_prometheus.url, end - 60, end, rows=31))
    texts = {each.text for each in picture.iter("{http://www.w3.org/2000/svg}text")}
    shown = [panel["title"] for panel in board["panels"] if panel["gridPos"]["y"] < 31 and panel["type"] != "row"]
    assert len(shown) > 8
    assert texts >= set(shown)
    assert any(each.get("stroke") for each in picture.iter("{http://www.w3.org/2000/svg}path"))


def test_every_metric_is_on_a_dashboard():
    """No metric is collected that nobody would see; a count and a time of the workers' build is enough."""
    shown = " ".join(QUERIES.values()) + json.dumps([json.loads((FOLDER / name).read_text()) for name in BOARDS])
    assert [name for name in (*COUNTERS, *HISTOGRAMS, *GAUGES) if name not in shown] == []
