"""Objectives, and the file they are read from."""

from __future__ import annotations

import pytest

from e2i_serving.exceptions import ConfigurationError
from e2i_serving.slo import DEFAULT_OBJECTIVES, Indicator, load_objectives

AVAILABILITY = """\
apiVersion: openslo/v1
kind: SLO
metadata:
  name: churn-availability
  annotations:
    e2i-serving/model: churn
    example.com/team: risk
spec:
  service: churn
  indicatorRef: availability
  timeWindow:
    - duration: 28d
      isRolling: true
  budgetingMethod: Occurrences
  objectives:
    - target: 0.999
"""
LATENCY = """\
apiVersion: openslo/v1
kind: SLO
metadata: {name: churn-latency, displayName: Fast answers, labels: {team: risk}}
spec:
  description: A quarter of a second at most.
  service: churn
  indicatorRef: latency
  budgetingMethod: Occurrences
  objectives: [{op: lte, value: 0.25, target: 0.99}]
"""
LAG = """\
apiVersion: openslo/v1
kind: SLO
metadata: {name: lag}
spec:
  service: churn
  indicatorRef: audit-lag
  budgetingMethod: Timeslices
  objectives:
    - {op: lte, value: 60, target: 0.99, timeSliceTarget: 1, timeSliceWindow: 1m}
"""


@pytest.fixture
def read(tmp_path):
    """Load objectives from a text."""

    def load(text: str):
        path = tmp_path / "slo.yaml"
        path.write_text(text)
        return load_objectives(path)

    return load


@pytest.fixture
def refused(read):
    """What is said of a text that is refused, a line each, without the folder."""

    def load(text: str) -> list[str]:
        with pytest.raises(ConfigurationError) as raised:
            read(text)
        return [line.rpartition("/slo.yaml")[2] for line in str(raised.value).splitlines()]

    return load


def test_documents_become_objectives(read):
    """Each document is an objective; what it leaves out has its default."""
    availability, latency, lag = read(f"{AVAILABILITY}---\n{LATENCY}---\n{LAG}").items
    assert availability.model_dump() == {
        "name": "churn-availability",
        "service": "churn",
        "indicator": "availability",
        "target": 0.999,
        "bound": None,
        "days": 28,
        "subject": "churn",
        "job": "",
        "bad": ("error", "timeout", "rejected"),
    }
    assert (latency.indicator, latency.bound, latency.days, latency.subject) == (Indicator.LATENCY, 0.25, 30, "")
    assert (lag.indicator, lag.bound, lag.budget) == (Indicator.AUDIT_LAG, 60, 0.01)


def test_bounds_of_latency_are_ascending_and_differ(read):
    """Histograms get each bound once, the least first; that of a lag is none of theirs."""
    other = LATENCY.replace("churn-latency", "other").replace("0.25", "0.1")
    same = LATENCY.replace("churn-latency", "same")
    assert read(f"{LATENCY}---\n{other}---\n{same}---\n{LAG}").latency_bounds() == (0.1, 0.25)


def test_defaults_without_a_file():
    """Without a file there is one objective of each kind, of everything there is."""
    defaults = load_objectives(None)
    assert defaults is DEFAULT_OBJECTIVES
    assert [each.indicator for each in defaults.items] == list(Indicator)
    assert {each.subject for each in defaults.items} == {""}
    assert defaults.latency_bounds() == (0.5,)


def test_failures_can_be_chosen(read):
    """An annotation says which outcomes are failures."""
    text = AVAILABILITY.replace("e2i-serving/model: churn", "e2i-serving/bad: error, timeout")
    assert read(text).items[0].bad == ("error", "timeout")


@pytest.mark.parametrize(
    ("text", "old", "new", "said"),
    [
        (AVAILABILITY, "openslo/v1", "openslo/v2", ":1: apiVersion: Input should be 'openslo/v1'."),
        (AVAILABILITY, "kind: SLO", "kind: Service", ":2: kind: Input should be 'SLO'."),
        (AVAILABILITY, "  name: churn-availability\n", "", ":3: metadata.name: Field required. Add it."),
        (AVAILABILITY, "churn-availability", "Churn", ":4: metadata.name: String should match pattern"),
        (AVAILABILITY, "target: 0.999", "target: 1.0", ":16: spec.objectives.0.target: Input should be less than 1."),
        (AVAILABILITY, "target: 0.999", "target: .nan", ":16: spec.objectives.0.target: Input should be a finite"),
        (AVAILABILITY, "target: 0.999", "targetPercent: 99", ":16: spec.objectives.0.targetPercent: Extra inputs are"),
        (AVAILABILITY, "duration: 28d", "duration: 1Q", ":12: spec.timeWindow.0.duration: Input should be '28d', '4w'"),
        (AVAILABILITY, "isRolling: true", "isRolling: false", ":13: spec.timeWindow.0.isRolling: Input should be True"),
        (AVAILABILITY, "indicatorRef: availability", "indicatorRef: speed", ":10: spec.indicatorRef: Input should be"),
        (AVAILABILITY, "Occurrences", "Timeslices", ":14: spec.budgetingMethod: availability is budgeted by Occurr"),
        (AVAILABILITY, "serving/model", "serving/modle", ":6: metadata.annotations.e2i-serving/modle: no annotation"),
        (AVAILABILITY, "model: churn", "bad: invalid", ":6: metadata.annotations.e2i-serving/bad: Input should be"),
        (AVAILABILITY, "model: churn", "model: ''", ":6: metadata.annotations.e2i-serving/model: it is empty."),
        (AVAILABILITY, "- target", "- op: lte\n      target", ":16: spec.objectives.0: op and value belong together."),
        (LATENCY, "op: lte, value: 0.25, ", "", ":9: spec.objectives.0.value: an objective of latency needs a bound"),
        (LATENCY, "value: 0.25", "value: 90", "needs a bound of 0.0001 to 60 seconds."),
        (AVAILABILITY, "- target", "- op: lte\n      value: 1\n      target", "availability has no bound in seconds."),
        (LAG, ", timeSliceWindow: 1m", "", ":9: spec.objectives.0: timeSliceWindow is needed for budgetingMethod: T"),
        (LATENCY, "target: 0.99", "target: 0.99, timeSliceTarget: 1", "timeSliceTarget is only for budgetingMethod"),
    ],
)
def test_mistakes_name_the_line_and_the_field(refused, text, old, new, said):
    """What is wrong is said with its line, its field, and what to do."""
    assert old in text
    lines = refused(text.replace(old, new, 1))
    assert any(said in line for line in lines), lines


def test_all_mistakes_are_said_at_once(refused):
    """Each document's mistakes have a line of their own."""
    broken = LATENCY.replace("target: 0.99", "target: high").replace("kind: SLO", "kind: SLI")
    assert [line.partition(" ")[0] for line in refused(f"{broken}---\n{broken}")] == [":2:", ":9:", ":12:", ":19:"]


def test_names_differ(refused):
    """Two objectives of one name are refused, where the second is."""
    assert refused(LATENCY + "---\n" + LATENCY) == [
        ":13: metadata.name: line 1 has an objective of this name already. Give it another one."
    ]


def test_what_is_no_yaml_is_refused(refused):
    """A file that can't be parsed is refused with the line."""
    assert refused("a: [1\nb: 2\n")[0].startswith(":2: no YAML: ")


@pytest.mark.parametrize(("text", "said"), [("", " holds no objective."), ("- 1\n", ":1: document: ")])
def test_what_holds_no_document_is_refused(refused, text, said):
    """An empty file and one of something else are refused."""
    assert refused(text)[0].startswith(said)


def test_a_file_that_is_not_there(tmp_path):
    """A missing file is named."""
    with pytest.raises(ConfigurationError, match=r"none\.yaml can't be read"):
        load_objectives(tmp_path / "none.yaml")
