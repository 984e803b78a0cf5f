"""The exporters that the settings ask for, and the destinations that they are in the relay."""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Final
from urllib.parse import quote

from e2i_serving.exceptions import ConfigurationError, E2IServingError, StoreError
from e2i_serving.record import Entry, ModelInfo, Row
from e2i_serving.redaction import redactor_of
from e2i_serving.relay.addressing import Identities
from e2i_serving.relay.audit_destination import AUDIT_STORE
from e2i_serving.relay.export_destination import ExportDestination
from e2i_serving.settings import OPIK_CLOUD, Settings, logs_variables, opik_variables
from e2i_serving.typing import Exporter

_BY_PREDICTION: Final = frozenset({"opik"})
"""Exporters whose receivers know of predictions by their ids alone."""


class UnopenedExporter:
    """Stands in the place of an exporter whose settings are wrong, so that what it is to send waits for it.

    Args:
        name: The exporter's name.
        problem: What is wrong.
    """

    def __init__(self, name: str, problem: str) -> None:
        self.name = name
        self._problem = problem

    def export(self, entries: Sequence[Entry]) -> None:  # noqa: ARG002  # as the Protocol has it
        """Take nothing."""
        raise StoreError(self._problem)

    def check(self) -> None:
        """Say what is wrong."""
        raise StoreError(self._problem)

    def force_flush(self, timeout_seconds: float) -> bool:  # noqa: ARG002  # as the Protocol has it
        """Nothing is held back."""
        return True

    def shutdown(self) -> None:
        """Nothing is open."""


def open_exporters(settings: Settings) -> list[Exporter]:
    """The exporters that are asked for; what is wrong with one of them, it says itself when it is used."""
    found: list[Exporter] = []
    for name, make in _wanted(settings):
        try:
            found.append(make(settings))
        except ConfigurationError as error:
            found.append(UnopenedExporter(name, str(error)))
    return found


def exporter_problems(settings: Settings) -> Iterator[str]:
    """What is wrong with the settings of exporters."""
    for _, make in _wanted(settings):
        try:
            make(settings).shutdown()
        except ConfigurationError as error:
            yield str(error)


def round_trips(settings: Settings, data_dir: Path) -> Iterator[tuple[str, str]]:
    """Go to every destination and back.

    Args:
        settings: The settings.
        data_dir: The instance's data directory.

    Yields:
        A destination's name, and what is wrong with it; empty when nothing is.
    """
    if not settings.audit_enabled:
        return
    yield AUDIT_STORE, _audit_problem(settings, data_dir)
    for exporter in open_exporters(settings):
        try:
            exporter.check()
        except (E2IServingError, OSError) as error:
            yield exporter.name, str(error)
        else:
            yield exporter.name, ""
        finally:
            exporter.shutdown()


def stored_identities(settings: Settings, data_dir: Path) -> Identities:
    """What looks predictions up in the audit store.

    Args:
        settings: The settings.
        data_dir: The instance's data directory.
    """

    def look_up(prediction_ids: Sequence[str], request_ids: Sequence[str]) -> Sequence[Row]:
        from e2i_serving.stores.query import SqlAuditQuery  # noqa: PLC0415  # workers import this, and no database

        # The rules that the store has on top of the worker's, which the event has gone through already.
        redactor = redactor_of(settings, ModelInfo(), destination=AUDIT_STORE)
        as_asked = {redactor.request_id(each) if redactor is not None else each: each for each in request_ids}
        with closing(SqlAuditQuery(audit_url(settings, data_dir))) as trail:
            rows = trail.identities(prediction_ids, list(as_asked))
        return [{**row, "request_id": as_asked.get(row["request_id"], row["request_id"])} for row in rows]

    return look_up


def audit_url(settings: Settings, data_dir: Path) -> str:
    """The audit store's URL: the one set, or the file in the data directory."""
    from e2i_serving.stores.engine import sqlite_url  # noqa: PLC0415  # workers import this, and no database

    return settings.audit_url or sqlite_url(data_dir / "audit.db")


def _audit_problem(settings: Settings, data_dir: Path) -> str:
    from e2i_serving.stores.upgrading import stored_version  # noqa: PLC0415  # workers import this, and no database

    if not settings.audit_url and not (data_dir / "audit.db").exists():
        return ""  # the relay makes it, and that the directory can be written to is another check
    try:
        stored_version(audit_url(settings, data_dir))
    except (E2IServingError, OSError) as error:
        return str(error)
    return ""


def export_destinations(settings: Settings, data_dir: Path) -> list[ExportDestination]:
    """The exporters as destinations of the relay, each with its own redaction rules.

    Args:
        settings: The settings.
        data_dir: The instance's data directory.
    """
    identities = stored_identities(settings, data_dir)
    return [
        ExportDestination(
            exporter,
            redactor_for=partial(redactor_of, settings, destination=exporter.name),
            identities=identities if exporter.name in _BY_PREDICTION else None,
        )
        for exporter in open_exporters(settings)
    ]


def opik_address(settings: Settings) -> str:
    """Where Opik's API is."""
    return settings.opik_url or opik_variables().url


def opik_trace_address(settings: Settings, prediction_id: str) -> str:
    """The page in Opik that shows a prediction's trace, whichever project it is in."""
    api = opik_address(settings).rstrip("/") + "/"
    path = base64.b64encode(api.encode()).decode()
    return f"{api}v1/session/redirect/projects/?trace_id={quote(prediction_id)}&path={quote(path, safe='=')}"


_Make = Callable[[Settings], Exporter]


def _wanted(settings: Settings) -> Iterator[tuple[str, _Make]]:
    # A module is imported once its exporter is asked for: the relay is to be small.
    if settings.opik_enabled:
        yield "opik", _opik
    if settings.jsonl_path:
        yield "jsonl", _json_lines
    if settings.webhook_url:
        yield "webhook", _webhook
    if settings.otlp_logs_enabled:
        yield "otlp-logs", _otlp_logs


def _opik(settings: Settings) -> Exporter:
    from e2i_serving.exporters.opik import OpikExporter  # noqa: PLC0415  # see above
    from e2i_serving.exporters.opik_traces import TraceStyle  # noqa: PLC0415  # likewise

    said = opik_variables()
    api_key = settings.opik_api_key.get_secret_value() or said.api_key
    if opik_address(settings) == OPIK_CLOUD and not api_key:
        raise ConfigurationError(
            "opik_enabled sends to Opik Cloud, which takes nothing without a key. Set opik_api_key (OPIK_API_KEY), or "
            "the address of another Opik, opik_url (OPIK_URL_OVERRIDE)."
        )
    return OpikExporter(
        opik_address(settings),
        api_key=api_key,
        workspace=settings.opik_workspace or said.workspace,
        style=TraceStyle(
            settings.opik_project or said.project,
            settings.opik_trace_per,
            settings.opik_thread,
            settings.opik_payload_bytes,
        ),
        spans=settings.opik_spans,
        sampling_rate=settings.opik_sampling_rate,
        sampling_errors=settings.opik_sampling_errors,
        timeout_seconds=settings.opik_timeout_seconds,
    )


def _json_lines(settings: Settings) -> Exporter:
    from e2i_serving.exporters.json_lines import JsonLinesExporter  # noqa: PLC0415  # see above

    return JsonLinesExporter(settings.jsonl_path)


def _webhook(settings: Settings) -> Exporter:
    from e2i_serving.exporters.webhook import WebhookExporter  # noqa: PLC0415  # see above

    secret = settings.webhook_secret.get_secret_value()
    return WebhookExporter(settings.webhook_url, secret, timeout_seconds=settings.webhook_timeout_seconds)


def _otlp_logs(settings: Settings) -> Exporter:
    from e2i_serving.exporters.otlp_logs import OtlpLogsExporter  # noqa: PLC0415  # see above

    said = logs_variables()
    return OtlpLogsExporter(
        settings.otlp_logs_endpoint or said.endpoint,
        headers=said.headers,
        timeout_seconds=settings.otlp_logs_timeout_seconds,
    )
