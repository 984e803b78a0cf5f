"""The exporter of log records by OTLP over HTTP. Needs ``opentelemetry-proto``, which the extra ``otlp`` brings."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from e2i_serving.exceptions import ConfigurationError, RefusedError
from e2i_serving.exporters.documents import as_json, document, event_id, event_time_ns, kind_of, where
from e2i_serving.exporters.transport import Transport
from e2i_serving.record import Entry, LateResult, Life, Outcome, PredictionRecord, StreamEnd

OTLP_LOGS: Final = "otlp-logs"
"""Name of the destination."""

BATCH_RECORDS: Final = 500
SCOPE: Final = "e2i_serving"

_INFO, _WARN, _ERROR = 9, 13, 17  # OpenTelemetry's severity numbers
_SEVERITIES: Final = {
    Outcome.OK: _INFO,
    Outcome.INTERRUPTED: _INFO,
    Outcome.INVALID: _WARN,
    Outcome.REJECTED: _WARN,
    Outcome.CANCELLED: _WARN,
}
_TEXTS: Final = {_INFO: "INFO", _WARN: "WARN", _ERROR: "ERROR"}
_LARGEST_INTEGER: Final = 2**63


class OtlpLogsExporter:
    """Sends entries as log records: the body is the entry as JSON, what is searched for stands in attributes.

    Args:
        url: The whole URL.
        headers: Sent with every request.
        timeout_seconds: Longest that a request may take.

    Raises:
        ConfigurationError: The URL is no HTTP address, or the extra ``otlp`` is not installed.
    """

    name = OTLP_LOGS

    def __init__(self, url: str, *, headers: Mapping[str, str] | None = None, timeout_seconds: float = 10.0) -> None:
        try:
            from opentelemetry.proto.collector.logs.v1 import logs_service_pb2  # noqa: PLC0415  # of an extra
        except ImportError as error:
            raise ConfigurationError("otlp_logs_enabled needs the OTLP messages. Install e2i-serving[otlp].") from error
        self._messages = logs_service_pb2
        self._transport = Transport(
            "The OTLP receiver",
            url,
            {"Content-Type": "application/x-protobuf", **(headers or {})},
            timeout_seconds=timeout_seconds,
            mend_denied="Check OTEL_EXPORTER_OTLP_HEADERS.",
        )

    def export(self, entries: Sequence[Entry]) -> None:
        """Send entries; see ``Exporter.export``."""
        for first in range(0, len(entries), BATCH_RECORDS):
            self._send(self._request(entries[first : first + BATCH_RECORDS]))

    def check(self) -> None:
        """Send a request without a log record."""
        self._send(self._messages.ExportLogsServiceRequest())

    def force_flush(self, timeout_seconds: float) -> bool:  # noqa: ARG002  # as the Protocol has it
        """Nothing is held back."""
        return True

    def shutdown(self) -> None:
        """Close the connections."""
        self._transport.close()

    def _send(self, request: Any) -> None:
        answer = self._transport.send("POST", "", request.SerializeToString(), compress=True)
        if not answer.headers.get("content-type", "").startswith("application/x-protobuf"):
            return
        try:
            partial = self._messages.ExportLogsServiceResponse.FromString(answer.body).partial_success
        except Exception:  # noqa: BLE001  # protobuf's own error; the status said that all was taken
            return
        if partial.rejected_log_records > 0:
            raise RefusedError(
                f"The OTLP receiver refused {partial.rejected_log_records} log records: {partial.error_message}"
            )

    def _request(self, entries: Sequence[Entry]) -> Any:
        request = self._messages.ExportLogsServiceRequest()
        of_life = request.resource_logs.add()
        _attributes(of_life.resource.attributes, _resource(entries[0].life))
        of_scope = of_life.scope_logs.add()
        of_scope.scope.name = SCOPE
        of_scope.scope.version = entries[0].life.release
        for entry in entries:
            _fill(of_scope.log_records.add(), entry)
        return request


def _fill(log: Any, entry: Entry) -> None:
    body = entry.body
    log.time_unix_nano = max(event_time_ns(entry), 0) or time.time_ns()
    log.observed_time_unix_nano = time.time_ns()
    log.event_name = f"e2i_serving.{kind_of(entry)}"
    log.body.string_value = as_json(document(entry)).decode()
    severity = _INFO
    attributes: dict[str, Any] = {"log.record.uid": event_id(entry), "e2i.kind": kind_of(entry)}
    for name in ("prediction_id", "request_id", "endpoint", "error_type", "model", "model_version", "outcome_id"):
        attributes[f"e2i.{name}"] = getattr(body, name, "")
    if isinstance(body, PredictionRecord | StreamEnd | LateResult):
        severity = _SEVERITIES.get(body.outcome, _ERROR)
        attributes |= {"e2i.outcome": body.outcome.value, "e2i.duration": float(body.duration)}
    if isinstance(body, PredictionRecord):
        attributes |= {"e2i.status": body.status, "e2i.items": body.items}
        attributes |= {f"e2i.label.{name}": value for name, value in body.labels.items()}
        log.trace_id = id_bytes(body.trace_id, 16)
        log.span_id = id_bytes(body.span_id, 8)
        log.flags = int(body.sampled)
    log.severity_number = severity
    log.severity_text = _TEXTS[severity]
    _attributes(log.attributes, attributes)


def _resource(life: Life) -> dict[str, Any]:
    known = where(life)
    return {
        "service.name": life.service,
        "service.version": known.get("bento_version", ""),
        "service.instance.id": life.life,
        "deployment.environment.name": known.get("environment", ""),
        "service.namespace": known.get("namespace", ""),
        "host.name": known.get("pod", ""),
    }


def _attributes(target: Any, values: Mapping[str, Any]) -> None:
    for name, value in values.items():
        if value == "":
            continue
        pair = target.add()
        pair.key = name
        if isinstance(value, float):
            pair.value.double_value = value
        elif isinstance(value, int) and abs(value) < _LARGEST_INTEGER:
            pair.value.int_value = value
        else:
            pair.value.string_value = str(value)


def id_bytes(text: object, size: int) -> bytes:
    """The bytes of an id in hex digits; none where it is not one of that size, which receivers refuse.

    Args:
        text: The id.
        size: How many bytes it has.
    """
    if isinstance(text, str) and len(text) == 2 * size:
        try:
            found = bytes.fromhex(text)
        except ValueError:
            return b""
        return found if len(found) == size else b""  # spaces are passed over
    return b""
