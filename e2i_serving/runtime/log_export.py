"""Log lines by OTLP: what is written is also sent, in batches, from a thread of its own."""

from __future__ import annotations

import gzip
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, MutableMapping
from datetime import datetime
from typing import Any, Final

import httpx
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord, ResourceLogs, ScopeLogs, SeverityNumber
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

import e2i_serving
from e2i_serving.exporters.otlp_logs import id_bytes
from e2i_serving.settings import LogsVariables

logger = logging.getLogger("e2i_serving")

Line = MutableMapping[str, Any]

MOST_WAITING: Final = 4096
"""Most lines that wait to be sent; beyond, the oldest are lost and counted."""
BATCH: Final = 512
_LAST_SECONDS: Final = 3.0
_OWN_THREADS: Final = "e2i-"
_IDS: Final = (("trace_id", 16), ("span_id", 8))

_SEVERITIES: Final = {
    "debug": SeverityNumber.SEVERITY_NUMBER_DEBUG,
    "info": SeverityNumber.SEVERITY_NUMBER_INFO,
    "warning": SeverityNumber.SEVERITY_NUMBER_WARN,
    "error": SeverityNumber.SEVERITY_NUMBER_ERROR,
    "critical": SeverityNumber.SEVERITY_NUMBER_FATAL,
}
_NOT_ATTRIBUTES: Final = frozenset({"time", "level", "event"})


class LogExport:
    """Sends log lines while it is open. Lines are taken as they are written: redacted, with their ids.

    A receiver that is down, slow or hung is felt nowhere else: lines wait in bounded memory.

    Args:
        variables: Where to, and how often.
        resource: What is served, as OpenTelemetry resource attributes.

    Attributes:
        dropped: How many lines were lost.
    """

    def __init__(self, variables: LogsVariables, resource: dict[str, str]) -> None:
        self.dropped = 0
        self._variables = variables
        self._resource = Resource(attributes=_attributes({**resource, **variables.resource}))
        self._scope = InstrumentationScope(name="e2i_serving", version=e2i_serving.__version__)
        self._waiting: deque[dict[str, Any]] = deque()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"{_OWN_THREADS}log-export", daemon=True)
        self._thread.start()

    def tee(self, render: Callable[[Line], str]) -> Callable[[Line], str]:
        """What renders a line, and has it sent too. Any thread may call it; it never blocks."""

        def rendered(line: Line) -> str:
            if not threading.current_thread().name.startswith(_OWN_THREADS):
                if len(self._waiting) >= MOST_WAITING:
                    self._waiting.popleft()
                    self.dropped += 1
                self._waiting.append(dict(line))
            return render(line)

        return rendered

    def close(self) -> None:
        """Send what waits, and end; waits for a few seconds at most."""
        self._ended.set()
        self._thread.join(_LAST_SECONDS)

    def _run(self) -> None:
        is_last = False
        with httpx.Client(headers=self._variables.headers, timeout=self._variables.timeout_seconds) as client:
            while not is_last:
                is_last = self._ended.wait(self._variables.interval_seconds)
                while self._waiting:
                    batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
                    if not self._send(client, batch):
                        break

    def _send(self, client: httpx.Client, batch: list[dict[str, Any]]) -> bool:
        records = self._records(batch)
        if not records:
            return True
        try:
            scope = ScopeLogs(scope=self._scope, log_records=records)
            resource = ResourceLogs(resource=self._resource, scope_logs=[scope])
            answer = client.post(
                self._variables.endpoint,
                content=gzip.compress(ExportLogsServiceRequest(resource_logs=[resource]).SerializeToString(), 1),
                headers={"content-type": "application/x-protobuf", "content-encoding": "gzip"},
            )
            answer.raise_for_status()
        except Exception as error:  # noqa: BLE001  # promise 4: observability never harms
            self._lose(len(records), error)
            return False
        return True

    def _records(self, batch: list[dict[str, Any]]) -> list[LogRecord]:
        records: list[LogRecord] = []
        for line in batch:
            try:
                records.append(log_record(line))
            except Exception as error:  # noqa: BLE001  # as above: whatever a line holds, the others are sent
                self._lose(1, error)
        return records

    def _lose(self, count: int, error: Exception) -> None:
        self.dropped += count
        logger.warning("%d log lines could not be sent: %s: %s", count, type(error).__name__, error)


def log_record(line: dict[str, Any]) -> LogRecord:
    """A line as OpenTelemetry's log record.

    Raises:
        Exception: Whatever an object in it raises when it is looked at.
    """
    level = str(line.get("level", "info"))
    # The service's own fields may have the same names, and hold anything.
    ids = {name: id_bytes(line.get(name), size) for name, size in _IDS}
    others = {
        name: value
        for name, value in line.items()
        if name not in _NOT_ATTRIBUTES and not (name in ids and (ids[name] or value == ""))
    }
    return LogRecord(
        time_unix_nano=_time_ns(line.get("time")),
        observed_time_unix_nano=time.time_ns(),
        severity_number=_SEVERITIES.get(level, SeverityNumber.SEVERITY_NUMBER_UNSPECIFIED),
        severity_text=_text(level.upper()),
        body=AnyValue(string_value=_text(str(line.get("event", "")))),
        attributes=_attributes(others),
        trace_id=ids["trace_id"],
        span_id=ids["span_id"],
    )


def _time_ns(value: object) -> int:
    try:
        found = int(datetime.fromisoformat(str(value)).timestamp() * 1e6) * 1000
    except (ValueError, OverflowError):
        found = 0
    return found if found > 0 else time.time_ns()


def _text(text: str) -> str:
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _attributes(values: dict[str, Any]) -> list[KeyValue]:
    return [KeyValue(key=_text(name), value=_any(value)) for name, value in values.items() if value is not None]


def _any(value: Any) -> AnyValue:
    if isinstance(value, bool):
        return AnyValue(bool_value=value)
    if isinstance(value, int) and -(2**63) <= value < 2**63:
        return AnyValue(int_value=value)
    if isinstance(value, float):
        return AnyValue(double_value=value)
    if isinstance(value, dict):
        found = AnyValue()
        found.kvlist_value.values.extend(_attributes({str(name): inner for name, inner in value.items()}))
        return found
    return AnyValue(string_value=_text(value if isinstance(value, str) else repr(value)))
