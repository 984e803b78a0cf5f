"""What OpenTelemetry's, Sentry's and Opik's own variables say, where a setting of ours leaves it open."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import unquote

from e2i_serving.settings.declared import Settings

EXPORTERS: Final = ("none", "otlp-grpc", "otlp-http", "console")

QUEUE_SIZE: Final = 2048
BATCH_SIZE: Final = 128
"""Less than OpenTelemetry's own 512: encoding a batch holds up what else its process does."""
DELAY_MILLISECONDS: Final = 1000.0
INTERVAL_MILLISECONDS: Final = 60_000.0
TIMEOUT_MILLISECONDS: Final = 10_000.0

OPIK_CLOUD: Final = "https://www.comet.com/opik/api"

_SAMPLERS: Final = {"always_on": 1.0, "always_off": 0.0, "parentbased_always_on": 1.0, "parentbased_always_off": 0.0}
_RATIO_SAMPLERS: Final = frozenset({"traceidratio", "parentbased_traceidratio"})


@dataclass(frozen=True, slots=True)
class TracingVariables:
    """OpenTelemetry's variables that its SDK does not read by itself here.

    Attributes:
        disabled: Whether ``OTEL_SDK_DISABLED`` turns it all off.
        exporter: One of ``EXPORTERS`` by ``OTEL_TRACES_EXPORTER``; ``None`` when not said.
        sample_rate: By ``OTEL_TRACES_SAMPLER`` and its argument; ``None`` when not said.
        queue_size: Most finished spans that wait, ``OTEL_BSP_MAX_QUEUE_SIZE``.
        batch_size: Most spans exported at once, ``OTEL_BSP_MAX_EXPORT_BATCH_SIZE``.
        delay_seconds: Longest a span waits, ``OTEL_BSP_SCHEDULE_DELAY`` in milliseconds.
    """

    disabled: bool = False
    exporter: str | None = None
    sample_rate: float | None = None
    queue_size: int = QUEUE_SIZE
    batch_size: int = BATCH_SIZE
    delay_seconds: float = DELAY_MILLISECONDS / 1000


@dataclass(frozen=True, slots=True)
class MetricsVariables:
    """OpenTelemetry's variables about metrics.

    Attributes:
        disabled: Whether ``OTEL_SDK_DISABLED`` turns it all off.
        exporter: One of ``none``, ``otlp-grpc`` and ``otlp-http``, by ``OTEL_METRICS_EXPORTER``.
        interval_seconds: How often to send, ``OTEL_METRIC_EXPORT_INTERVAL`` in milliseconds.
    """

    disabled: bool = False
    exporter: str = "none"
    interval_seconds: float = INTERVAL_MILLISECONDS / 1000


def metrics_variables(environ: Mapping[str, str] | None = None) -> MetricsVariables:
    """Read OpenTelemetry's variables; one that is malformed counts as not said.

    Args:
        environ: The environment; this process's by default.
    """
    environ = os.environ if environ is None else environ
    exporter = "none"
    if environ.get("OTEL_METRICS_EXPORTER", "").strip().lower() == "otlp":
        protocol = environ.get("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "")
        exporter = "otlp-grpc" if protocol.strip().lower() == "grpc" else "otlp-http"
    return MetricsVariables(
        environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true",
        exporter,
        max(_number(environ, "OTEL_METRIC_EXPORT_INTERVAL", INTERVAL_MILLISECONDS), 100.0) / 1000,
    )


@dataclass(frozen=True, slots=True)
class LogsVariables:
    """OpenTelemetry's variables about log lines.

    Attributes:
        disabled: Whether ``OTEL_SDK_DISABLED`` turns it all off.
        exporter: ``none`` or ``otlp-http``, by ``OTEL_LOGS_EXPORTER``.
        endpoint: Where to, with its path.
        headers: What is sent along.
        resource: Attributes of the sender, by ``OTEL_RESOURCE_ATTRIBUTES`` and ``OTEL_SERVICE_NAME``.
        timeout_seconds: How long a request may take.
        interval_seconds: How often to send, ``OTEL_BLRP_SCHEDULE_DELAY`` in milliseconds.
    """

    disabled: bool
    exporter: str
    endpoint: str
    headers: dict[str, str]
    resource: dict[str, str]
    timeout_seconds: float
    interval_seconds: float


def logs_variables(environ: Mapping[str, str] | None = None) -> LogsVariables:
    """Read OpenTelemetry's variables; one that is malformed counts as not said.

    Args:
        environ: The environment; this process's by default.
    """
    environ = os.environ if environ is None else environ
    base = environ.get("OTEL_EXPORTER_OTLP_ENDPOINT") or "http://localhost:4318"
    pairs = environ.get("OTEL_EXPORTER_OTLP_LOGS_HEADERS") or environ.get("OTEL_EXPORTER_OTLP_HEADERS", "")
    resource = _pairs(environ.get("OTEL_RESOURCE_ATTRIBUTES", ""))
    if environ.get("OTEL_SERVICE_NAME"):
        resource["service.name"] = environ["OTEL_SERVICE_NAME"]
    timeout = _number(environ, "OTEL_EXPORTER_OTLP_TIMEOUT", TIMEOUT_MILLISECONDS)
    return LogsVariables(
        environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true",
        "otlp-http" if environ.get("OTEL_LOGS_EXPORTER", "").strip().lower() == "otlp" else "none",
        environ.get("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT") or f"{base.rstrip('/')}/v1/logs",
        {name.lower(): value for name, value in _pairs(pairs).items()},
        resource,
        max(_number(environ, "OTEL_EXPORTER_OTLP_LOGS_TIMEOUT", timeout), 1.0) / 1000,
        max(_number(environ, "OTEL_BLRP_SCHEDULE_DELAY", DELAY_MILLISECONDS), 1.0) / 1000,
    )


def tracing_variables(environ: Mapping[str, str] | None = None) -> TracingVariables:
    """Read OpenTelemetry's variables; one that is malformed counts as not said.

    Args:
        environ: The environment; this process's by default.
    """
    environ = os.environ if environ is None else environ
    exporter: str | None = environ.get("OTEL_TRACES_EXPORTER", "").strip().lower()
    if exporter == "otlp":
        protocol = environ.get("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL") or environ.get("OTEL_EXPORTER_OTLP_PROTOCOL", "")
        exporter = "otlp-grpc" if protocol.strip().lower() == "grpc" else "otlp-http"
    sampler = environ.get("OTEL_TRACES_SAMPLER", "").strip().lower()
    rate = _SAMPLERS.get(sampler)
    if sampler in _RATIO_SAMPLERS:
        rate = min(max(_number(environ, "OTEL_TRACES_SAMPLER_ARG", 1.0), 0.0), 1.0)
    return TracingVariables(
        environ.get("OTEL_SDK_DISABLED", "").strip().lower() == "true",
        exporter if exporter in EXPORTERS else None,
        rate,
        max(int(_number(environ, "OTEL_BSP_MAX_QUEUE_SIZE", QUEUE_SIZE)), 1),
        max(int(_number(environ, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE", BATCH_SIZE)), 1),
        max(_number(environ, "OTEL_BSP_SCHEDULE_DELAY", DELAY_MILLISECONDS), 1.0) / 1000,
    )


def with_signal_variables(settings: Settings) -> Settings:
    """The same settings, with what OpenTelemetry's variables say of spans, metrics and log lines where nobody set it.

    Of this process's environment. What it gives is set, so that a child process takes it over as it is.

    Args:
        settings: As they were loaded.
    """
    variables = tracing_variables()
    if variables.disabled:
        off = {"trace_exporter": "none", "trace_sample_rate": 0.0, "metrics_exporter": "none", "log_exporter": "none"}
        return settings.model_copy(update=off)
    found: dict[str, object] = {
        "trace_exporter": variables.exporter or settings.trace_exporter,
        "trace_sample_rate": settings.trace_sample_rate if variables.sample_rate is None else variables.sample_rate,
        "metrics_exporter": metrics_variables().exporter,
        "log_exporter": logs_variables().exporter,
    }
    said = {name: value for name, value in found.items() if name not in settings.model_fields_set}
    return settings.model_copy(update=said)


def sentry_variable(environ: Mapping[str, str] | None = None) -> str:
    """The DSN in ``SENTRY_DSN``; empty when there is none.

    Args:
        environ: The environment; this process's by default.
    """
    return (os.environ if environ is None else environ).get("SENTRY_DSN", "")


@dataclass(frozen=True, slots=True)
class OpikVariables:
    """Opik's own variables.

    Attributes:
        url: ``OPIK_URL_OVERRIDE``; Opik Cloud's when not said.
        api_key: ``OPIK_API_KEY``.
        workspace: ``OPIK_WORKSPACE``; ``default`` when not said.
        project: ``OPIK_PROJECT_NAME``; empty when not said.
    """

    url: str = OPIK_CLOUD
    api_key: str = field(default="", repr=False)
    workspace: str = "default"
    project: str = ""


def opik_variables(environ: Mapping[str, str] | None = None) -> OpikVariables:
    """Read Opik's variables.

    Args:
        environ: The environment; this process's by default.
    """
    environ = os.environ if environ is None else environ
    return OpikVariables(
        environ.get("OPIK_URL_OVERRIDE") or OPIK_CLOUD,
        environ.get("OPIK_API_KEY", ""),
        environ.get("OPIK_WORKSPACE") or "default",
        environ.get("OPIK_PROJECT_NAME", ""),
    )


def _pairs(text: str) -> dict[str, str]:
    """Names and values as ``name=value,name=value``, percent-encoded."""
    parts = (pair.partition("=") for pair in text.split(","))
    return {unquote(name.strip()): unquote(value.strip()) for name, separator, value in parts if separator}


def _number(environ: Mapping[str, str], name: str, default: float) -> float:
    try:
        return float(environ.get(name) or default)
    except ValueError:
        return default
