"""Prometheus' text format, version 0.0.4, and OpenMetrics 1.0."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

from e2i_serving.observers.metrics.collection import Totals
from e2i_serving.observers.metrics.exemplars import Exemplar
from e2i_serving.observers.metrics.families import FAMILIES, Family, MetricType

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS_CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
OPENMETRICS_END = "# EOF\n"

_ORDER = {family.name: place for place, family in enumerate(FAMILIES)}
_SPECIAL = re.compile(r'[\\"\n]')
_ESCAPED = {"\\": r"\\", "\n": r"\n", '"': r"\""}
_NO_EXEMPLARS: Mapping[int, Exemplar] = {}


def render(totals: Totals, *, openmetrics: bool = False) -> str:
    """Write totals as text; families in the table's order, series sorted by their labels.

    Args:
        totals: What to write.
        openmetrics: As OpenMetrics, with exemplars and without the line that ends it.
    """
    by_family: dict[str, list[tuple[str, ...]]] = {}
    for name, labels in totals:
        by_family.setdefault(name, []).append(labels)
    lines: list[str] = []
    for name in sorted(by_family, key=lambda name: (_ORDER.get(name, len(_ORDER)), name)):
        family = totals.families[name]
        series = sorted(labels for labels in by_family[name] if family.fits(labels))
        if not series:
            continue
        # OpenMetrics names a counter without its suffix, the text format with it.
        title = name.removesuffix("_total") if openmetrics and family.kind is MetricType.COUNTER else name
        lines.append(f"# HELP {title} {_escape(family.summary)}")
        lines.append(f"# TYPE {title} {family.kind}")
        for labels in series:
            values = totals[name, labels]
            written = _written(family, labels)
            if family.kind is MetricType.HISTOGRAM:
                exemplars = totals.exemplars.get((name, labels), _NO_EXEMPLARS) if openmetrics else _NO_EXEMPLARS
                lines.extend(_histogram(family, written, values, exemplars))
            else:
                lines.append(f"{name}{{{written}}} {_number(values[0])}" if written else f"{name} {_number(values[0])}")
    lines.append("")
    return "\n".join(lines)


def bound_text(bound: float) -> str:
    """A bucket's bound as both formats write it, so that a scraper finds the same series in either."""
    text = f"{bound:.12g}"
    return text if "." in text or "e" in text else f"{text}.0"


def _histogram(family: Family, labels: str, values: list[float], exemplars: Mapping[int, Exemplar]) -> Iterator[str]:
    name = family.name
    start = f'{name}_bucket{{{labels},le="' if labels else f'{name}_bucket{{le="'
    cumulative = 0.0
    # Also where it is zero: a bucket that begins with what it counts has no rate for it, so that a percentile over the
    # first requests, or the first fast ones, would be that of the next bucket that was there before.
    for index, bound in enumerate(family.buckets):
        cumulative += values[index]
        line = f'{start}{bound_text(bound)}"}} {_number(cumulative)}'
        yield f"{line}{_example(exemplars[index])}" if index in exemplars else line
    cumulative += values[-2]
    last = len(family.buckets)
    yield f'{start}+Inf"}} {_number(cumulative)}{_example(exemplars[last]) if last in exemplars else ""}'
    braced = f"{{{labels}}}" if labels else ""
    # A sum to which negative values were added is no counter; and OpenMetrics has no count without a sum.
    if not family.buckets or family.buckets[0] >= 0:
        yield f"{name}_sum{braced} {_number(values[-1])}"
        yield f"{name}_count{braced} {_number(cumulative)}"


def _example(exemplar: Exemplar) -> str:
    ids = f'trace_id="{_escape(exemplar.trace_id)}",prediction_id="{_escape(exemplar.prediction_id)}"'
    return f" # {{{ids}}} {exemplar.value:.9g} {exemplar.time:.3f}"


def _written(family: Family, values: tuple[str, ...]) -> str:
    fixed = len(family.labels)
    pairs = [*zip(family.labels, values, strict=False), *zip(values[fixed::2], values[fixed + 1 :: 2], strict=True)]
    return ",".join(f'{name}="{_escape(value)}"' for name, value in pairs)


def _escape(value: str) -> str:
    return _SPECIAL.sub(lambda found: _ESCAPED[found[0]], value)


def _number(value: float) -> str:
    if value == float("inf"):
        return "+Inf"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else f"{value:.12g}"  # noqa: PLR2004
