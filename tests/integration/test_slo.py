"""Rules and budgets, by a real Prometheus and its tool."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from e2i_serving.cli import app
from e2i_serving.slo import FILE_NAME

ROOT = Path(__file__).parents[2]
RULE_TESTS = sorted((Path(__file__).parent / "rules").glob("*.yaml"))


def run(*command: str | Path) -> str:
    """The output of a program that must succeed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def documented_objectives() -> str:
    """The example of the documentation."""
    page = (ROOT / "docs" / "objectives.md").read_text()
    return page.partition("```yaml\n")[2].partition("```")[0]


def test_default_rules_pass_the_check(promtool):
    """Promtool finds nothing to complain of in the rules of the repository."""
    assert "FAILED" not in run(promtool, "check", "rules", *sorted((ROOT / "prometheus").glob("*.yaml")))


def test_rules_of_the_documented_file_pass_the_check(promtool, tmp_path):
    """Nor in those that are made of the documentation's example, with other labels kept apart."""
    (tmp_path / FILE_NAME).write_text(documented_objectives())
    options = ["--file", str(tmp_path / FILE_NAME), "--output", str(tmp_path), "--by", "namespace", "--by", "job"]
    done = CliRunner().invoke(app, ["slo", "generate", *options])
    assert done.exit_code == 0, done.output
    assert "FAILED" not in run(promtool, "check", "rules", *done.stdout.splitlines())


OBJECTIVE = """
apiVersion: openslo/v1
kind: SLO
metadata: {{name: availability, annotations: {{e2i-serving/job: {service}}}}}
spec:
  service: {service}
  indicatorRef: availability
  budgetingMethod: Occurrences
  objectives: [{{target: {target}}}]
"""
TWO_SERVICES = """
rule_files: [strict/objectives.yaml, lenient/objectives.yaml]
evaluation_interval: 30s
tests:
  - interval: 15s
    input_series:
      - series: e2i_predictions_total{job="strict", instance="a", model="m", outcome="ok"}
        values: 0+100x500
      - series: e2i_predictions_total{job="lenient", instance="b", model="m", outcome="ok"}
        values: 0+95x500
      - series: e2i_predictions_total{job="lenient", instance="b", model="m", outcome="error"}
        values: 0+5x500
    promql_expr_test:
      - expr: count_over_time(ALERTS[2h])
        eval_time: 2h
        exp_samples: []
      - expr: round(slo:e2i_errors:ratio_rate1h / slo:e2i_error_budget:ratio, 0.01)
        eval_time: 2h
        exp_samples:
          - labels: '{job="strict", model="m", objective="availability", indicator="availability", service="strict"}'
            value: 0
          - labels: '{job="lenient", model="m", objective="availability", indicator="availability", service="lenient"}'
            value: 0.5
"""


def test_objectives_of_one_name_are_each_service_s_own(promtool, tmp_path):
    """A service that keeps its objective is not told of another's errors, whose objective of that name allows them."""
    for service, target in (("strict", 0.999), ("lenient", 0.9)):
        file = tmp_path / f"{service}.yaml"
        file.write_text(OBJECTIVE.format(service=service, target=target))
        options = ["--file", str(file), "--output", str(tmp_path / service)]
        assert CliRunner().invoke(app, ["slo", "generate", *options]).exit_code == 0
    (tmp_path / "test.yaml").write_text(TWO_SERVICES)
    run(promtool, "test", "rules", tmp_path / "test.yaml")


@pytest.mark.parametrize("path", RULE_TESTS, ids=lambda path: path.stem)
def test_rules_alert_as_they_should(promtool, path):
    """What must page pages in time, and what must not does not."""
    assert "FAILED" not in run(promtool, "test", "rules", path)


def test_rules_are_evaluated(scraping_prometheus, eventually):
    """Prometheus evaluates each rule without an error, and records each objective."""
    import httpx

    def healthy() -> bool:
        groups = httpx.get(f"{scraping_prometheus.url}/api/v1/rules").json()["data"]["groups"]
        rules = [rule for group in groups for rule in group["rules"]]
        assert [rule["lastError"] for rule in rules if rule["health"] == "err"] == []
        return bool(rules) and all(rule["health"] == "ok" for rule in rules)

    eventually(healthy, what="each rule to have been evaluated")
    left = "count by (objective) (slo:e2i_budget_left:ratio)"
    found = eventually(lambda: len(result := scraping_prometheus.query(left)) == 4 and result, what=left)
    assert {labels["objective"] for labels, _ in found} == {
        *("availability", "latency", "feature-freshness", "audit-lag"),
    }


def test_status_asks_prometheus(scraping_prometheus, eventually, tmp_path, monkeypatch):
    """The command shows what is left of each budget, as the numbers that were scraped have it."""
    monkeypatch.chdir(tmp_path)
    command = ["slo", "status", "--prometheus", scraping_prometheus.url, "--format", "json"]

    def rows() -> dict[str, dict]:
        done = CliRunner().invoke(app, command)
        found = [json.loads(line) for line in done.stdout.splitlines()]
        if any(row["left"] is None for row in found):
            return {}
        assert done.exit_code == 1, done.output
        return {row["objective"]: row for row in found}

    # A lag is looked at in whole minutes, the first of which has to pass.
    found = eventually(rows, deadline=120, what="a number for each objective")
    expected = {"availability": 0.96, "latency": 0.99, "feature-freshness": 0.98, "audit-lag": 1}
    for name, good in expected.items():
        assert found[name]["good"] == pytest.approx(good, abs=1e-6), name
    assert found["availability"]["of"] == {"job": "churn", "model": "churn"}
    assert {name for name, row in found.items() if row["exhausted"]} >= {"availability", "feature-freshness"}
    assert not found["audit-lag"]["exhausted"]


@pytest.mark.parametrize("url", ["http://127.0.0.1:9", "not an address"])
def test_a_prometheus_that_is_not_there(url):
    """An address where nobody answers is one line and exit code 2."""
    done = CliRunner().invoke(app, ["slo", "status", "--prometheus", url])
    assert done.exit_code == 2
    assert "can't be asked" in done.stderr
    assert len(done.stderr.splitlines()) == 1
