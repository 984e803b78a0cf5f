"""What a model predicts, as distributions: scores, values, effects and classes."""

from __future__ import annotations

import math
import struct
from collections import Counter
from collections.abc import Iterable

import numpy as np

from e2i_serving.observers.metrics import families
from e2i_serving.observers.metrics.admission import Admissions, clean_value
from e2i_serving.observers.metrics.families import Family
from e2i_serving.observers.metrics.series import OTHER, Series, SeriesFile
from e2i_serving.record import Column, Matrix, PredictionRecord, Values

CLASS_BOUND = 100
"""Most classes that are counted of a model that does not name its own."""

_DOUBLE = struct.Struct("<d")
_CLASSIFICATION = "classification"


class Distributions:
    """Counts the outputs of answered predictions, row by row.

    Args:
        file: Where the numbers stand.
        admissions: What says which classes are shown of a model that does not name its own.
        classes: The model's classes, if it names them.
    """

    def __init__(self, file: SeriesFile, admissions: Admissions, classes: Iterable[str]) -> None:
        self._file = file
        self._admissions = admissions
        self._classes = frozenset(classes)
        self._histograms: dict[tuple[str, str, str], Series] = {}
        self._counters: dict[tuple[str, str, str], Series] = {}

    def count(self, record: PredictionRecord) -> None:
        """Count what was predicted."""
        outputs = record.outputs
        if "score" in outputs:
            self._observe(families.SCORE, record, outputs["score"])
        if "effect" in outputs:
            self._observe(families.EFFECT, record, outputs["effect"])
        elif "prediction" in outputs:
            column = outputs["prediction"]
            if record.task == _CLASSIFICATION:
                self._count_classes(record, column)
            else:
                self._observe(families.VALUE, record, column)

    def _observe(self, family: Family, record: PredictionRecord, column: Column) -> None:
        if not isinstance(column, Matrix) or len(column.shape) != 1:
            return
        key = (family.name, record.model, record.model_version)
        series = self._histograms.get(key)
        if series is None:
            series = self._histograms[key] = self._file.series(family, *key[1:])
        if column.shape[0] == 1 and column.dtype == "<f8":
            value: float = _DOUBLE.unpack(column.data)[0]
            if math.isfinite(value):
                series.observe(value)
            return
        array = column.array().astype(np.float64)
        array = array[np.isfinite(array)]
        places = np.searchsorted(family.buckets, array, side="left")
        series.observe_counts(np.bincount(places, minlength=family.width - 1).tolist(), float(array.sum()))

    def _count_classes(self, record: PredictionRecord, column: Column) -> None:
        if isinstance(column, Values):
            values = column.values
            if len(values) == 1:
                self._class(record, str(values[0])).add()
                return
        elif isinstance(column, Matrix) and len(column.shape) == 1:
            values = column.array().tolist()
        else:
            return
        for name, count in Counter(map(str, values)).items():
            self._class(record, name).add(count)

    def _class(self, record: PredictionRecord, name: str) -> Series:
        key = (record.model, record.model_version, name)
        series = self._counters.get(key)
        if series is None:
            shown = clean_value(name)
            if not (name in self._classes if self._classes else self._admits(record.model, shown)):
                shown = OTHER
            series = self._file.series(families.PREDICTED_CLASS, record.model, record.model_version, shown)
            if shown == name:  # of others there may be any number
                self._counters[key] = series
        return series

    def _admits(self, model: str, name: str) -> bool:
        return self._admissions.admits(f"class {model}", name, CLASS_BOUND)
