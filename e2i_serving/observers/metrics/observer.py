"""Counts and times finished predictions."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

from e2i_serving.observers.metrics import families
from e2i_serving.observers.metrics.series import Series, SeriesFile
from e2i_serving.record import Life, PredictionRecord

TOTAL = "total"
"""Value of the phase label of the whole request."""


class _ModelSeries(NamedTuple):
    predictions: Series
    items: Series


class MetricsObserver:
    """Keeps a worker's numbers. Every label value comes from the service or a fixed set, never from a request.

    Called on the event loop only.

    Args:
        file: Where the numbers stand.
        life: The worker's life.
    """

    def __init__(self, file: SeriesFile, life: Life) -> None:
        self._file = file
        self._ended: dict[tuple[str, str, str, str], _ModelSeries] = {}
        self._durations: dict[tuple[str, str, str], Series] = {}
        self._http: dict[tuple[str, int], Series] = {}
        self.in_progress = file.series(families.IN_PROGRESS)
        self._observed = file.series(families.OBSERVED)
        self._accepted = file.series(families.ACCEPTED)
        model = life.model
        file.series(
            families.SERVICE_INFO,
            life.service,
            life.bento,
            life.bento_version,
            model.name,
            model.version,
            model.task,
            life.release,
        ).set(1.0)

    def on_end(self, record: PredictionRecord) -> None:
        """Count and time the prediction."""
        ended = (record.model, record.model_version, record.task, record.outcome)
        series = self._ended.get(ended)
        if series is None:
            series = self._ended[ended] = _ModelSeries(
                self._file.series(families.PREDICTIONS, *ended), self._file.series(families.ITEMS, *ended)
            )
        series.predictions.add()
        if record.items:
            series.items.add(record.items)
        self._observe(record.model, record.model_version, TOTAL, record.duration)
        for phase, seconds in record.phases.items():
            self._observe(record.model, record.model_version, phase, seconds)

    def journaled(self, unjournaled_reason: str | None) -> None:
        """Count whether a record was journaled; the reason when it was not."""
        self._observed.add()
        if unjournaled_reason is None:
            self._accepted.add()
        else:
            self._file.series(families.UNJOURNALED, unjournaled_reason).add()

    def http_request(self, route: str, status: int) -> None:
        """Count a request to a route; the route must be one of the service's own, or a constant."""
        key = (route, status)
        series = self._http.get(key)
        if series is None:
            series = self._http[key] = self._file.series(families.HTTP_REQUESTS, route, str(status))
        series.add()

    def failures(self, counts: Counter[str]) -> None:
        """Take over the guard's counts."""
        for part, count in counts.copy().items():
            self._file.series(families.FAILURES, part).set(float(count))

    def close(self) -> None:
        """Give the file up for others to fold."""
        self._file.close()

    def _observe(self, model: str, version: str, phase: str, seconds: float) -> None:
        key = (model, version, phase)
        series = self._durations.get(key)
        if series is None:
            series = self._durations[key] = self._file.series(families.DURATION, *key)
        series.observe(seconds)
