"""The table of metrics: every family that is ever exposed, with its type, labels, buckets and help."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from e2i_serving.observers.metrics import buckets


class MetricType(StrEnum):
    """Prometheus' types that are used here."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Across(StrEnum):
    """What becomes of the values of several workers."""

    SUM = "sum"
    MIN = "min"
    MAX = "max"


class Family(NamedTuple):
    """One metric family.

    Attributes:
        name: The name as exposed, with its unit and ``_total``.
        kind: Its type.
        summary: What it says, one sentence.
        labels: Names of its labels, in order.
        buckets: Upper bounds of a histogram's buckets, without +Inf.
        across: What becomes of a gauge's values of several workers; all else is summed.
        named: Whether a series has further labels, names and values in turn: those that the service declares.
        fine: Whether a histogram's buckets are so many that they are sent as exponential ones.
        asked: Bounds of objectives: how many were within each is counted beside the histogram.
        exemplars: Whether each bucket keeps an example of what it counted.
    """

    name: str
    kind: MetricType
    summary: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()
    across: Across = Across.SUM
    named: bool = False
    fine: bool = False
    asked: tuple[float, ...] = ()
    exemplars: bool = False

    @property
    def width(self) -> int:
        """How many numbers a series of it holds: a histogram has its buckets, +Inf and the sum."""
        return len(self.buckets) + 2 if self.kind is MetricType.HISTOGRAM else 1

    def fits(self, labels: tuple[str, ...]) -> bool:
        """Whether label values are of this family's labels."""
        more = len(labels) - len(self.labels)
        return more >= 0 and more % 2 == 0 if self.named else more == 0

    def bounded_by(self, bounds: tuple[float, ...]) -> Family:
        """The same family with these bounds among its buckets, as they are asked for."""
        return self._replace(buckets=buckets.with_bounds(self.buckets, bounds), asked=bounds)


_MODEL = ("model", "version")

PREDICTIONS = Family(
    "e2i_predictions_total",
    MetricType.COUNTER,
    "Requests for predictions, by how they ended.",
    (*_MODEL, "task", "outcome"),
)
ITEMS = Family(
    "e2i_prediction_items_total",
    MetricType.COUNTER,
    "Rows predicted, by how their request ended.",
    (*_MODEL, "task", "outcome"),
)
DURATION = Family(
    "e2i_prediction_duration_seconds",
    MetricType.HISTOGRAM,
    "Time from arrival to the first byte of the answer, or to the last one of a stream.",
    _MODEL,
    buckets.DURATION_GRID,
    fine=True,
    exemplars=True,
)
TIMED = Family(
    "e2i_predictions_timed_total",
    MetricType.COUNTER,
    "Requests for predictions by whether they took no longer than a latency objective's bound, in seconds.",
    (*_MODEL, "bound", "within"),
)
PHASE_DURATION = Family(
    "e2i_prediction_phase_duration_seconds",
    MetricType.HISTOGRAM,
    "Time spent in each phase of a prediction.",
    (*_MODEL, "phase"),
    buckets.COARSE_DURATIONS,
)
LABELLED_PREDICTIONS = Family(
    "e2i_labelled_predictions_total",
    MetricType.COUNTER,
    "Requests for predictions by the business labels that the service declares, and by how they ended.",
    (*_MODEL, "outcome"),
    named=True,
)
LABELLED_DURATION = Family(
    "e2i_labelled_prediction_duration_seconds",
    MetricType.HISTOGRAM,
    "Time from arrival to the first byte of the answer, by the business labels that the service declares.",
    _MODEL,
    (),
    named=True,
)
LABEL_OVERFLOW = Family(
    "e2i_label_overflow_total",
    MetricType.COUNTER,
    "Values beyond a label's bound, counted as __other__; label __all__ stands for all labels together.",
    ("label",),
)
RESPONSE_BYTES = Family(
    "e2i_response_bytes", MetricType.HISTOGRAM, "Size of the answers' bodies.", _MODEL, buckets.SIZES
)
BATCH_ITEMS = Family("e2i_batch_items", MetricType.HISTOGRAM, "Rows a request.", _MODEL, buckets.ITEM_COUNTS)
SCORE = Family("e2i_prediction_score", MetricType.HISTOGRAM, "Scores given, one a row.", _MODEL, buckets.SCORES)
VALUE = Family("e2i_prediction_value", MetricType.HISTOGRAM, "Values predicted, one a row.", _MODEL, buckets.SIGNED)
EFFECT = Family(
    "e2i_prediction_effect", MetricType.HISTOGRAM, "Treatment effects estimated, one a row.", _MODEL, buckets.SIGNED
)
PREDICTED_CLASS = Family(
    "e2i_predicted_class_total", MetricType.COUNTER, "Classes predicted, one a row.", (*_MODEL, "class")
)
ERRORS = Family(
    "e2i_errors_total", MetricType.COUNTER, "Predictions that failed, by the type of error.", ("model", "type")
)
FEATURE_RETRIEVAL = Family(
    "e2i_feature_retrieval_duration_seconds",
    MetricType.HISTOGRAM,
    "Time spent fetching the features of a request.",
    ("store", "service"),
    buckets.RETRIEVALS,
)
FEATURE_ENTITIES = Family(
    "e2i_feature_retrieval_entities",
    MetricType.HISTOGRAM,
    "Entities whose features a request asked for.",
    ("store", "service"),
    buckets.ITEM_COUNTS,
)
FEATURE_OUTCOMES = Family(
    "e2i_feature_outcomes_total",
    MetricType.COUNTER,
    "Feature values asked for, by what became of them: hit, missing, null or stale.",
    ("view", "outcome"),
)
FEATURE_AGE = Family(
    "e2i_feature_age_seconds",
    MetricType.HISTOGRAM,
    "How old the features of a view were when they were used, one an entity.",
    ("view",),
    buckets.AGES,
)
FEATURE_CACHE = Family(
    "e2i_feature_cache_total",
    MetricType.COUNTER,
    "Entities whose features were looked for in the cache: hit or miss.",
    ("outcome",),
)
FEATURE_ERRORS = Family(
    "e2i_feature_errors_total",
    MetricType.COUNTER,
    "Retrievals of features that gave nothing: timeout, overloaded, invalid or unavailable.",
    ("type",),
)
IN_PROGRESS = Family("e2i_predictions_in_progress", MetricType.GAUGE, "Requests for predictions being served now.")
HTTP_REQUESTS = Family(
    "e2i_http_requests_total",
    MetricType.COUNTER,
    "All HTTP requests, by route (never the raw path) and status.",
    ("route", "status"),
)
MODEL_READY = Family(
    "e2i_model_ready",
    MetricType.GAUGE,
    "1 when every live worker is ready to predict with the model, else 0.",
    _MODEL,
    across=Across.MIN,
)
MODEL_LOAD = Family(
    "e2i_model_load_seconds",
    MetricType.GAUGE,
    "How long a worker took to make the service and load its model; the longest of the live ones.",
    _MODEL,
    across=Across.MAX,
)
WORKERS = Family("e2i_workers", MetricType.GAUGE, "Worker processes of a service that are alive.", ("service",))
WORKERS_EXPECTED = Family(
    "e2i_workers_expected",
    MetricType.GAUGE,
    "Worker processes that the service is set to have.",
    ("service",),
    across=Across.MAX,
)
SERVICE_INFO = Family(
    "e2i_service_info",
    MetricType.GAUGE,
    "What is served: 1 for each combination that a live worker serves.",
    ("service", "bento", "bento_version", "model", "version", "task", "release"),
    across=Across.MAX,
)
OBSERVED = Family(
    "e2i_audit_records_observed_total",
    MetricType.COUNTER,
    "Records that should be journaled: every prediction request.",
)
ACCEPTED = Family(
    "e2i_audit_records_accepted_total",
    MetricType.COUNTER,
    "Records written to the journal before their answer left.",
)
UNJOURNALED = Family(
    "e2i_audit_records_unjournaled_total",
    MetricType.COUNTER,
    "Records that could not be journaled, by reason.",
    ("reason",),
)
RELAY_UP = Family("e2i_relay_up", MetricType.GAUGE, "1 while a relay process runs for this instance, else 0.")
BACKLOG = Family(
    "e2i_audit_backlog_records", MetricType.GAUGE, "Journaled records not yet delivered.", ("destination",)
)
OLDEST_AGE = Family(
    "e2i_audit_oldest_record_age_seconds",
    MetricType.GAUGE,
    "How long ago the oldest record not yet delivered was journaled; 0 when there is none.",
    ("destination",),
)
DEAD_LETTERS = Family(
    "e2i_audit_dead_letters", MetricType.GAUGE, "Records that a destination refused for good.", ("destination",)
)
BREAKER_STATE = Family(
    "e2i_audit_breaker_state",
    MetricType.GAUGE,
    "Whether a destination is tried: 0 closed (as ever), 1 half-open (once more), 2 open (not now).",
    ("destination",),
)
DELIVERED = Family(
    "e2i_audit_delivered_total", MetricType.COUNTER, "Records delivered to a destination.", ("destination",)
)
DROPPED = Family(
    "e2i_audit_dropped_total",
    MetricType.COUNTER,
    "Accepted records that a destination will never get, by reason.",
    ("destination", "reason"),
)
SAMPLED_OUT = Family(
    "e2i_audit_records_sampled_out_total",
    MetricType.COUNTER,
    "Records that were not journaled because sampling left them out.",
)
INTERRUPTED = Family(
    "e2i_audit_records_interrupted_total",
    MetricType.COUNTER,
    "Records that their worker was killed over: observed, and then no more.",
)
HEADERS_REFUSED = Family(
    "e2i_headers_refused_total",
    MetricType.COUNTER,
    "Headers with ids that were malformed, so that the ids were made anew.",
    ("header",),
)
SPANS_DROPPED = Family(
    "e2i_spans_dropped_total", MetricType.COUNTER, "Spans that were lost, because they could not be exported in time."
)
EVENTS_DROPPED = Family(
    "e2i_error_events_dropped_total", MetricType.COUNTER, "Error events that were lost, because too many waited."
)
LOG_LINES_DROPPED = Family(
    "e2i_log_lines_dropped_total",
    MetricType.COUNTER,
    "Log lines that were not sent by OTLP, because they could not be in time; each was written all the same.",
)
FAILURES = Family(
    "e2i_internal_failures_total",
    MetricType.COUNTER,
    "Faults of the observability itself, by part; none of them failed a prediction.",
    ("part",),
)

RELAY_FAMILIES: tuple[Family, ...] = (BACKLOG, OLDEST_AGE, DEAD_LETTERS, BREAKER_STATE, DELIVERED, DROPPED)
"""Those that the relay writes."""

FAMILIES: tuple[Family, ...] = (
    PREDICTIONS,
    ITEMS,
    DURATION,
    TIMED,
    PHASE_DURATION,
    LABELLED_PREDICTIONS,
    LABELLED_DURATION,
    LABEL_OVERFLOW,
    RESPONSE_BYTES,
    BATCH_ITEMS,
    SCORE,
    VALUE,
    EFFECT,
    PREDICTED_CLASS,
    ERRORS,
    FEATURE_RETRIEVAL,
    FEATURE_ENTITIES,
    FEATURE_OUTCOMES,
    FEATURE_AGE,
    FEATURE_CACHE,
    FEATURE_ERRORS,
    IN_PROGRESS,
    HTTP_REQUESTS,
    MODEL_READY,
    MODEL_LOAD,
    WORKERS,
    WORKERS_EXPECTED,
    SERVICE_INFO,
    OBSERVED,
    ACCEPTED,
    SAMPLED_OUT,
    UNJOURNALED,
    INTERRUPTED,
    RELAY_UP,
    *RELAY_FAMILIES,
    HEADERS_REFUSED,
    SPANS_DROPPED,
    EVENTS_DROPPED,
    LOG_LINES_DROPPED,
    FAILURES,
)
