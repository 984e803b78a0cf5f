"""Metrics: counted in a file that all workers' scrapes can read, never lost with the worker that counted."""

from e2i_serving.observers.metrics.collection import collect, fold
from e2i_serving.observers.metrics.exposition import CONTENT_TYPE, render
from e2i_serving.observers.metrics.families import FAMILIES, Family, MetricType
from e2i_serving.observers.metrics.observer import MetricsObserver
from e2i_serving.observers.metrics.series import Series, SeriesFile

__all__ = [
    "CONTENT_TYPE",
    "FAMILIES",
    "Family",
    "MetricType",
    "MetricsObserver",
    "Series",
    "SeriesFile",
    "collect",
    "fold",
    "render",
]
