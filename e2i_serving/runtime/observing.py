"""Shows each finished prediction to all that look at it."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from e2i_serving.guard import FailureGuard
from e2i_serving.observers.access_log import AccessLogObserver, configure_access_log
from e2i_serving.record import Life, PredictionRecord
from e2i_serving.redaction import Redactor
from e2i_serving.runtime.errors import error_reporter
from e2i_serving.runtime.logs import slow_request
from e2i_serving.runtime.redacting import Redacting
from e2i_serving.runtime.telemetry import Telemetry
from e2i_serving.runtime.tracing import phase_ends
from e2i_serving.settings import Settings
from e2i_serving.typing import Observer

logger = logging.getLogger("e2i_serving")


class Observing:
    """Shows each finished prediction to the observers, and tells of slow and of failed ones. On the event loop.

    Args:
        settings: What looks at predictions.
        life: The worker's life.
        telemetry: The process's tracing and log lines.
        redactor: What is taken out of log lines and error events as it is of records.
        guard: Takes what fails.
        access_log: Whether BentoML's own settings ask for an access log.
        observers: More observers, which come first.
    """

    def __init__(
        self,
        settings: Settings,
        life: Life,
        telemetry: Telemetry,
        redactor: Redactor | None,
        guard: FailureGuard,
        *,
        access_log: bool,
        observers: Sequence[tuple[str, Observer]],
    ) -> None:
        self._guard = guard
        self._slow = settings.slow_request_seconds
        self._tracing = telemetry.tracing
        self._log_export = telemetry.log_export
        self._errors = error_reporter(settings, life, text=redactor.text if redactor is not None else None)
        self._observers: list[tuple[str, Observer]] = [*observers]
        if telemetry.logs is not None:
            telemetry.logs.model = life.model
            telemetry.logs.redactor = redactor
            telemetry.logs.exception_text = Redacting(redactor, guard).log_text
        if settings.access_log_enabled and access_log:
            configure_access_log()
            log = AccessLogObserver(render=telemetry.render, sample_rate=settings.access_log_sample_rate)
            self._observers.append(("access log", log))
        if telemetry.tracing.sink is not None:
            from e2i_serving.observers.spans import SpanObserver  # noqa: PLC0415  # only where spans are made

            self._observers.append(("spans", SpanObserver(telemetry.tracing.sink, phase_ends)))

    @property
    def spans_dropped(self) -> int:
        """How many spans were lost."""
        return self._tracing.sink.dropped if self._tracing.sink is not None else 0

    @property
    def events_dropped(self) -> int:
        """How many error events were lost."""
        return self._errors.dropped if self._errors is not None else 0

    @property
    def lines_dropped(self) -> int:
        """How many log lines were not sent."""
        return self._log_export.dropped if self._log_export is not None else 0

    def add(self, part: str, observer: Observer) -> None:
        """Show predictions to one more observer.

        Args:
            part: Its name, under which its faults are counted.
            observer: The observer.
        """
        self._observers.append((part, observer))

    def show(self, record: PredictionRecord, error: BaseException | None) -> None:
        """Show a finished prediction to all; never raises unless the guard is strict.

        Args:
            record: The prediction, redacted.
            error: What was raised, if anything was.
        """
        for part, observer in self._observers:
            try:
                observer.on_end(record)
            except Exception as fault:  # noqa: BLE001  # promise 4: observability never harms
                self._guard.caught(part, fault)
        if self._slow and record.duration >= self._slow:
            message, fields = slow_request(record)
            logger.warning(message, extra=fields)
        if self._errors is not None:
            self._errors.report(error, record)

    def close(self) -> None:
        """Send what waits; blocks for at most a few seconds."""
        self._tracing.close()
        if self._errors is not None:
            self._errors.close()
        if self._log_export is not None:
            self._log_export.close()
