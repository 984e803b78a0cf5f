"""Percentiles of durations by model and phase: exact from the trail, or from a live service's histograms."""

from __future__ import annotations

import math
from array import array
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from e2i_serving.exceptions import QueryError
from e2i_serving.observers.metrics.families import DURATION, PHASE_DURATION
from e2i_serving.record import Row
from e2i_serving.slo.asking import service_metrics

PARTS: Final = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "p99.9": 0.999}
TOTAL: Final = "total"
"""Stands for the phase of the whole request."""


class Percentiles(msgspec.Struct, frozen=True):
    """Of one model and phase.

    Attributes:
        model: The model's name.
        version: Its version.
        phase: The phase, or ``total``.
        count: How many durations there are.
        seconds: Percentiles by name, in seconds; of a histogram, never beyond its last finite bound.
    """

    model: str
    version: str
    phase: str
    count: int
    seconds: dict[str, float]


def percentiles_of_rows(rows: Iterable[Row]) -> list[Percentiles]:
    """Exact percentiles: of so many durations, the least that so great a part of them does not exceed.

    Args:
        rows: Rows of predictions.
    """
    found: dict[tuple[str, str, str], array[float]] = {}
    for row in rows:
        phases = row["phases"] or {}
        timed: Mapping[str, float] = msgspec.json.decode(phases) if isinstance(phases, str) else phases
        for phase, seconds in ((TOTAL, row["duration"]), *timed.items()):
            key = (row["model"] or "", row["model_version"] or "", phase)
            found.setdefault(key, array("d")).append(seconds)
    results: list[Percentiles] = []
    for (model, version, phase), values in sorted(found.items(), key=_in_order):
        ordered = sorted(values)
        ranks = {name: max(1, math.ceil(part * len(ordered) - 1e-9)) for name, part in PARTS.items()}
        seconds = {name: ordered[rank - 1] for name, rank in ranks.items()}
        results.append(Percentiles(model, version, phase, len(ordered), seconds))
    return results


def percentiles_of_service(url: str) -> list[Percentiles]:
    """Percentiles since a service's counters began, interpolated in the buckets of its histograms.

    Those of the total are within 5 % of exact; those of a phase are as fine as the objectives' bounds.

    Args:
        url: Where the service is, such as ``http://127.0.0.1:3000``.

    Raises:
        QueryError: It does not answer, or what it answers is no metrics.
    """
    return percentiles_of_text(service_metrics(url))


def percentiles_of_text(text: str) -> list[Percentiles]:
    """As ``percentiles_of_service``, of metrics in Prometheus' text format.

    Raises:
        QueryError: The text is not in that format.
    """
    from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415  # not for the trail

    buckets: dict[tuple[str, str, str], list[tuple[float, float]]] = {}
    try:
        for family in text_string_to_metric_families(text):
            if family.name not in (DURATION.name, PHASE_DURATION.name):
                continue
            for sample in family.samples:
                if sample.name.endswith("_bucket"):
                    labels = sample.labels
                    key = (labels["model"], labels["version"], labels.get("phase", TOTAL))
                    buckets.setdefault(key, []).append((float(labels["le"]), sample.value))
    except (ValueError, KeyError) as error:
        raise QueryError(f"What was answered is no metrics of a service of ours: {error}.") from None
    results: list[Percentiles] = []
    for (model, version, phase), found in sorted(buckets.items(), key=_in_order):
        cumulative = sorted(found)
        count = cumulative[-1][1]
        if count:
            seconds = {name: interpolated(cumulative, part) for name, part in PARTS.items()}
            results.append(Percentiles(model, version, phase, round(count), seconds))
    return results


def interpolated(cumulative: Sequence[tuple[float, float]], part: float) -> float:
    """A quantile as Prometheus' ``histogram_quantile`` reckons it.

    Args:
        cumulative: Upper bounds and cumulative counts, ascending, the last bound infinite.
        part: The quantile, from 0 to 1.

    Returns:
        The value; the last finite bound when it is beyond that.
    """
    rank = part * cumulative[-1][1]
    below_bound = below_count = 0.0
    for bound, count in cumulative:
        if count >= rank:
            if math.isinf(bound):
                break
            return below_bound + (bound - below_bound) * (rank - below_count) / max(count - below_count, 1e-300)
        below_bound, below_count = bound, count
    return below_bound


def _in_order(item: tuple[tuple[str, str, str], object]) -> tuple[str, str, bool, str]:
    model, version, phase = item[0]
    return model, version, phase != TOTAL, phase
