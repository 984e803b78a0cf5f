"""Log lines of a worker and of the relay: structured, with the ids of the request they belong to."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Callable, Mapping, MutableMapping
from types import TracebackType
from typing import Any, Final, TextIO

import msgspec
import structlog
from opentelemetry import trace as otel_trace
from structlog.typing import EventDict, Processor, WrappedLogger

from e2i_serving.record import ModelInfo, Outcome, PredictionRecord
from e2i_serving.redaction import Redactor
from e2i_serving.runtime.log_values import plain_field
from e2i_serving.runtime.observation import Observation, describe_error, without_quoted_input
from e2i_serving.runtime.tracing import request_of
from e2i_serving.settings import Settings

Render = Callable[[MutableMapping[str, Any]], str]
"""Makes the text of a line from its fields."""

BENTOML_ERRORS: Final = "bentoml._internal.server.http_app"
"""The logger by which BentoML says that a request failed, the client's fault or not."""

NOISY: Final = ("httpx", "httpcore", "urllib3", "grpc", "uvicorn.access", "alembic")
"""Libraries that log each thing they do; the access log and the spans of a call say more."""

SENDING_THREADS: Final = ("e2i-", "sentry-sdk.")
"""How the names of the threads begin that send spans and error events."""

REPEAT_AFTER_SECONDS: Final = 60.0

MOST_SAID: Final = 100
"""Most different lines of theirs that are remembered."""

_LEVELS: Final = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
_FIRST: Final = ("time", "level", "logger", "event")


class LogContext:
    """What each line of this process carries, beside what it says.

    Attributes:
        model: The model served.
        redactor: What is taken out of lines as it is of records; nothing without one.
        exception_text: Tells an exception as a log may show it; ``None`` from it when it may be shown as it is.
    """

    def __init__(self) -> None:
        self.model = ModelInfo()
        self.redactor: Redactor | None = None
        self.exception_text: Callable[[BaseException], str | None] | None = None

    def add(self, logger: WrappedLogger, method: str, line: EventDict) -> EventDict:  # noqa: ARG002  # structlog's signature
        """Add the ids of the request being served, as they stand in its record and its span."""
        request = request_of()
        if request is None:
            return line
        context = request.context
        line["request_id"], labels = self._of_request(request)
        if request.endpoint.name:
            line["prediction_id"] = context.prediction_id
        line["trace_id"] = context.trace_id
        # A span of the service's own, if the line belongs to one.
        span = otel_trace.get_current_span().get_span_context()
        line["span_id"] = f"{span.span_id:016x}" if span.is_valid else context.span_id
        line["model"] = self.model.name
        line["model_version"] = self.model.version
        if labels:
            line["labels"] = labels
        return line

    def explain(self, logger: WrappedLogger, method: str, line: EventDict) -> EventDict:  # noqa: ARG002  # structlog's signature
        """Tell of an exception: with its traceback, unless the caller was at fault."""
        error = _error_of(line.pop("exc_info", None))
        if error is None:
            return line
        is_refusal = line.get("logger") == BENTOML_ERRORS and is_callers_fault(error)
        kind, message = describe_error(error, Outcome.INVALID if is_refusal else Outcome.ERROR)
        text = self.exception_text(error) if self.exception_text is not None else None
        if text is None:
            text = "".join(traceback.format_exception(error)).rstrip()
        else:
            message = text.partition("\n")[0].removeprefix(f"{kind}: ")
        line["error_type"] = kind
        line["error_message"] = message
        if is_refusal:
            line["level"] = "warning"
        else:
            line["exception"] = text
        return line

    def clean(self, logger: WrappedLogger, method: str, line: EventDict) -> EventDict:  # noqa: ARG002  # structlog's signature
        """Take out of the fields what must not be kept, whatever they hold."""
        for name, value in line.items():
            if not isinstance(value, str):
                line[name] = plain_field(value, self._cleaned)
            elif name not in _IDS:
                line[name] = self._cleaned(value)
        return line

    def _cleaned(self, text: str) -> str:
        # Half a character, as of a file's name, would keep the line from being written.
        text = without_quoted_input(text if text.isascii() else text.encode("utf-8", "backslashreplace").decode())
        if self.redactor is None:
            return text
        # By line: of a text that is too long to search, nothing would be left.
        return "\n".join(map(self.redactor.text, text.split("\n")))

    def _of_request(self, request: Observation) -> tuple[str, dict[str, str]]:
        """Request id and labels, as they stand in the record."""
        if self.redactor is None:
            return request.context.request_id, request.labels
        try:
            return self.redactor.request_id(request.context.request_id), self.redactor.labels(request.labels)
        except Exception:  # noqa: BLE001  # what can't be redacted is not shown
            return "", {}


class Seldom(logging.Filter):
    """Lets what a sending thread says be said once a minute: while nobody takes what it sends, it says it each time."""

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the line is written. From any thread."""
        if not (record.threadName or "").startswith(SENDING_THREADS):
            return True
        key = (record.name, str(record.msg)[:200])
        if record.created - self._said.get(key, -REPEAT_AFTER_SECONDS) < REPEAT_AFTER_SECONDS:
            return False
        if len(self._said) >= MOST_SAID:
            self._said.clear()
        self._said[key] = record.created
        return True


_IDS: Final = frozenset(
    {"time", "level", "logger", "request_id", "prediction_id", "trace_id", "span_id", "model", "model_version"}
)


def configure_logs(
    settings: Settings, *, stream: TextIO | None = None, tee: Callable[[Render], Render] | None = None
) -> tuple[LogContext, Render] | None:
    """Let the standard ``logging`` write structured lines, BentoML's and the service's own included.

    Called once, in a process that is a worker or a relay. A service that has configured structlog itself keeps
    that; otherwise its structlog loggers write the same lines.

    Args:
        settings: Say the form and the level.
        stream: Where lines go; standard output by default.
        tee: Makes of what renders a line what also takes it elsewhere.

    Returns:
        What lines carry, and what renders one; ``None`` when logging is left as it is.
    """
    if settings.log_format == "off":
        return None
    stream = stream or sys.stdout
    console = settings.log_format == "console" or (settings.log_format == "auto" and stream.isatty())
    render = _console(colors=stream.isatty()) if console else json_line
    if tee is not None:
        render = tee(render)
    context = LogContext()
    level = _LEVELS[settings.log_level]
    bentoml = logging.getLogger("bentoml")
    if bentoml.level == logging.DEBUG:  # asked for on BentoML's command line
        level = logging.DEBUG
    handler = logging.StreamHandler(stream)
    handler.setLevel(level)
    handler.addFilter(Seldom())
    handler.setFormatter(_formatter(context, render))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level)
    for name in ("bentoml", "uvicorn.error", "circus"):
        theirs = logging.getLogger(name)
        theirs.handlers.clear()
        theirs.propagate = True
    for name in NOISY:
        if logging.getLogger(name).level == logging.NOTSET:
            logging.getLogger(name).setLevel(logging.WARNING)
    if not structlog.is_configured():
        structlog.configure(
            processors=[
                structlog.contextvars.merge_contextvars,
                structlog.stdlib.filter_by_level,
                structlog.stdlib.PositionalArgumentsFormatter(),
                *_described(),
                structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
            ],
            logger_factory=structlog.stdlib.LoggerFactory(),
            wrapper_class=structlog.stdlib.BoundLogger,
            cache_logger_on_first_use=True,
        )
    return context, render


def json_line(line: MutableMapping[str, Any]) -> str:
    """One JSON object; what JSON has no form for is written as its ``repr``."""
    return msgspec.json.encode(line, enc_hook=repr).decode("utf-8", "replace")


def slow_request(record: PredictionRecord) -> tuple[str, dict[str, Any]]:
    """The message and the fields of the line that says a prediction was slow."""
    phases = {phase: round(seconds, 6) for phase, seconds in record.phases.items()}
    told = ", ".join(f"{phase} {seconds:.3f} s" for phase, seconds in phases.items())
    message = f"{record.method} {record.route} took {record.duration:.3f} s ({told or 'no phase was reached'})"
    return message, {"duration": round(record.duration, 6), "status": record.status, "phases": phases}


def is_callers_fault(error: BaseException) -> bool:
    """Whether BentoML answers what was raised with a status below 500."""
    if type(error).__module__.partition(".")[0].startswith("pydantic"):
        return True
    status = getattr(getattr(error, "error_code", None), "value", 500)
    return isinstance(status, int) and status < 500  # noqa: PLR2004  # HTTP's own number


def _formatter(context: LogContext, render: Render) -> logging.Formatter:
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=[structlog.stdlib.ExtraAdder(), *_described()],
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            context.explain,
            context.clean,
            context.add,  # redacted as the record is, and no more
            lambda _logger, _method, line: render({**_first(line), **line}),
        ],
    )


def _described() -> list[Processor]:
    return [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]


def _first(line: Mapping[str, Any]) -> dict[str, Any]:
    return {name: line[name] for name in _FIRST if name in line}


def _error_of(given: Any) -> BaseException | None:
    if given is True:
        given = sys.exc_info()
    if isinstance(given, BaseException):
        return given
    known: tuple[type[BaseException], BaseException, TracebackType] | tuple[None, None, None] | None = given or None
    return known[1] if known else None


def _console(*, colors: bool) -> Render:
    renderer = structlog.dev.ConsoleRenderer(colors=colors, timestamp_key="time", sort_keys=False)

    def render(line: MutableMapping[str, Any]) -> str:
        return renderer(None, "", line)

    return render
