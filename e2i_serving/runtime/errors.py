"""Error events for Sentry, or a server that speaks its protocol: one an error, none for a caller's mistakes."""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from typing import Any, Final

from e2i_serving.record import Life, Outcome, PredictionRecord
from e2i_serving.runtime.observation import MAX_ERROR_MESSAGE, without_quoted_input
from e2i_serving.settings import Settings, sentry_variable

logger = logging.getLogger("e2i_serving")

WAITING: Final = 100
"""Most errors that wait to be reported."""

CLOSING_SECONDS: Final = 2.0
MASKED: Final = "***"


class ErrorReporter:
    """Reports what failed, by a client of its own and from a thread of its own.

    The client is not the process's: whatever a library does to that one, by initialising it for its own purposes
    say, has no effect here, and nothing here changes what the service itself reports. No request body, no local
    variable and no header is sent.

    Args:
        dsn: Where events go.
        life: The worker's life: what is served, and where.
        text: Masks what must not be kept in free text; ``None`` when nothing is to be.

    Attributes:
        dropped: How many errors could not be reported, because too many waited.

    Raises:
        ImportError: The Sentry SDK is not installed.
        ValueError: The DSN is malformed.
    """

    def __init__(self, dsn: str, life: Life, *, text: Callable[[str], str] | None = None) -> None:
        import sentry_sdk  # noqa: PLC0415  # of an extra, and only with a DSN
        from sentry_sdk.integrations.logging import ignore_logger  # noqa: PLC0415

        self._life = life
        self._text = text
        self._client = sentry_sdk.Client(
            dsn,
            default_integrations=False,
            auto_enabling_integrations=False,
            include_local_variables=False,
            max_request_body_size="never",
            environment=life.deployment.environment or None,
            release=life.bento_version or None,
            server_name=life.deployment.pod or None,
            shutdown_timeout=CLOSING_SECONDS,
        )
        # Where the service reports by a client of the process, one error stays one event.
        ignore_logger("bentoml._internal.server.http_app")
        self._queue: queue.SimpleQueue[tuple[BaseException | None, PredictionRecord] | None] = queue.SimpleQueue()
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="e2i-errors", daemon=True)
        self._thread.start()

    def report(self, error: BaseException | None, record: PredictionRecord) -> None:
        """Report how a prediction failed, if the service was at fault; never blocks.

        Args:
            error: What was raised, if anything was.
            record: The prediction's record, redacted.
        """
        if record.outcome not in (Outcome.ERROR, Outcome.TIMEOUT):
            return
        if self._queue.qsize() >= WAITING:
            self.dropped += 1
            return
        self._queue.put((error, record))

    def close(self) -> None:
        """Send what is there; blocks for at most a few seconds."""
        self._queue.put(None)
        self._thread.join(CLOSING_SECONDS)
        self._client.close(timeout=CLOSING_SECONDS)

    def _run(self) -> None:
        while (item := self._queue.get()) is not None:
            try:
                self._client.capture_event(self._event(*item))
            except Exception as error:  # noqa: BLE001  # promise 4: observability never harms
                logger.warning("An error could not be reported: %s: %s", type(error).__name__, error)
            del item  # it holds the frames of a request

    def _event(self, error: BaseException | None, record: PredictionRecord) -> Any:
        from sentry_sdk.utils import event_from_exception  # noqa: PLC0415  # as above

        event: Any
        if error is None:
            event = {"message": record.error_message or f"{record.error_type} in {record.endpoint}"}
        else:
            event, _ = event_from_exception(
                error, client_options=self._client.options, mechanism={"type": "e2i_serving", "handled": False}
            )
            self._clean(event, record)
        return event | {
            "level": "error",
            "logger": "e2i_serving",
            "platform": "python",
            "timestamp": record.time_ns / 1e9 + record.duration,
            "transaction": record.route,
            "tags": self._tags(record),
            "request": {"method": record.method, "url": record.route},
            "contexts": {
                "trace": {
                    "trace_id": record.trace_id,
                    "span_id": record.span_id,
                    "parent_span_id": record.parent_span_id or None,
                    "op": "http.server",
                }
            },
        }

    def _clean(self, event: dict[str, Any], record: PredictionRecord) -> None:
        """Say of the error what its record says."""
        values = event.get("exception", {}).get("values", [])
        if values:
            values[-1]["value"] = record.error_message
        for value in values[:-1] if self._text is not None else ():
            value["value"] = MASKED
        for value in values:
            value["value"] = without_quoted_input(str(value.get("value", "")))[:MAX_ERROR_MESSAGE]
        if self._text is not None:
            for value in values:
                for frame in value.get("stacktrace", {}).get("frames", ()):
                    frame.pop("vars", None)

    def _tags(self, record: PredictionRecord) -> dict[str, str]:
        tags = {
            "service": self._life.service,
            "model": record.model,
            "model_version": record.model_version,
            "endpoint": record.endpoint,
            "outcome": str(record.outcome),
            "status": str(record.status),
            "request_id": record.request_id,
            "prediction_id": record.prediction_id,
            "trace_id": record.trace_id,
            "span_id": record.span_id,
        }
        tags |= {f"label.{name}": value for name, value in record.labels.items()}
        return {name: value[:200] for name, value in tags.items() if value}


def error_reporter(settings: Settings, life: Life, *, text: Callable[[str], str] | None = None) -> ErrorReporter | None:
    """The reporter that the settings ask for, and ``SENTRY_DSN`` where these leave it open.

    Args:
        settings: The settings.
        life: The worker's life.
        text: Masks what must not be kept in free text.

    Returns:
        The reporter; ``None`` without a DSN, or where it can't be, which is logged.
    """
    is_set = "sentry_dsn" in settings.model_fields_set
    dsn = settings.sentry_dsn.get_secret_value() if is_set else sentry_variable()
    if not dsn:
        return None
    try:
        return ErrorReporter(dsn, life, text=text)
    except ImportError:
        logger.warning("A Sentry DSN is set, and errors are not reported: install e2i-serving[sentry].")
    except ValueError as error:
        logger.warning("A Sentry DSN is set, and errors are not reported, for it is malformed: %s", error)
    return None
