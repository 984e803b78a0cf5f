"""Prometheus' text format, version 0.0.4."""

from __future__ import annotations

from e2i_serving.observers.metrics.collection import Totals
from e2i_serving.observers.metrics.families import FAMILIES, Family, MetricType

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


def render(totals: Totals) -> str:
    """Write totals as text; families in the table's order, series sorted by their labels."""
    by_family: dict[str, list[tuple[tuple[str, ...], list[float]]]] = {}
    for (name, labels), values in totals.items():
        by_family.setdefault(name, []).append((labels, values))
    lines: list[str] = []
    for family in FAMILIES:
        # Series that another release counted with other labels or buckets can't be shown with this one's.
        samples = [
            (labels, values)
            for labels, values in by_family.get(family.name, ())
            if len(labels) == len(family.labels) and len(values) == family.width
        ]
        if samples:
            lines.append(f"# HELP {family.name} {family.summary}")
            lines.append(f"# TYPE {family.name} {family.kind}")
            for labels, values in sorted(samples):
                if family.kind is MetricType.HISTOGRAM:
                    lines.extend(_histogram(family, labels, values))
                else:
                    lines.append(f"{family.name}{_labels(family.labels, labels)} {_number(values[0])}")
    lines.append("")
    return "\n".join(lines)


def _histogram(family: Family, labels: tuple[str, ...], values: list[float]) -> list[str]:
    names = (*family.labels, "le")
    lines: list[str] = []
    cumulative = 0.0
    for bound, count in zip((*family.buckets, float("inf")), values, strict=False):
        cumulative += count
        lines.append(f"{family.name}_bucket{_labels(names, (*labels, _number(bound)))} {_number(cumulative)}")
    lines.append(f"{family.name}_sum{_labels(family.labels, labels)} {_number(values[-1])}")
    lines.append(f"{family.name}_count{_labels(family.labels, labels)} {_number(cumulative)}")
    return lines


def _labels(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    if not names:
        return ""
    return "{" + ",".join(f'{name}="{_escape(value)}"' for name, value in zip(names, values, strict=True)) + "}"


def _escape(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")


def _number(value: float) -> str:
    if value == float("inf"):
        return "+Inf"
    return str(int(value)) if value == int(value) and abs(value) < 1e15 else f"{value:.12g}"  # noqa: PLR2004
