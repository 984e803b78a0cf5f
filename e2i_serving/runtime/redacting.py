"""Redaction as part of serving: what happens to a record whose redaction fails."""

from __future__ import annotations

import traceback

import msgspec

from e2i_serving.guard import FailureGuard
from e2i_serving.journal import without_payload
from e2i_serving.record import LateResult, Outcome, PredictionRecord, StreamEnd
from e2i_serving.redaction import Redactor
from e2i_serving.runtime.observation import describe_error

REDACTION_FAILED = "redaction-failed"
"""Name in ``redactions`` of what was left out because it could not be redacted."""


class Redacting:
    """Redacts before anything is kept; what can't be redacted is left out.

    Args:
        redactor: What is taken out; nothing without one.
        guard: Takes what goes wrong.
    """

    def __init__(self, redactor: Redactor | None, guard: FailureGuard) -> None:
        self._redactor = redactor
        self._guard = guard

    def record(self, record: PredictionRecord) -> PredictionRecord:
        """A record, redacted; never raises unless the guard is strict."""
        if self._redactor is None:
            return record
        try:
            return self._redactor.record(record)
        except Exception as error:  # noqa: BLE001  # promise 4: observability never harms
            self._guard.caught("redaction", error)
            return msgspec.structs.replace(
                without_payload(record, REDACTION_FAILED),
                request_id=record.prediction_id,
                parent_request_id="",
                principal="",
                labels={},
                error_message="",
            )

    def stream_end(self, event: StreamEnd) -> StreamEnd:
        """The end of an answer, redacted; never raises unless the guard is strict."""
        if self._redactor is None:
            return event
        try:
            return self._redactor.stream_end(event)
        except Exception as error:  # noqa: BLE001  # as above
            self._guard.caught("redaction", error)
            return msgspec.structs.replace(event, error_message="")

    def late_result(self, event: LateResult) -> LateResult:
        """A late result, redacted; never raises unless the guard is strict."""
        if self._redactor is None:
            return event
        try:
            return self._redactor.late_result(event)
        except Exception as error:  # noqa: BLE001  # as above
            self._guard.caught("redaction", error)
            return msgspec.structs.replace(
                event, outputs={}, error_message="", redactions=(*event.redactions, REDACTION_FAILED)
            )

    def log_text(self, error: BaseException) -> str | None:
        """An exception as a log may show it, with its traceback; ``None`` when it may be shown as it is."""
        if self._redactor is None:
            return None
        kind, message = describe_error(error, Outcome.ERROR)
        message = self.stream_end(StreamEnd("", 0.0, Outcome.ERROR, error_message=message)).error_message
        # The frames alone: a traceback's last line is the message, and so are those of its causes.
        frames = "".join(traceback.format_tb(error.__traceback__))
        return f"{kind}: {message}\n{frames}".rstrip()
