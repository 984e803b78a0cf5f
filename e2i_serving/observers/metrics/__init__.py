"""Metrics: counted in a file that all workers' scrapes can read, never lost with the worker that counted."""

from e2i_serving.observers.metrics.audit import AuditCounters, ObservationBooks, observation_books
from e2i_serving.observers.metrics.bentoml_names import BentoMLNames
from e2i_serving.observers.metrics.collection import Totals, collect, fold
from e2i_serving.observers.metrics.exposition import CONTENT_TYPE, OPENMETRICS_CONTENT_TYPE, OPENMETRICS_END, render
from e2i_serving.observers.metrics.families import FAMILIES, Family, MetricType
from e2i_serving.observers.metrics.labelled import LabelBounds
from e2i_serving.observers.metrics.observer import Measured, MetricsObserver
from e2i_serving.observers.metrics.relay import RelayMetrics
from e2i_serving.observers.metrics.series import Series, SeriesFile

__all__ = [
    "CONTENT_TYPE",
    "FAMILIES",
    "OPENMETRICS_CONTENT_TYPE",
    "OPENMETRICS_END",
    "AuditCounters",
    "BentoMLNames",
    "Family",
    "LabelBounds",
    "Measured",
    "MetricType",
    "MetricsObserver",
    "ObservationBooks",
    "RelayMetrics",
    "Series",
    "SeriesFile",
    "Totals",
    "collect",
    "fold",
    "observation_books",
    "render",
]
