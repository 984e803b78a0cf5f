"""A round trip of each OpenTelemetry signal that is sent: spans, metrics, log lines. For the doctor."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Final

from e2i_serving.exceptions import E2IServingError
from e2i_serving.runtime.metrics_export import metric_exporter
from e2i_serving.runtime.telemetry import sends_log_lines
from e2i_serving.runtime.tracing import exporter_of
from e2i_serving.settings import Settings, logs_variables, with_signal_variables

TIMEOUT_SECONDS: Final = 5.0
"""How long a receiver may take to answer."""


def signal_trips(settings: Settings) -> Iterator[tuple[str, str]]:
    """Send an empty request of each signal that is exported to its receiver.

    Args:
        settings: The settings.

    Yields:
        The signal's name, and what is wrong with its receiver; empty when nothing is.
    """
    wanted = with_signal_variables(settings)
    spans, metrics = wanted.trace_exporter, wanted.metrics_exporter
    if spans not in ("none", "console"):
        yield "spans", _problem(lambda: _send_spans(spans))
    if metrics != "none":
        yield "metrics", _problem(lambda: _send_metrics(metrics))
    if sends_log_lines(settings):
        yield "log lines", _problem(_send_log_lines)


def _send_spans(name: str) -> bool:
    from opentelemetry.sdk.trace.export import SpanExportResult  # noqa: PLC0415  # only where spans are sent

    exporter = exporter_of(name, TIMEOUT_SECONDS)
    try:
        return exporter.export([]) is SpanExportResult.SUCCESS
    finally:
        exporter.shutdown()


def _send_metrics(name: str) -> bool:
    from opentelemetry.sdk.metrics.export import MetricExportResult, MetricsData  # noqa: PLC0415  # likewise

    exporter = metric_exporter(name, TIMEOUT_SECONDS)
    try:
        return exporter.export(MetricsData(resource_metrics=[])) is MetricExportResult.SUCCESS
    finally:
        exporter.shutdown()


def _send_log_lines() -> bool:
    from e2i_serving.exporters.otlp_logs import OtlpLogsExporter  # noqa: PLC0415  # likewise

    said = logs_variables()
    exporter = OtlpLogsExporter(said.endpoint, headers=said.headers, timeout_seconds=TIMEOUT_SECONDS)
    try:
        exporter.check()
    finally:
        exporter.shutdown()
    return True


class _FirstSaid(logging.Handler):
    """Keeps the first line: OpenTelemetry's exporters say only there what is wrong."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.text = ""

    def emit(self, record: logging.LogRecord) -> None:
        self.text = self.text or record.getMessage()


def _problem(send: Callable[[], bool]) -> str:
    said = _FirstSaid()
    source = logging.getLogger("opentelemetry")
    propagates, source.propagate = source.propagate, False
    source.addHandler(said)
    try:
        if send():
            return ""
    except ImportError as error:
        return f"{error}. Install e2i-serving[otlp]"
    except (E2IServingError, OSError) as error:
        return str(error)
    finally:
        source.removeHandler(said)
        source.propagate = propagates
    return said.text or f"No answer within {TIMEOUT_SECONDS:g} s"
