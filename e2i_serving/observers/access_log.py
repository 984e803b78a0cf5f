"""The access log: one line a request."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, MutableMapping
from datetime import UTC, datetime
from typing import Any, Final, TextIO

import msgspec

from e2i_serving.record import Outcome, PredictionRecord

LOGGER_NAME = "e2i_serving.access"

FAILED: Final = 400
"""HTTP's first status of an answer that is not what was asked for."""


class AccessLogObserver:
    """Writes what a request was, who asked and how it ended; never a payload.

    Args:
        logger: Where lines go; the package's access logger by default, which ``configure_access_log`` gives a handler.
        render: Makes the text of a line from its fields; JSON by default.
        sample_rate: Fraction of the answers that are 2xx or 3xx with a line, all of a trace's or none.
    """

    def __init__(
        self,
        logger: logging.Logger | None = None,
        *,
        render: Callable[[MutableMapping[str, Any]], str] | None = None,
        sample_rate: float = 1.0,
    ) -> None:
        self._logger = logger or logging.getLogger(LOGGER_NAME)
        self._render = render
        self._encode = msgspec.json.Encoder().encode
        # A trace id's last 8 hex digits are its most random ones, whoever made it.
        self._below = None if sample_rate >= 1.0 else int(sample_rate * (1 << 32))

    def on_end(self, record: PredictionRecord) -> None:
        """Write the line: a warning when the service was at fault, else for information."""
        level = logging.INFO
        outcome = record.outcome
        if outcome is Outcome.ERROR or outcome is Outcome.TIMEOUT:
            level = logging.WARNING
        if (
            self._below is not None
            and (outcome is Outcome.OK or 0 < record.status < FAILED)
            and int(record.trace_id[-8:] or "0", 16) >= self._below
        ):
            return
        if not self._logger.isEnabledFor(level):
            return
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.time_ns / 1e9, UTC).isoformat(timespec="milliseconds"),
            "level": "info" if level == logging.INFO else "warning",
            "event": "request",
            "method": record.method,
            "route": record.route,
            "status": record.status,
            "outcome": outcome,
            "duration": round(record.duration, 6),
            "items": record.items,
            "model": record.model,
            "model_version": record.model_version,
            "prediction_id": record.prediction_id,
            "request_id": record.request_id,
            "trace_id": record.trace_id,
            "span_id": record.span_id,
        }
        if record.parent_request_id:
            line["parent_request_id"] = record.parent_request_id
        if record.labels:
            line["labels"] = record.labels
        if record.error_type:
            line["error_type"] = record.error_type
        text = self._encode(line).decode() if self._render is None else self._render(line)
        # Made here, because the logger would look through the stack for a caller whom nobody asked for.
        self._logger.handle(logging.LogRecord(LOGGER_NAME, level, "", 0, text, None, None))


def configure_access_log(stream: TextIO | None = None) -> None:
    """Let access lines go to a stream as they are. Called once, in the worker.

    Args:
        stream: Where they go; standard output by default.
    """
    logger = logging.getLogger(LOGGER_NAME)
    if logger.handlers:
        return
    handler = logging.StreamHandler(stream or sys.stdout)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    logger.propagate = False
