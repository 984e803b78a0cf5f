"""Prometheus rules for objectives: what is recorded of them, and when a budget burns too fast."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, NamedTuple

from e2i_serving.slo.indicators import (
    KEPT_APART,
    SLICE_ERRORS,
    bad_events,
    error_ratio,
    number,
    recorded,
    slice_errors,
)
from e2i_serving.slo.objectives import Indicator, Objective, Objectives

RUNBOOKS: Final = "docs/runbooks.md"
"""Where the runbooks are, unless told otherwise."""

LEAST_BAD_EVENTS: Final = 10
"""So many bad events must lie in the long window of a burn rate, else a few failures at low traffic would alert."""

Rule = dict[str, Any]
Group = dict[str, Any]


class Burn(NamedTuple):
    """A pair of windows over which a budget may burn.

    Attributes:
        long: The window over which the rate is too high.
        short: The window over which it still is, so that an alert ends soon after its cause.
        factor: The burn rate that is too high; at 1 the budget lasts exactly its window.
        severity: ``page`` or ``ticket``.
    """

    long: str
    short: str
    factor: float
    severity: str


BURNS: Final = (
    Burn("1h", "5m", 14.4, "page"),
    Burn("6h", "30m", 6.0, "page"),
    Burn("1d", "2h", 3.0, "ticket"),
    Burn("3d", "6h", 1.0, "ticket"),
)

ALERTS: Final = {
    Indicator.AVAILABILITY: ("E2iAvailabilityBurn", "predictions of {subject} fail"),
    Indicator.LATENCY: ("E2iLatencyBurn", "predictions of {subject} take longer than {bound} s"),
    Indicator.FEATURE_FRESHNESS: ("E2iFeatureFreshnessBurn", "features of {subject} are stale"),
    Indicator.AUDIT_LAG: ("E2iAuditLagBurn", "records wait longer than {bound} s for {subject}"),
}
"""The alert on each indicator's budget: its name, and what is wrong when it fires."""

_SHORT_WINDOWS: Final = ("5m", "30m", "1h", "2h", "6h")
_LONG_WINDOWS: Final = ("1d", "3d")


def objective_groups(
    objectives: Objectives, *, keep: Sequence[str] = KEPT_APART, runbooks: str = RUNBOOKS
) -> list[Group]:
    """The rule groups of objectives, as Prometheus reads them from YAML.

    Args:
        objectives: What is promised.
        keep: Labels that have budgets of their own beside the model, view or destination.
        runbooks: Address of the page of runbooks.
    """
    return [group for each in objectives.items for group in _groups(each, keep, runbooks)]


def _groups(objective: Objective, keep: Sequence[str], runbooks: str) -> Iterator[Group]:
    name = f"e2i-objective-{objective.name}"
    lag = objective.indicator is Indicator.AUDIT_LAG
    slices = [_record(objective, SLICE_ERRORS, slice_errors(objective, keep))] if lag else []
    # A slice is a minute, so it is looked at once a minute.
    yield {
        "name": name,
        "interval": "1m" if lag else "30s",
        "rules": [*slices, *_recorded(objective, _SHORT_WINDOWS, keep)],
    }
    yield {
        "name": f"{name}-long",
        "interval": "2m",
        "rules": [*_recorded(objective, _LONG_WINDOWS, keep), *_budget(objective, keep)],
    }
    burns = (burn for burn in BURNS if burn.factor * objective.budget < 1)
    alerts = [_alert(objective, burn, keep, runbooks) for burn in burns]
    yield {"name": f"{name}-burn", "interval": "30s", "rules": alerts}


def _recorded(objective: Objective, windows: Sequence[str], keep: Sequence[str]) -> Iterator[Rule]:
    for window in windows:
        yield _record(objective, f"slo:e2i_errors:ratio_rate{window}", error_ratio(objective, window, keep))
    if objective.indicator is not Indicator.AUDIT_LAG:
        for burn in BURNS:
            if burn.long in windows:
                yield _record(objective, _count(burn.long), bad_events(objective, burn.long, keep))


def _budget(objective: Objective, keep: Sequence[str]) -> Iterator[Rule]:
    ratio = error_ratio(objective, f"{objective.days}d", keep)
    left = "slo:e2i_budget_left:ratio"
    yield _record(objective, left, f"1 - (\n{ratio}\n) / {number(objective.budget)}")
    # With all labels of what is measured against it, so that the two divide.
    allowed = f"0 * {left}{recorded(objective, keep)} + {number(objective.budget)}"
    yield _record(objective, "slo:e2i_error_budget:ratio", allowed)


def _record(objective: Objective, name: str, expression: str) -> Rule:
    return {"record": name, "expr": expression, "labels": _labels(objective)}


def _alert(objective: Objective, burn: Burn, keep: Sequence[str], runbooks: str) -> Rule:
    alert, fault = ALERTS[objective.indicator]
    subject = objective.indicator.subject
    fault = fault.format(subject=f"{{{{ $labels.{subject} }}}}", bound=number(objective.bound or 0))
    selected = recorded(objective, keep)
    threshold = number(burn.factor * objective.budget)
    parts = [f"slo:e2i_errors:ratio_rate{window}{selected} > {threshold}" for window in (burn.long, burn.short)]
    if objective.indicator is not Indicator.AUDIT_LAG:
        parts.append(f"{_count(burn.long)}{selected} >= {LEAST_BAD_EVENTS}")
    return {
        "alert": alert,
        "expr": "\nand\n".join(parts),
        "labels": {**_labels(objective), "severity": burn.severity, "window": burn.long},
        "annotations": {
            "summary": f"Too many {fault}.",
            "description": f"{{{{ $value | humanizePercentage }}}} over {burn.long}, and as fast over {burn.short}: "
            f"more than {number(burn.factor)} times what the objective {objective.name} allows "
            f"({number(objective.budget * 100)} % over {objective.days} days).",
            "runbook_url": f"{runbooks}#{alert.lower()}",
        },
    }


def _count(window: str) -> str:
    return f"slo:e2i_bad_events:increase{window}"


def _labels(objective: Objective) -> dict[str, str]:
    labels = {"objective": objective.name, "indicator": str(objective.indicator)}
    return labels | ({"service": objective.service} if objective.service else {})
