"""The access log: one JSON line a request."""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime

import msgspec

from e2i_serving.record import Outcome, PredictionRecord

LOGGER_NAME = "e2i_serving.access"


class AccessLogObserver:
    """Writes what a request was, who asked and how it ended; never a payload.

    Args:
        logger: Where lines go; the package's access logger by default, which ``configure_access_log`` gives a handler.
    """

    def __init__(self, logger: logging.Logger | None = None) -> None:
        self._logger = logger or logging.getLogger(LOGGER_NAME)
        self._encode = msgspec.json.Encoder().encode

    def on_end(self, record: PredictionRecord) -> None:
        """Write the line: a warning when the service was at fault, else for information."""
        level = logging.INFO
        if record.outcome in (Outcome.ERROR, Outcome.TIMEOUT):
            level = logging.WARNING
        if not self._logger.isEnabledFor(level):
            return
        line = {
            "time": datetime.fromtimestamp(record.time_ns / 1e9, UTC).isoformat(timespec="milliseconds"),
            "level": logging.getLevelName(level).lower(),
            "event": "request",
            "method": record.method,
            "route": record.route,
            "status": record.status,
            "outcome": record.outcome,
            "duration": round(record.duration, 6),
            "items": record.items,
            "model": record.model,
            "model_version": record.model_version,
            "prediction_id": record.prediction_id,
            "request_id": record.request_id,
            "trace_id": record.trace_id,
            "span_id": record.span_id,
        }
        if record.labels:
            line["labels"] = record.labels
        if record.error_type:
            line["error_type"] = record.error_type
        # Made here, because the logger would look through the stack for a caller whom nobody asked for.
        text = self._encode(line).decode()
        self._logger.handle(logging.LogRecord(LOGGER_NAME, level, "", 0, text, None, None))


def configure_access_log() -> None:
    """Let access lines go to standard output as they are. Called once, in the worker."""
    logger = logging.getLogger(LOGGER_NAME)
    if logger.handlers:
        return
    handler = logging.StreamHandler(sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
