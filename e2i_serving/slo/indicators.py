"""What objectives measure, as PromQL. All sums go over workers and replicas."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from e2i_serving.slo.objectives import Indicator, Objective

KEPT_APART: Final = ("job",)
"""The labels, beside the model, view or destination, that have budgets of their own unless told otherwise."""

SLICE_ERRORS: Final = "slo:e2i_slice_errors:bool"
"""Recorded each minute: 1 where an audit lag was beyond its bound in that minute, or not known for want of a relay."""

_MINUTES: Final = {"m": 1, "h": 60, "d": 24 * 60}

_PREDICTIONS: Final = "e2i_predictions_total"
_TIMED: Final = "e2i_predictions_timed_total"
_FEATURES: Final = "e2i_feature_outcomes_total"
_LAG: Final = "e2i_audit_oldest_record_age_seconds"
_DELIVERED: Final = "e2i_audit_delivered_total"
_RELAY: Final = "e2i_relay_up"


def error_ratio(objective: Objective, window: str, keep: Sequence[str] = KEPT_APART) -> str:
    """The share of what was bad over a window; nothing where nothing happened.

    Args:
        objective: What is measured.
        window: A PromQL duration.
        keep: Labels that have budgets of their own.
    """
    if objective.indicator is Indicator.AUDIT_LAG:
        return _bad_minutes(f"{SLICE_ERRORS}{recorded(objective, keep)}[{window}]", window)
    bad, total = _events(objective, "rate", window, keep)
    # Where nothing was bad yet, there may be no series of what is bad.
    return f"(\n  {bad}\n  or\n  0 * {total}\n)\n/\n({total} > 0)"


def bad_events(objective: Objective, window: str, keep: Sequence[str] = KEPT_APART) -> str:
    """How many bad events there were in a window; not for an audit lag, which has minutes and no events."""
    return _events(objective, "increase", window, keep)[0]


def slice_errors(objective: Objective, keep: Sequence[str] = KEPT_APART) -> str:
    """1 where an audit lag was beyond its bound in the last minute, or an instance had no relay; else 0."""
    by, kept, selected = _grouping(objective, keep), ", ".join(keep), _selected(objective)
    lag = f"max by ({by}) (max_over_time({_LAG}{selected}[1m]))"
    relays = f"min by ({kept}) (max_over_time({_RELAY}{matchers(job=objective.job)}[1m]))"
    # The lag is the relay's to tell. What it delivered is told without it, and so which destinations there are.
    without = f"(\n  group by ({by}) ({_DELIVERED}{selected})\n  and on ({kept})\n  {relays} == 0\n)"
    return f"{without}\nor\n{lag} > bool {number(objective.bound or 0)}"


def error_ratio_unrecorded(objective: Objective, window: str, keep: Sequence[str] = KEPT_APART) -> str:
    """As ``error_ratio``, of a server that has no recording rules."""
    if objective.indicator is Indicator.AUDIT_LAG:
        return _bad_minutes(f"({slice_errors(objective, keep)})[{window}:1m]", window)
    return error_ratio(objective, window, keep)


def _bad_minutes(slices: str, window: str) -> str:
    # By the window's length, not by the minutes there are: of a young history, one bad minute would be a large part.
    minutes = int(window[:-1]) * _MINUTES[window[-1]]
    return f"sum_over_time({slices}) / clamp_min(count_over_time({slices}), {minutes})"


def recorded(objective: Objective, keep: Sequence[str] = KEPT_APART) -> str:
    """Matchers of what is recorded of an objective, and not of another service's objective of the same name.

    Args:
        objective: Whose series.
        keep: Labels that they have.
    """
    # Without one of the objective's own, series have a service only where the targets' is kept.
    unnamed = () if objective.service or "service" in keep else ('service=""',)
    job = objective.job if "job" in keep else ""
    return matchers(
        f"objective={quoted(objective.name)}",
        *unnamed,
        **{"service": objective.service, objective.indicator.subject: objective.subject, "job": job},
    )


def matchers(*expressions: str, **equal: str) -> str:
    """Label matchers in braces: expressions as they are, then names with the values they equal."""
    written = [*expressions, *(f"{name}={quoted(value)}" for name, value in equal.items() if value)]
    return f"{{{', '.join(written)}}}" if written else ""


def quoted(value: str) -> str:
    """A string as PromQL writes it."""
    escaped = value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return f'"{escaped}"'


def number(value: float) -> str:
    """A number as the text format writes it."""
    return f"{value:.12g}"


def _events(objective: Objective, function: str, window: str, keep: Sequence[str]) -> tuple[str, str]:
    """The bad events and all events, as sums."""

    def summed(series: str, *expressions: str) -> str:
        selected = _selected(objective, *expressions)
        return f"sum by ({_grouping(objective, keep)}) ({function}({series}{selected}[{window}]))"

    if objective.indicator is Indicator.AVAILABILITY:
        bad = "|".join(objective.bad)
        return summed(_PREDICTIONS, f'outcome=~"{bad}"'), summed(_PREDICTIONS, f'outcome=~"ok|{bad}"')
    if objective.indicator is Indicator.FEATURE_FRESHNESS:
        return summed(_FEATURES, 'outcome="stale"'), summed(_FEATURES, 'outcome=~"hit|stale"')
    # Not the histogram's bucket and its count, which is older than the bucket where the bound is new.
    bound = f"bound={quoted(number(objective.bound or 0))}"
    return summed(_TIMED, bound, 'within="no"'), summed(_TIMED, bound)


def _selected(objective: Objective, *expressions: str) -> str:
    return matchers(*expressions, **{objective.indicator.subject: objective.subject, "job": objective.job})


def _grouping(objective: Objective, keep: Sequence[str]) -> str:
    return ", ".join((*keep, objective.indicator.subject))
