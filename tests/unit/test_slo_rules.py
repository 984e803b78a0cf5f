"""The rules that are made of objectives."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from e2i_serving.cli import app
from e2i_serving.slo import DEFAULT_OBJECTIVES, Indicator, Objective, Objectives
from e2i_serving.slo.files import rule_files
from e2i_serving.slo.indicators import error_ratio
from e2i_serving.slo.rules import objective_groups

ROOT = Path(__file__).parents[2]


def rules(text: str) -> list[dict]:
    """All rules of a file."""
    return [rule for group in yaml.safe_load(text)["groups"] for rule in group["rules"]]


def alerts() -> list[dict]:
    """All alerts of the default objectives."""
    made = rule_files(DEFAULT_OBJECTIVES).values()
    return [rule for text in made for rule in rules(text) if "alert" in rule]


@pytest.mark.parametrize("name", ["objectives.yaml", "alerts.yaml"])
def test_rules_in_the_repository_are_current(name):
    """The rules of the default objectives are what the command writes now."""
    made = rule_files(DEFAULT_OBJECTIVES)[name]
    assert (ROOT / "prometheus" / name).read_text() == made, "Run `e2i-serving slo generate`."


def test_each_alert_says_what_to_do():
    """Each alert has a severity, a summary, a description, and a runbook that is there."""
    headings = set(re.findall(r"(?m)^## (\w+)$", (ROOT / "docs" / "runbooks.md").read_text()))
    assert headings == {alert["alert"] for alert in alerts()}
    for alert in alerts():
        assert alert["labels"]["severity"] in {"page", "ticket"}
        assert alert["annotations"]["summary"].endswith(".")
        assert alert["annotations"]["description"].endswith(".")
        assert alert["annotations"]["runbook_url"] == f"docs/runbooks.md#{alert['alert'].lower()}"


def test_burn_alerts_have_both_windows():
    """Each pair of windows has its factor, its severity and its guard against low traffic."""
    found = [
        (alert["labels"]["window"], alert["labels"]["severity"], alert["expr"])
        for alert in alerts()
        if alert["alert"] == "E2iAvailabilityBurn"
    ]
    expected = [
        ("1h", "5m", "0.072", "page"),
        ("6h", "30m", "0.03", "page"),
        ("1d", "2h", "0.015", "ticket"),
        ("3d", "6h", "0.005", "ticket"),
    ]
    assert [(window, severity) for window, severity, _ in found] == [(each[0], each[3]) for each in expected]
    chosen = '{objective="availability", service=""}'
    for (*_, expression), (long, short, threshold, _) in zip(found, expected, strict=True):
        assert expression.split("\nand\n") == [
            f"slo:e2i_errors:ratio_rate{long}{chosen} > {threshold}",
            f"slo:e2i_errors:ratio_rate{short}{chosen} > {threshold}",
            f"slo:e2i_bad_events:increase{long}{chosen} >= 10",
        ]


@pytest.mark.parametrize(
    ("given", "keep", "chosen"),
    [
        ({}, ("job",), 'objective="a", service=""'),
        ({"service": "s", "job": "j"}, ("job",), 'objective="a", service="s", job="j"'),
        ({"subject": "m"}, ("job",), 'objective="a", service="", model="m"'),
        ({"job": "j"}, ("namespace", "service"), 'objective="a"'),
    ],
)
def test_an_alert_selects_its_own_objective(given, keep, chosen):
    """By all labels that its series have, and by none that they do not."""
    objective = Objective(name="a", indicator=Indicator.AVAILABILITY, target=0.99, **given)
    *_, alert = objective_groups(Objectives(items=(objective,)), keep=keep)[-1]["rules"]
    assert alert["expr"].count(f"{{{chosen}}}") == 3


def test_a_burn_rate_that_can_not_be_is_left_out():
    """With a low target, the share that a fast burn needs would be above 1."""
    objective = Objective(name="a", indicator=Indicator.AVAILABILITY, target=0.9)
    burns = objective_groups(Objectives(items=(objective,)))[-1]["rules"]
    assert [alert["labels"]["window"] for alert in burns] == ["6h", "1d", "3d"]


def test_values_are_quoted():
    """A model's name can't break out of its matcher."""
    objective = Objective(name="l", indicator=Indicator.LATENCY, target=0.9, bound=2, subject='a"} or b\\', job="j")
    chosen = 'model="a\\"} or b\\\\", job="j"'
    timed = "sum by (namespace, model) (rate(e2i_predictions_timed_total"
    total, late = f'{timed}{{bound="2", {chosen}}}[5m]))', f'{timed}{{bound="2", within="no", {chosen}}}[5m]))'
    found = error_ratio(objective, "5m", ("namespace",))
    assert found == f"(\n  {late}\n  or\n  0 * {total}\n)\n/\n({total} > 0)"


def test_generate_writes_the_files(tmp_path):
    """The command writes what it says, for other labels and another page of runbooks."""
    options = ["--output", str(tmp_path / "rules"), "--by", "namespace", "--by", "job", "--runbooks", "http://r/"]
    done = CliRunner().invoke(app, ["slo", "generate", *options])
    assert done.exit_code == 0, done.output
    written = [Path(line) for line in done.stdout.splitlines()]
    assert [path.name for path in written] == ["objectives.yaml", "alerts.yaml"]
    text = (tmp_path / "rules" / "alerts.yaml").read_text()
    assert "max by (namespace, job, destination)" in text
    assert "runbook_url: http://r/#e2iauditlag" in text
    page = CliRunner().invoke(app, ["slo", "runbooks"]).stdout
    assert "\n## E2iAuditLag\n" in page


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--by", "not a label"], "'not a label' is no label's name."),
        (["--file", "none.yaml"], "none.yaml can't be read"),
        (["--output", "/proc/none"], "/proc/none can't be written to"),
    ],
)
def test_mistakes_are_one_line(options, said):
    """What is wrong is said in a line, with exit code 2."""
    done = CliRunner().invoke(app, ["slo", "generate", *options])
    assert done.exit_code == 2
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1
