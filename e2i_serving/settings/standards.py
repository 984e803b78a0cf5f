"""What OpenTelemetry's and Sentry's own variables say, where a setting of ours leaves it open."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

EXPORTERS: Final = ("none", "otlp-grpc", "otlp-http", "console")

QUEUE_SIZE: Final = 2048
BATCH_SIZE: Final = 128
"""Less than OpenTelemetry's own 512: encoding a batch holds up what else its process does."""
DELAY_MILLISECONDS: Final = 1000.0

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


def sentry_variable(environ: Mapping[str, str] | None = None) -> str:
    """The DSN in ``SENTRY_DSN``; empty when there is none.

    Args:
        environ: The environment; this process's by default.
    """
    return (os.environ if environ is None else environ).get("SENTRY_DSN", "")


def _number(environ: Mapping[str, str], name: str, default: float) -> float:
    try:
        return float(environ.get(name) or default)
    except ValueError:
        return default
