"""What a process that serves has once: its tracing and its log lines."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from e2i_serving.runtime.definition import ServiceDefinition
from e2i_serving.runtime.logs import LogContext, Render, configure_logs
from e2i_serving.runtime.tracing import Tracing, tracing_of
from e2i_serving.settings import Settings, instance_name, logs_variables, with_signal_variables

if TYPE_CHECKING:
    from e2i_serving.runtime.log_export import LogExport

logger = logging.getLogger("e2i_serving")


@dataclass(frozen=True)
class Telemetry:
    """What a process that serves has once.

    Attributes:
        tracing: How its requests are traced.
        logs: What its log lines carry; ``None`` when logging is left as BentoML sets it up.
        render: Makes the text of a line; ``None`` likewise.
        log_export: Sends its lines; ``None`` when nobody asked for that.
    """

    tracing: Tracing = field(default_factory=Tracing)
    logs: LogContext | None = None
    render: Render | None = None
    log_export: LogExport | None = None


def start_telemetry(definition: ServiceDefinition, bento: tuple[str, str]) -> Telemetry:
    """Set up logging and tracing for this process; called once, in a worker, before it loads anything.

    What can't be set up is logged, and left out.

    Args:
        definition: The service.
        bento: Name and version of the bento; the version is empty when served from source.
    """
    settings = definition.load_settings().settings
    resource = service_attributes(definition.name, bento, settings)
    log_export = _log_export(settings, resource)
    logs, render = configure_logs(settings, tee=log_export.tee if log_export else None) or (None, None)
    try:
        tracing = tracing_of(settings, resource)
    except ImportError as error:
        logger.warning("No spans are exported, for %s is not installed: install e2i-serving[otlp].", error.name)
        tracing = Tracing(settings.trace_sample_rate)
    tracing.install(settings)
    return Telemetry(tracing, logs, render, log_export)


def _log_export(settings: Settings, resource: dict[str, str]) -> LogExport | None:
    if not sends_log_lines(settings):
        return None
    try:
        from e2i_serving.runtime.log_export import LogExport  # noqa: PLC0415  # takes an extra
    except ImportError as error:
        logger.warning("Log lines are not sent, for %s is not installed: install e2i-serving[otlp].", error.name)
        return None
    return LogExport(logs_variables(), resource)


def sends_log_lines(settings: Settings) -> bool:
    """Whether log lines are sent, by the settings or by OpenTelemetry's own variables."""
    return with_signal_variables(settings).log_exporter != "none" and settings.log_format != "off"


def service_attributes(service: str, bento: tuple[str, str], settings: Settings) -> dict[str, str]:
    """What is served, as OpenTelemetry resource attributes.

    Args:
        service: The service's name.
        bento: Name and version of the bento; the version is empty when served from source.
        settings: They say where it runs.
    """
    name, version = bento
    found = {
        "service.name": service,
        "service.namespace": settings.namespace or name,
        "service.version": version,
        "service.instance.id": settings.pod or instance_name(settings),
        "deployment.environment.name": settings.environment,
        "e2i.revision": settings.revision,
        "e2i.arm": settings.arm,
    }
    return {attribute: value for attribute, value in found.items() if value}
