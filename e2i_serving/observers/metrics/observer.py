"""Counts and times finished predictions."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import NamedTuple

from e2i_serving.observers.metrics import families
from e2i_serving.observers.metrics.admission import Admissions
from e2i_serving.observers.metrics.bentoml_names import BentoMLNames, BentoMLSeries
from e2i_serving.observers.metrics.distributions import Distributions
from e2i_serving.observers.metrics.labelled import LabelBounds, LabelledPredictions
from e2i_serving.observers.metrics.retrievals import Retrievals
from e2i_serving.observers.metrics.series import OTHER, Series, SeriesFile
from e2i_serving.record import Life, Outcome, PredictionRecord

ERROR_TYPES = 100
"""Most types of errors that are counted apart."""


@dataclass(frozen=True)
class Measured:
    """What of a service is measured, beside what always is.

    Attributes:
        bounds: The bounds of its latency objectives, in seconds.
        labels: Its business labels.
        load_seconds: How long it took to load the model; ``None`` when not known.
        bentoml: The names of BentoML's own metrics, when BentoML itself does not count them.
        workers: How many workers it is set to have.
    """

    bounds: tuple[float, ...] = ()
    labels: LabelBounds = field(default_factory=LabelBounds)
    load_seconds: float | None = None
    bentoml: BentoMLNames | None = None
    workers: int = 1


class _Ended(NamedTuple):
    """Series that every prediction of a model with one outcome counts in."""

    predictions: Series
    items: Series
    duration: Series
    batch: Series
    size: Series
    phases: dict[str, Series]


class MetricsObserver:
    """Keeps a worker's numbers. Every label value comes from the service or a fixed set, or is bounded in number.

    Called on the event loop only.

    Args:
        file: Where the numbers stand.
        life: The worker's life.
        measured: What is measured of the service.
    """

    def __init__(self, file: SeriesFile, life: Life, measured: Measured | None = None) -> None:
        measured = measured or Measured()
        self._file = file
        self._life = life
        self._bounds = measured.bounds
        self._duration = families.DURATION.bounded_by(measured.bounds)
        self._phase_duration = families.PHASE_DURATION.bounded_by(measured.bounds)
        self._ended: dict[tuple[str, str, str, str], _Ended] = {}
        self._http: dict[tuple[str, int], Series] = {}
        self._errors: dict[tuple[str, str], Series] = {}
        self._admissions = Admissions(file.path.parent)
        self._labelled = (
            LabelledPredictions(
                file, self._admissions, measured.labels, families.LABELLED_DURATION.bounded_by(measured.bounds)
            )
            if measured.labels.allowed
            else None
        )
        self._retrievals = Retrievals(file)
        self._distributions = Distributions(file, self._admissions, life.model.classes)
        self.bentoml = BentoMLSeries(file, measured.bentoml) if measured.bentoml is not None else None
        self.in_progress = file.series(families.IN_PROGRESS)
        self._describe(life, measured)

    def on_end(self, record: PredictionRecord) -> None:
        """Count and time the prediction."""
        model, version = record.model, record.model_version
        ended = (model, version, record.task, record.outcome)
        series = self._ended.get(ended) or self._begin(ended)
        series.predictions.add()
        if record.items:
            series.items.add(record.items)
            series.batch.observe(record.items)
        if record.response_bytes >= 0:
            series.size.observe(record.response_bytes)
        duration = record.duration
        series.duration.observe_example(
            duration, record.time_ns / 1e9 + duration, record.trace_id, record.prediction_id
        )
        phases = series.phases
        for phase, seconds in record.phases.items():
            timed = phases.get(phase)
            if timed is None:
                timed = phases[phase] = self._file.series(self._phase_duration, model, version, phase)
            timed.observe(seconds)
        if record.outcome is not Outcome.OK:
            self._error(model, record.error_type or record.outcome)
        if self._labelled is not None and record.labels:
            self._labelled.count(record)
        if record.outputs:
            self._distributions.count(record)
        if record.feature_provenance is not None:
            self._retrievals.count(record.feature_provenance, record.items, record.time_ns)

    def http_request(self, route: str, status: int) -> None:
        """Count a request to a route; the route must be one of the service's own, or a constant."""
        key = (route, status)
        series = self._http.get(key)
        if series is None:
            series = self._http[key] = self._file.series(families.HTTP_REQUESTS, route, str(status))
        series.add()

    def set_ready(self, *, is_ready: bool) -> None:
        """Note whether the model can be asked."""
        model = self._life.model
        self._file.series(families.MODEL_READY, model.name, model.version).set(float(is_ready))

    def failures(self, counts: Counter[str]) -> None:
        """Take over the guard's counts."""
        for part, count in counts.copy().items():
            self._file.series(families.FAILURES, part).set(float(count))

    def refused_headers(self, counts: Counter[str]) -> None:
        """Take over how often each header's value was malformed."""
        for header, count in counts.copy().items():
            self._file.series(families.HEADERS_REFUSED, header).set(float(count))

    def lost(self, spans: int, events: int, lines: int) -> None:
        """Take over how many spans, error events and log lines were lost."""
        if spans:
            self._file.series(families.SPANS_DROPPED).set(float(spans))
        if events:
            self._file.series(families.EVENTS_DROPPED).set(float(events))
        if lines:
            self._file.series(families.LOG_LINES_DROPPED).set(float(lines))

    def close(self) -> None:
        """Give the file up for others to fold."""
        self._file.close()
        self._admissions.close()

    def _begin(self, ended: tuple[str, str, str, str]) -> _Ended:
        file = self._file
        model = ended[:2]
        made = self._ended[ended] = _Ended(
            file.series(families.PREDICTIONS, *ended),
            file.series(families.ITEMS, *ended),
            file.series(self._duration, *model),
            file.series(families.BATCH_ITEMS, *model),
            file.series(families.RESPONSE_BYTES, *model),
            {},
        )
        return made

    def _error(self, model: str, kind: str) -> None:
        key = (model, kind)
        series = self._errors.get(key)
        if series is None:
            admitted = self._admissions.admits("error type", kind, ERROR_TYPES)
            series = self._file.series(families.ERRORS, model, kind if admitted else OTHER)
            if admitted:  # of others there may be any number
                self._errors[key] = series
        series.add()

    def _describe(self, life: Life, measured: Measured) -> None:
        """Say what is served, and begin counters at zero, so that a first failure is an increase."""
        file, model = self._file, life.model
        file.series(families.WORKERS, life.service).set(1.0)
        file.series(families.WORKERS_EXPECTED, life.service).set(float(measured.workers))
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
        self.set_ready(is_ready=True)
        if measured.load_seconds is not None:
            file.series(families.MODEL_LOAD, model.name, model.version).set(measured.load_seconds)
        for outcome in Outcome:
            if outcome is not Outcome.INTERRUPTED:
                self._begin((model.name, model.version, model.task, outcome))
