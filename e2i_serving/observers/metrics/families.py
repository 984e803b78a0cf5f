"""The table of metrics: every family that is ever exposed, with its type, labels, buckets and help."""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class MetricType(StrEnum):
    """Prometheus' types that are used here."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Family(NamedTuple):
    """One metric family.

    Attributes:
        name: The name as exposed, with its unit and ``_total``.
        kind: Its type.
        summary: What it says, one sentence.
        labels: Names of its labels, in order.
        buckets: Upper bounds of a histogram's buckets, without +Inf.
    """

    name: str
    kind: MetricType
    summary: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()

    @property
    def width(self) -> int:
        """How many numbers a series of it holds: a histogram has its buckets, +Inf and the sum."""
        return len(self.buckets) + 2 if self.kind is MetricType.HISTOGRAM else 1


DURATION_BUCKETS = (
    *(mantissa * 10.0**exponent for exponent in (-4, -3, -2, -1, 0) for mantissa in (1.0, 1.5, 2.5, 4.0, 6.5)),
    *(10.0, 15.0, 25.0, 40.0, 60.0),
)

PREDICTIONS = Family(
    "e2i_predictions_total",
    MetricType.COUNTER,
    "Requests for predictions, by how they ended.",
    ("model", "version", "task", "outcome"),
)
ITEMS = Family(
    "e2i_prediction_items_total",
    MetricType.COUNTER,
    "Rows predicted, by how their request ended.",
    ("model", "version", "task", "outcome"),
)
DURATION = Family(
    "e2i_prediction_duration_seconds",
    MetricType.HISTOGRAM,
    "Time from arrival to the first byte of the answer (phase total), and in each phase of it.",
    ("model", "version", "phase"),
    DURATION_BUCKETS,
)
IN_PROGRESS = Family("e2i_predictions_in_progress", MetricType.GAUGE, "Requests for predictions being served now.")
HTTP_REQUESTS = Family(
    "e2i_http_requests_total",
    MetricType.COUNTER,
    "All HTTP requests, by route (never the raw path) and status.",
    ("route", "status"),
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
FAILURES = Family(
    "e2i_internal_failures_total",
    MetricType.COUNTER,
    "Faults of the observability itself, by part; none of them failed a prediction.",
    ("part",),
)
SERVICE_INFO = Family(
    "e2i_service_info",
    MetricType.GAUGE,
    "What is served: 1 for each combination that a live worker serves.",
    ("service", "bento", "bento_version", "model", "version", "task", "release"),
)

FAMILIES: tuple[Family, ...] = (
    PREDICTIONS,
    ITEMS,
    DURATION,
    IN_PROGRESS,
    HTTP_REQUESTS,
    OBSERVED,
    ACCEPTED,
    UNJOURNALED,
    FAILURES,
    SERVICE_INFO,
)
