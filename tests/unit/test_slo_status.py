"""What is left of budgets, from a service's own metrics."""

from __future__ import annotations

import json
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from typer.testing import CliRunner

from e2i_serving.cli import app
from e2i_serving.exceptions import QueryError
from e2i_serving.runtime.percentiles import percentiles_of_service
from e2i_serving.slo import DEFAULT_OBJECTIVES, Indicator, Objective, Objectives, asking
from e2i_serving.slo.status import Budget, budgets_from_service, budgets_from_text

METRICS = """\
# TYPE e2i_predictions_total counter
e2i_predictions_total{model="churn",version="1",task="c",outcome="ok"} 990
e2i_predictions_total{model="churn",version="2",task="c",outcome="ok"} 997
e2i_predictions_total{model="churn",version="1",task="c",outcome="error"} 3
e2i_predictions_total{model="churn",version="1",task="c",outcome="timeout"} 1
e2i_predictions_total{model="churn",version="1",task="c",outcome="rejected"} 9
e2i_predictions_total{model="churn",version="1",task="c",outcome="invalid"} 5000
e2i_predictions_total{model="churn",version="1",task="c",outcome="cancelled"} 5000
e2i_predictions_total{model="credit",version="1",task="c",outcome="ok"} 10
# TYPE e2i_prediction_duration_seconds histogram
e2i_prediction_duration_seconds_bucket{model="churn",version="1",le="0.5"} 990
e2i_prediction_duration_seconds_bucket{model="churn",version="1",le="1.0"} 995
e2i_prediction_duration_seconds_bucket{model="churn",version="1",le="+Inf"} 1000
e2i_prediction_duration_seconds_sum{model="churn",version="1"} 100
e2i_prediction_duration_seconds_count{model="churn",version="1"} 1000
# TYPE e2i_feature_outcomes_total counter
e2i_feature_outcomes_total{view="customer",outcome="hit"} 80
e2i_feature_outcomes_total{view="customer",outcome="stale"} 20
e2i_feature_outcomes_total{view="customer",outcome="missing"} 100
# TYPE e2i_audit_oldest_record_age_seconds gauge
e2i_audit_oldest_record_age_seconds{destination="audit-store"} 12.5
"""


def budgets(objective: Objective, text: str = METRICS) -> list[Budget]:
    """The budgets of one objective."""
    return budgets_from_text(Objectives(items=(objective,)), text)


@pytest.fixture
def service():
    """A server whose ``/metrics`` are those above."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            body = METRICS.encode()
            self.send_response(200 if self.path == "/metrics" else 404)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_availability_counts_failures_by_model():
    """Failures count against what was tried; invalid and cancelled requests do not count at all."""
    churn, credit = budgets(Objective(name="a", indicator=Indicator.AVAILABILITY, target=0.99))
    assert churn.subject == {"model": "churn"}
    assert churn.errors == pytest.approx(13 / 2000)
    assert churn.left == pytest.approx(0.35)
    assert (credit.errors, credit.left, credit.exhausted) == (0, 1, False)


def test_failures_can_be_chosen():
    """An outcome that is neither ok nor bad is left out."""
    objective = Objective(name="a", indicator=Indicator.AVAILABILITY, target=0.99, subject="churn", bad=("error",))
    (churn,) = budgets(objective)
    assert churn.errors == pytest.approx(3 / 1990)


def test_latency_is_exact_at_its_bound():
    """What is above the bound's bucket is bad, and at the target the budget is exhausted."""
    (half,) = budgets(Objective(name="l", indicator=Indicator.LATENCY, target=0.99, bound=0.5))
    assert (half.errors, half.exhausted) == (pytest.approx(0.01), True)
    (whole,) = budgets(Objective(name="l", indicator=Indicator.LATENCY, target=0.99, bound=1))
    assert (whole.errors, whole.exhausted) == (pytest.approx(0.005), False)


def test_latency_without_its_bucket_is_unknown():
    """A bound that the histogram does not have is said, and not guessed."""
    (unknown,) = budgets(Objective(name="l", indicator=Indicator.LATENCY, target=0.99, bound=0.3))
    assert (unknown.errors, unknown.left, unknown.exhausted) == (None, None, False)
    assert "no bucket of 0.3 s" in unknown.note


def test_freshness_is_of_what_was_found():
    """Stale features count against those that were found."""
    (view,) = budgets(Objective(name="f", indicator=Indicator.FEATURE_FRESHNESS, target=0.9))
    assert (view.subject, view.errors) == ({"view": "customer"}, pytest.approx(0.2))
    assert view.left == pytest.approx(-1)


def test_the_past_of_a_lag_is_unknown():
    """A gauge knows its present only."""
    (lag,) = budgets(Objective(name="g", indicator=Indicator.AUDIT_LAG, target=0.9, bound=60))
    assert lag.left is None
    assert lag.note == "only Prometheus knows the past; now 12.5 s of 60 s"


def test_nothing_counted_is_said():
    """An objective of what is not there has a line that says so."""
    (none,) = budgets(Objective(name="a", indicator=Indicator.AVAILABILITY, target=0.9, subject="other"))
    assert (none.left, none.note) == (None, "nothing was counted")


def test_what_is_no_text_format_is_refused():
    """A page that is no metrics is refused."""
    with pytest.raises(QueryError, match="not in Prometheus' text format"):
        budgets(DEFAULT_OBJECTIVES.items[0], "<html>{not metrics</html>")


ASKING = pytest.mark.parametrize("ask", [partial(budgets_from_service, DEFAULT_OBJECTIVES), percentiles_of_service])
"""Both that read a service's own metrics."""


@ASKING
@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://ann:s3cret@127.0.0.1:9", r"http://127\.0\.0\.1:9/metrics can't be asked"),
        ("http://ann:s3cret/x@127.0.0.1:9", "The address can't be asked"),
        ("ftp://ann:s3cret@127.0.0.1:9", r"ftp://127\.0\.0\.1:9/metrics can't be asked"),
    ],
)
def test_nobody_there(ask, url, said):
    """An address where nobody can be asked is named, without the secret in it."""
    with pytest.raises(QueryError, match=said) as raised:
        ask(url)
    assert "s3cret" not in str(raised.value)


@ASKING
def test_an_answer_of_any_length_is_not_read(service, ask, monkeypatch):
    """What answers without end is not what was asked for."""
    monkeypatch.setattr(asking, "LARGEST_ANSWER", len(METRICS) - 1)
    with pytest.raises(QueryError, match="more than"):
        ask(service)


@ASKING
def test_another_server_is_told_from_a_service(service, ask):
    """It answers, and has no metrics there."""
    with pytest.raises(QueryError, match=r"/other/metrics answered 404\. Is a service there") as raised:
        ask(f"{service.replace('://', '://ann:s3cret@')}/other")
    assert "s3cret" not in str(raised.value)


def test_status_of_a_service(service, tmp_path, monkeypatch):
    """The command shows each budget, and exits with 1 when one is exhausted."""
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["slo", "status", "--url", service])
    assert done.exit_code == 1, done.output
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["OBJECTIVE", "OF", "GOOD", "TARGET", "BUDGET", "LEFT", "OVER", "NOTE"]
    assert lines[1].split() == [
        *("availability", "model=churn", "99.35", "%", "99.5", "%", "-30.0", "%", "start"),
    ]
    as_json = CliRunner().invoke(app, ["slo", "status", "--url", service, "--format", "json"])
    rows = [json.loads(line) for line in as_json.stdout.splitlines()]
    assert [(row["objective"], row["exhausted"]) for row in rows] == [
        *(("availability", True), ("availability", False), ("latency", True)),
        *(("feature-freshness", True), ("audit-lag", False)),
    ]
    assert rows[0]["of"] == {"model": "churn"}


def test_status_reads_the_file_that_is_here(service, tmp_path, monkeypatch):
    """``slo.yaml`` in the working directory is taken; with nothing exhausted the exit code is 0."""
    (tmp_path / "slo.yaml").write_text(
        "apiVersion: openslo/v1\nkind: SLO\nmetadata: {name: mine}\nspec:\n  service: s\n  indicatorRef: availability\n"
        "  budgetingMethod: Occurrences\n  objectives: [{target: 0.9}]\n"
    )
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["slo", "status", "--url", service, "--format", "json"])
    assert done.exit_code == 0, done.output
    assert {json.loads(line)["objective"] for line in done.stdout.splitlines()} == {"mine"}


@pytest.mark.parametrize("options", [[], ["--url", "http://a", "--prometheus", "http://b"]])
def test_one_source_is_needed(options):
    """Neither and both are mistakes."""
    done = CliRunner().invoke(app, ["slo", "status", *options])
    assert (done.exit_code, done.stderr) == (2, "Error: Whom to ask? Give either --prometheus or --url.\n")
