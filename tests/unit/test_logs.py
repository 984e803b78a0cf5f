"""What a worker's log lines look like, and what they carry."""

from __future__ import annotations

import contextvars
import io
import logging
import threading

import msgspec
import pydantic
import pytest
import structlog
from bentoml.exceptions import InternalServerError, NotFound
from log_lines import Lines, a_request_served, invalid, logging_put_back
from opentelemetry import context as otel_context

from e2i_serving.observers.access_log import AccessLogObserver
from e2i_serving.record import Outcome, PredictionRecord
from e2i_serving.runtime.logs import BENTOML_ERRORS, configure_logs, slow_request
from e2i_serving.settings import load_settings

KEY = "0123456789abcdef"


@pytest.fixture
def lines():
    """Make logging as a worker sets it up, and put it back as it was."""
    with logging_put_back():
        yield Lines


@pytest.fixture
def serving():
    """A request being served."""
    with a_request_served() as request:
        yield request


def test_any_line_of_a_request_carries_its_ids(lines, serving):
    """A line of the service's own logger carries the ids in the encoding of the record, the model and the labels."""
    logs = lines()
    logging.getLogger("credit.rules").info("rule %d applied", 7, extra={"rule": 7})
    line = logs.only
    assert line.pop("time")
    assert line == {
        "level": "info",
        "logger": "credit.rules",
        "event": "rule 7 applied",
        "rule": 7,
        "request_id": "order-17",
        "prediction_id": "p-1",
        "trace_id": "a" * 32,
        "span_id": "b" * 16,
        "model": "scorer",
        "model_version": "v1",
        "labels": {"brand": "alpha"},
    }


def test_structlog_loggers_write_the_same_lines(lines, serving):
    """A structlog logger of the service's writes the same form, its own fields among them."""
    logs = lines()
    structlog.get_logger("credit").warning("rule applied", rule=7)
    assert logs.only["event"] == "rule applied"
    assert (logs.only["rule"], logs.only["level"], logs.only["request_id"]) == (7, "warning", "order-17")


def test_structlog_that_is_configured_stays(lines):
    """A service's own configuration of structlog is left alone."""
    structlog.configure(processors=[structlog.processors.KeyValueRenderer()])
    lines()
    assert len(structlog.get_config()["processors"]) == 1


def test_threads_that_context_was_carried_to(lines, serving):
    """A thread that got the context, or OpenTelemetry's alone, logs with the request's ids; another without."""
    logs = lines()
    log = logging.getLogger("credit").info

    def with_opentelemetrys():
        token = otel_context.attach(carried)
        log("second")
        otel_context.detach(token)

    carried = otel_context.get_current()
    context = contextvars.copy_context()
    for run in (lambda: context.run(log, "first"), with_opentelemetrys, lambda: log("third")):
        thread = threading.Thread(target=contextvars.Context().run, args=(run,))
        thread.start()
        thread.join()
    assert [line.get("request_id") for line in logs.all] == ["order-17", "order-17", None]


def test_bentoml_writes_through_us(lines):
    """BentoML's loggers lose their handlers; a library that logs each call is quietened."""
    theirs = logging.StreamHandler(io.StringIO())
    logging.getLogger("bentoml").addHandler(theirs)
    logging.getLogger("bentoml").setLevel(logging.INFO)
    logs = lines()
    logging.getLogger("bentoml").info("Service credit initialized")
    logging.getLogger("httpx").info("HTTP Request: POST ...")
    assert logs.only["event"] == "Service credit initialized"
    assert theirs.stream.getvalue() == ""


@pytest.mark.parametrize("error", [invalid(), NotFound("no such patient")])
def test_refusal_has_no_traceback_and_no_input(lines, error):
    """What BentoML logs for a 4xx has neither a traceback nor the input, and is a warning."""
    logs = lines()
    logging.getLogger(BENTOML_ERRORS).error("Exception on %s [%s]", "/predict", "POST", exc_info=error)
    assert "exception" not in logs.only
    assert logs.only["level"] == "warning"
    assert logs.only["error_message"]
    assert "zqSECRET" not in logs.stream.getvalue()


def test_failure_has_its_traceback_once_and_without_input(lines):
    """What BentoML logs for a 500 has its traceback in a field, without the input that a cause quotes."""
    logs = lines()
    try:
        try:
            raise invalid()
        except pydantic.ValidationError as cause:
            raise InternalServerError("the row can't be scored") from cause
    except InternalServerError:
        logging.getLogger(BENTOML_ERRORS).exception("Exception on /predict [POST]")
    assert logs.only["level"] == "error"
    assert logs.only["error_type"] == "bentoml.InternalServerError"
    assert "Traceback" in logs.only["exception"]
    assert "input_value=***" in logs.only["exception"]
    assert "zqSECRET" not in logs.stream.getvalue()


def test_redaction_reaches_log_lines(lines, serving):
    """Patterns are applied to messages, fields and tracebacks; ids and labels stand as they do in the record."""
    logs = lines(
        redaction_patterns=("email",),
        redaction_rules=({"path": "request_id", "action": "hash"}, {"path": "labels.brand", "action": "mask"}),
        redaction_key=KEY,
    )
    logs.redact()
    try:
        raise RuntimeError("unknown ann@example.org")  # noqa: TRY301  # for its traceback
    except RuntimeError:
        logging.getLogger("credit").exception("for bob@example.org", extra={"who": "eve@example.org"})
    text = logs.stream.getvalue()
    assert "@example.org" not in text
    assert "order-17" not in text
    assert logs.only["request_id"].startswith("hmac:")
    assert logs.only["labels"] == {"brand": "***"}
    assert "RuntimeError" in logs.only["exception"]


def test_what_cannot_be_redacted_is_not_shown(lines, serving):
    """A redactor that fails hides the request id and the labels."""
    logs = lines(redaction_patterns=("email",))
    logs.redact()

    class Fails(type(logs.context.redactor)):
        def labels(self, labels):
            raise RuntimeError

    logs.context.redactor.__class__ = Fails
    logging.getLogger("credit").info("hello")
    assert (logs.only["request_id"], "labels" in logs.only) == ("", False)


def test_level_is_the_settings(lines):
    """What is below the level is not written, BentoML's neither."""
    logs = lines(log_level="warning")
    logging.getLogger("bentoml").setLevel(logging.INFO)
    logging.getLogger("bentoml").info("no")
    logging.getLogger("credit").info("no")
    logging.getLogger("credit").warning("yes")
    assert logs.only["event"] == "yes"


def test_any_object_can_be_logged(lines):
    """A field that JSON has no form for is written as its repr."""
    logs = lines()
    logging.getLogger("credit").info("hello", extra={"what": {1, 2}, "how": object})
    assert logs.only["how"] == "<class 'object'>"


def test_sending_threads_repeat_themselves_seldom(lines):
    """A line of a thread that sends spans or events is written once a minute, whatever it names; others always."""
    logs = lines()

    def complain():
        for number in range(50):
            logging.getLogger("urllib3.connectionpool").warning("Retrying (%s)", number)
            logging.getLogger("opentelemetry.exporter").error("Failed to export")

    for name in ("sentry-sdk.BackgroundWorker", "e2i-spans", "own"):
        thread = threading.Thread(target=complain, name=name)
        thread.start()
        thread.join()
    assert [line["event"] for line in logs.all[:2]] == ["Retrying (0)", "Failed to export"]
    assert len(logs.all) == 2 + 100


def test_console_is_for_people(lines):
    """The console form is one readable line with the ids."""
    logs = lines(log_format="console")
    logging.getLogger("credit").info("rule applied")
    (line,) = logs.stream.getvalue().splitlines()
    assert "rule applied" in line
    assert not line.startswith("{")
    assert logs.render({"time": "now", "level": "info", "event": "request", "status": 200})


def test_off_leaves_logging_alone():
    """With ``off`` nothing is configured."""
    before = logging.getLogger().handlers[:]
    assert configure_logs(load_settings({"log_format": "off"}, environ={}).settings) is None
    assert logging.getLogger().handlers == before


def test_slow_request_says_its_phases():
    """The line of a slow request says how long it took and where."""
    record = PredictionRecord(
        "p", 0, 1.5, Outcome.OK, 200, method="POST", route="/predict", phases={"queue": 0.2, "predict": 1.2}
    )
    message, fields = slow_request(record)
    assert message == "POST /predict took 1.500 s (queue 0.200 s, predict 1.200 s)"
    assert fields["phases"] == {"queue": 0.2, "predict": 1.2}


def access(sample_rate, **options):
    """An access log into memory."""
    stream = io.StringIO()
    logger = logging.Logger("access")  # noqa: LOG001  # of nobody else's
    logger.addHandler(logging.StreamHandler(stream))
    return AccessLogObserver(logger, sample_rate=sample_rate, **options), stream


def test_access_log_is_sampled_by_trace_and_errors_always_written():
    """Of answers that are 2xx a fraction has a line, all of a trace's or none; every other answer has one."""
    observer, stream = access(0.25)
    for number in range(1000):
        trace = f"{number * 0x9E3779B97F4A7C15 % 2**128:032x}"
        record = PredictionRecord("p", 0, 0.1, Outcome.OK, 200, trace_id=trace)
        observer.on_end(record)
        observer.on_end(record)
        observer.on_end(PredictionRecord("p", 0, 0.1, Outcome.INVALID, 400, trace_id=trace))
    lines = [msgspec.json.decode(line) for line in stream.getvalue().splitlines()]
    well = [line["trace_id"] for line in lines if line["status"] == 200]
    assert len(lines) - len(well) == 1000
    assert 350 < len(well) < 650
    assert all(well.count(trace) == 2 for trace in set(well))


def test_access_log_takes_the_form_of_the_others():
    """The access line is rendered as the other lines are."""
    observer, stream = access(1.0, render=lambda line: f"{line['event']} {line['status']}")
    observer.on_end(PredictionRecord("p", 0, 0.1, Outcome.ERROR, 500))
    assert stream.getvalue() == "request 500\n"
