"""What is left of the budgets: asked of a Prometheus server, or read from a service's own metrics."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import httpx
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

from e2i_serving.exceptions import QueryError
from e2i_serving.slo.asking import ask, opened_client, service_metrics, shown
from e2i_serving.slo.indicators import KEPT_APART, error_ratio_unrecorded
from e2i_serving.slo.objectives import Indicator, Objective, Objectives

SINCE_START: Final = "start"
_NOTHING: Final = "nothing was counted"


class Budget(NamedTuple):
    """What is left of one budget.

    Attributes:
        objective: The promise.
        subject: What it was measured of, label values by name; empty where nothing was found.
        window: Over what: ``30d``, or ``start`` for since the service's start.
        errors: The share that was bad; ``None`` where that is not known.
        note: Why it is not known, or what is known instead.
    """

    objective: Objective
    subject: Mapping[str, str]
    window: str
    errors: float | None
    note: str = ""

    @property
    def left(self) -> float | None:
        """The share of the budget that is left: 1 at first, 0 when it is exhausted, negative beyond."""
        return None if self.errors is None else 1 - self.errors / self.objective.budget

    @property
    def exhausted(self) -> bool:
        """Whether nothing is left."""
        # The bad share is a quotient of floats, and at exactly the target nothing is left.
        return self.left is not None and self.left < 1e-9  # noqa: PLR2004  # a rounding error


def budgets_from_prometheus(objectives: Objectives, url: str, *, keep: Sequence[str] = KEPT_APART) -> list[Budget]:
    """What is left over each objective's window. The server needs none of the recording rules.

    Args:
        objectives: What is promised.
        url: The server, with its path prefix if it has one.
        keep: Labels that have budgets of their own beside the model, view or destination.

    Raises:
        QueryError: The server can't be asked, or did not answer.
    """
    with opened_client() as client:
        found: list[Budget] = []
        for objective in objectives.items:
            window = f"{objective.days}d"
            rows = list(_asked(client, url, error_ratio_unrecorded(objective, window, keep)))
            found += [Budget(objective, labels, window, value) for labels, value in rows]
            if not rows:
                found.append(Budget(objective, {}, window, None, _NOTHING))
    return found


def budgets_from_service(objectives: Objectives, url: str) -> list[Budget]:
    """What is left since a service's start, from its ``/metrics``.

    Args:
        objectives: What is promised.
        url: The service, as ``http://host:port``.

    Raises:
        QueryError: The service can't be asked, or what it answers is no metrics.
    """
    return budgets_from_text(objectives, service_metrics(url))


def budgets_from_text(objectives: Objectives, text: str) -> list[Budget]:
    """What is left since a service's start, from its metrics in Prometheus' text format.

    Raises:
        QueryError: The text is not in that format.
    """
    samples: dict[str, list[Sample]] = defaultdict(list)
    try:
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                samples[sample.name].append(sample)
    except (ValueError, KeyError, IndexError) as error:
        raise QueryError(f"The service's metrics are not in Prometheus' text format: {error}") from error
    return [
        budget
        for objective in objectives.items
        for budget in _counted(objective, samples) or [Budget(objective, {}, SINCE_START, None, _NOTHING)]
    ]


def _counted(objective: Objective, samples: Mapping[str, Sequence[Sample]]) -> list[Budget]:
    if objective.indicator is Indicator.AUDIT_LAG:
        return list(_lags(objective, samples["e2i_audit_oldest_record_age_seconds"]))
    if objective.indicator is Indicator.AVAILABILITY:
        predictions = samples["e2i_predictions_total"]
        bad = _sums(objective, (each for each in predictions if each.labels["outcome"] in objective.bad))
        counted = {"ok", *objective.bad}
        total = _sums(objective, (each for each in predictions if each.labels["outcome"] in counted))
    elif objective.indicator is Indicator.FEATURE_FRESHNESS:
        reads = samples["e2i_feature_outcomes_total"]
        bad = _sums(objective, (each for each in reads if each.labels["outcome"] == "stale"))
        total = _sums(objective, (each for each in reads if each.labels["outcome"] in {"hit", "stale"}))
    else:
        total = _sums(objective, samples["e2i_prediction_duration_seconds_count"])
        buckets = samples["e2i_prediction_duration_seconds_bucket"]
        good = _sums(objective, (each for each in buckets if float(each.labels["le"]) == objective.bound))
        if total and not good:
            note = f"the service has no bucket of {objective.bound:g} s; start it with this objective"
            return [Budget(objective, {}, SINCE_START, None, note)]
        bad = {subject: count - good.get(subject, 0.0) for subject, count in total.items()}
    return [
        Budget(objective, _subject(objective, subject), SINCE_START, bad.get(subject, 0.0) / count)
        for subject, count in sorted(total.items())
        if count > 0
    ]


def _lags(objective: Objective, ages: Iterable[Sample]) -> Iterator[Budget]:
    longest: dict[str, float] = {}
    for sample in _selected(objective, ages):
        subject = sample.labels[objective.indicator.subject]
        longest[subject] = max(sample.value, longest.get(subject, 0.0))
    for subject, age in sorted(longest.items()):
        note = f"only Prometheus knows the past; now {age:.3g} s of {objective.bound:g} s"
        yield Budget(objective, _subject(objective, subject), SINCE_START, None, note)


def _sums(objective: Objective, samples: Iterable[Sample]) -> dict[str, float]:
    sums: dict[str, float] = defaultdict(float)
    for sample in _selected(objective, samples):
        sums[sample.labels[objective.indicator.subject]] += sample.value
    return dict(sums)


def _selected(objective: Objective, samples: Iterable[Sample]) -> Iterator[Sample]:
    label = objective.indicator.subject
    return (each for each in samples if objective.subject in {"", each.labels[label]})


def _subject(objective: Objective, value: str) -> dict[str, str]:
    return {objective.indicator.subject: value}


def _asked(client: httpx.Client, url: str, expression: str) -> Iterator[tuple[dict[str, str], float]]:
    """The series of an instant query; those that are no number are left out."""
    answer = ask(client, f"{url.rstrip('/')}/api/v1/query", {"query": expression})
    try:
        content = answer.json()
        refusal = "" if content["status"] == "success" else str(content["error"])
        rows = [] if refusal else [(each["metric"], float(each["value"][1])) for each in content["data"]["result"]]
    except (ValueError, KeyError, IndexError, TypeError) as error:
        raise QueryError(
            f"{shown(url)} answered {answer.status_code}, and not as Prometheus does. Give the server's own address."
        ) from error
    if refusal:
        raise QueryError(f"Prometheus at {shown(url)} refused a query: {refusal}")
    return ((labels, value) for labels, value in rows if math.isfinite(value))
