"""Counts and times the fetching of features."""

from __future__ import annotations

import numpy as np

from e2i_serving.observers.metrics import families
from e2i_serving.observers.metrics.series import Series, SeriesFile
from e2i_serving.record import FeatureProvenance

_FEW = 8
"""Up to how many values a loop is faster than an array."""


class Retrievals:
    """The numbers of feature retrievals. All label values are those of the service's own definitions, or a fixed set.

    Args:
        file: Where the numbers stand.
    """

    def __init__(self, file: SeriesFile) -> None:
        self._file = file
        self._series: dict[tuple[str, ...], Series] = {}

    def count(self, found: FeatureProvenance, entities: int, time_ns: int) -> None:
        """Count one retrieval.

        Args:
            found: How the features were fetched.
            entities: Of how many entities.
            time_ns: When, nanoseconds since the epoch.
        """
        self._of(families.FEATURE_RETRIEVAL, found.store, found.service).observe(found.duration)
        self._of(families.FEATURE_ENTITIES, found.store, found.service).observe(entities)
        if found.error_type:
            self._of(families.FEATURE_ERRORS, found.error_type).add()
        if found.cache_hits:
            self._of(families.FEATURE_CACHE, "hit").add(found.cache_hits)
        if found.cache_misses:
            self._of(families.FEATURE_CACHE, "miss").add(found.cache_misses)
        for view, reading in found.views.items():
            for outcome, number in reading.outcomes.items():
                self._of(families.FEATURE_OUTCOMES, view, outcome).add(number)
            self._ages(self._of(families.FEATURE_AGE, view), reading.event_ns, time_ns)

    def _ages(self, series: Series, event_ns: tuple[int, ...], time_ns: int) -> None:
        if len(event_ns) <= _FEW:
            for each in event_ns:
                if each:
                    series.observe(max(time_ns - each, 0) / 1e9)
            return
        times = np.array(event_ns, dtype=np.int64)
        ages = np.maximum(time_ns - times[times > 0], 0) / 1e9
        bounds = families.FEATURE_AGE.buckets
        counts = np.bincount(np.searchsorted(bounds, ages), minlength=len(bounds) + 1)
        series.observe_counts(counts.tolist(), float(ages.sum()))

    def _of(self, family: families.Family, *labels: str) -> Series:
        key = (family.name, *labels)
        found = self._series.get(key)
        if found is None:
            found = self._series[key] = self._file.series(family, *labels)
        return found
