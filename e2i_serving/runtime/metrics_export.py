"""Metrics by OTLP: the relay sends what a scrape would read, every minute, from a thread of its own."""

from __future__ import annotations

import logging
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import e2i_serving
from e2i_serving.observers.metrics import Totals, collect
from e2i_serving.observers.metrics.families import RELAY_UP, SERVICE_INFO
from e2i_serving.settings import Settings, metrics_variables, with_signal_variables

if TYPE_CHECKING:
    from opentelemetry.sdk.metrics.export import MetricExporter

logger = logging.getLogger("e2i_serving.relay")

_LAST_SECONDS: Final = 5.0


def metrics_export_of(settings: Settings, data_dir: Path, began_ns: int) -> MetricsExport | None:
    """The export that the settings ask for, and OpenTelemetry's variables where these leave it open, if any.

    Args:
        settings: The settings.
        data_dir: The instance's data directory.
        began_ns: Since when its counters count, nanoseconds since the epoch.
    """
    wanted = with_signal_variables(settings).metrics_exporter
    if wanted == "none":
        return None
    try:
        exporter = metric_exporter(wanted)
    except ImportError as error:
        # A start-up check refuses this; what is journaled is delivered all the same.
        logger.error("Metrics are not sent: %s. Install e2i-serving[otlp].", error)  # noqa: TRY400  # says it all
        return None
    return MetricsExport(exporter, data_dir / "metrics", began_ns, metrics_variables().interval_seconds, settings)


class MetricsExport:
    """Sends an instance's metrics while it is open. A receiver that is down, slow or hung is felt nowhere else.

    Args:
        exporter: Where to.
        folder: ``<data>/metrics``.
        began_ns: Since when counters count, nanoseconds since the epoch.
        interval_seconds: How often.
        settings: They say where the instance runs.
    """

    def __init__(
        self, exporter: MetricExporter, folder: Path, began_ns: int, interval_seconds: float, settings: Settings
    ) -> None:
        self._exporter = exporter
        self._folder = folder
        self._began_ns = began_ns
        self._interval_seconds = interval_seconds
        self._settings = settings
        self._service: dict[str, str] = {}
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="e2i-metrics-export", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Send once more, and end; waits for a few seconds at most."""
        self._ended.set()
        self._thread.join(_LAST_SECONDS)

    def _run(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._ended.wait(self._interval_seconds)
            try:
                self._send()
            except Exception as error:  # noqa: BLE001  # promise 4: observability never harms
                logger.warning("Metrics could not be sent: %s: %s", type(error).__name__, error)
        self._exporter.shutdown()

    def _send(self) -> None:
        from e2i_serving.observers.metrics.otlp import metrics_data  # noqa: PLC0415  # only where asked for
        from e2i_serving.runtime.tracing import resource_of  # noqa: PLC0415  # likewise

        totals = collect(self._folder)
        totals.put(RELAY_UP, (), 1.0)
        # Workers may be gone; the service that they were stays. Before the first of them nobody can say whose numbers
        # these are, and under another name a receiver would count them all twice.
        self._service = _served(totals, self._settings) or self._service
        if not self._service:
            return
        resource = resource_of(self._service)
        version = e2i_serving.__version__
        self._exporter.export(
            metrics_data(totals, resource, began_ns=self._began_ns, now_ns=time.time_ns(), scope_version=version),
            timeout_millis=self._interval_seconds * 1000,
        )


def _served(totals: Totals, settings: Settings) -> dict[str, str]:
    """What is served, as the live workers say and as their spans and log lines do; nothing where none lives."""
    from e2i_serving.runtime.telemetry import service_attributes  # noqa: PLC0415  # only where asked for

    labels = next((labels for name, labels in totals if name == SERVICE_INFO.name), None)
    if labels is None:
        return {}
    said = dict(zip(SERVICE_INFO.labels, labels, strict=True))
    return service_attributes(said["service"], (said["bento"], said["bento_version"]), settings)


def metric_exporter(name: str, timeout_seconds: float | None = None) -> MetricExporter:
    """The exporter of this name, with endpoint and headers by OpenTelemetry's own variables.

    Args:
        name: ``otlp-grpc`` or ``otlp-http``.
        timeout_seconds: Longest that a request may take; ``None``: as OpenTelemetry's own variables say.

    Raises:
        ImportError: It is not installed.
    """
    if name == "otlp-grpc":
        from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter  # noqa: PLC0415  # an extra
    else:
        from opentelemetry.exporter.otlp.proto.http.metric_exporter import (  # type: ignore[assignment]  # noqa: PLC0415
            OTLPMetricExporter,
        )
    exporter: MetricExporter = OTLPMetricExporter(timeout=timeout_seconds)
    return exporter
