"""Predictions by business labels, of which there are never more series than set."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from e2i_serving.observers.metrics import families
from e2i_serving.observers.metrics.admission import Admissions, clean_value
from e2i_serving.observers.metrics.families import Family
from e2i_serving.observers.metrics.series import OTHER, Series, SeriesFile
from e2i_serving.record import PredictionRecord

ALL = "__all__"
"""Stands for all labels together where too many combinations of them are counted."""

_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class LabelBounds:
    """Which labels are shown, and of how many values.

    Attributes:
        allowed: By label, the only values it may have; empty for any.
        values: Most values of a label that may have any.
        series: Most combinations of values, over all models.
    """

    allowed: Mapping[str, frozenset[str]] = field(default_factory=dict)
    values: int = 100
    series: int = 150


class LabelledPredictions:
    """Counts and times predictions by their labels.

    Args:
        file: Where the numbers stand.
        admissions: What says which values are shown.
        bounds: The labels, and their bounds.
        duration: The family of durations, with its buckets.
    """

    def __init__(self, file: SeriesFile, admissions: Admissions, bounds: LabelBounds, duration: Family) -> None:
        self._file = file
        self._admissions = admissions
        self._bounds = bounds
        self._names = tuple(bounds.allowed)
        self._duration = duration
        self._known: dict[tuple[str, ...], tuple[Series, Series]] = {}

    def count(self, record: PredictionRecord) -> None:
        """Count a prediction that has one of the labels at least."""
        labels = record.labels
        values = [labels.get(name, "") for name in self._names]
        if not any(values):
            return
        key = (record.model, record.model_version, record.outcome, *values)
        series = self._known.get(key)
        if series is None:
            series = self._find(key, values)
        series[0].add()
        series[1].observe(record.duration)

    def _find(self, key: tuple[str, ...], values: list[str]) -> tuple[Series, Series]:
        model, version, outcome = key[:3]
        shown = [self._shown(name, value) for name, value in zip(self._names, values, strict=True)]
        combination = _encode([model, *shown]).decode()
        if not self._admissions.admits(ALL, combination, self._bounds.series):
            self._file.series(families.LABEL_OVERFLOW, ALL).add()
            shown = [value and OTHER for value in shown]
        named = [part for pair in zip(self._names, shown, strict=True) if pair[1] for part in pair]
        series = (
            self._file.series(families.LABELLED_PREDICTIONS, model, version, outcome, *named),
            self._file.series(self._duration, model, version, *named),
        )
        if shown == values:  # of others there may be any number
            self._known[key] = series
        return series

    def _shown(self, name: str, value: str) -> str:
        if not value:
            return ""
        cleaned = clean_value(value)
        allowed = self._bounds.allowed[name]
        admitted = cleaned in allowed if allowed else self._admissions.admits(name, cleaned, self._bounds.values)
        if not admitted:
            self._file.series(families.LABEL_OVERFLOW, name).add()
            return OTHER
        return cleaned
