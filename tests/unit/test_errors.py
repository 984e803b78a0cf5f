"""Which errors are reported to Sentry, and what of them."""

from __future__ import annotations

import logging
import re
import sys
import time

import msgspec
import pydantic
import pytest
import sentry_sdk
from hypothesis import given
from hypothesis import strategies as st

from e2i_serving.record import Deployment, Life, ModelInfo, Outcome, PredictionRecord
from e2i_serving.redaction import redactor_of
from e2i_serving.runtime import errors
from e2i_serving.runtime.errors import ErrorReporter, error_reporter
from e2i_serving.runtime.observation import without_quoted_input
from e2i_serving.settings import load_settings
from e2i_serving.testing import EnvelopeReceiver

LIFE = Life(
    "life-1",
    "credit",
    1,
    1,
    bento_version="v7",
    model=ModelInfo("scorer", "3"),
    deployment=Deployment(environment="staging", pod="pod-1"),
)


def record(outcome=Outcome.ERROR, status=500, **fields):
    """A prediction that failed."""
    values = {
        "endpoint": "predict",
        "route": "/predict",
        "method": "POST",
        "request_id": "order-17",
        "trace_id": "a" * 32,
        "span_id": "b" * 16,
        "model": "scorer",
        "model_version": "3",
        "labels": {"brand": "alpha"},
        "error_type": "RuntimeError",
        "error_message": "the model broke",
    }
    return PredictionRecord("p-1", time.time_ns(), 0.1, outcome, status, **(values | fields))


def raised(message="the model broke", cause=None):
    """An error with a traceback through a frame whose locals nobody should see."""
    password = "zqSECRET"  # noqa: F841  # looked for in what is sent
    try:
        raise RuntimeError(message) from cause  # noqa: TRY301  # for its traceback
    except RuntimeError as error:
        return error


@pytest.fixture
def receiver():
    """A receiver of events."""
    with EnvelopeReceiver() as running:
        yield running


@pytest.fixture
def reporter(receiver):
    """A reporter to it."""
    made = ErrorReporter(receiver.dsn, LIFE)
    yield made
    made.close()


def test_event_tells_the_error_and_the_ids(reporter, receiver):
    """An event has the exception, the ids in the record's encoding, the model, the labels; no body and no locals."""
    reporter.report(raised(), record())
    reporter.close()
    (event,) = receiver.events
    (value,) = event["exception"]["values"]
    assert (value["type"], value["value"]) == ("RuntimeError", "the model broke")
    assert value["stacktrace"]["frames"][-1]["function"] == "raised"
    assert event["tags"] == {
        "service": "credit",
        "model": "scorer",
        "model_version": "3",
        "endpoint": "predict",
        "outcome": "error",
        "status": "500",
        "request_id": "order-17",
        "prediction_id": "p-1",
        "trace_id": "a" * 32,
        "span_id": "b" * 16,
        "label.brand": "alpha",
    }
    assert event["contexts"]["trace"]["trace_id"] == "a" * 32
    assert event["contexts"]["trace"]["span_id"] == "b" * 16
    assert (event["transaction"], event["environment"], event["release"]) == ("/predict", "staging", "v7")
    assert event["request"] == {"method": "POST", "url": "/predict"}
    assert not any("vars" in frame for frame in value["stacktrace"]["frames"])


@pytest.mark.parametrize(
    ("outcome", "status"), [(Outcome.OK, 200), (Outcome.INVALID, 400), (Outcome.REJECTED, 429), (Outcome.CANCELLED, 0)]
)
def test_callers_mistakes_are_no_events(reporter, receiver, outcome, status):
    """What is not the service's fault is not reported."""
    reporter.report(raised(), record(outcome, status))
    reporter.close()
    assert receiver.events == []


def test_timeout_without_an_exception_is_an_event(reporter, receiver):
    """A time-out that raised nothing is reported with its ids."""
    reporter.report(None, record(Outcome.TIMEOUT, 504, error_type="timeout", error_message=""))
    reporter.close()
    (event,) = receiver.events
    assert event["message"] == "timeout in predict"
    assert event["tags"]["request_id"] == "order-17"


def test_event_is_redacted(receiver):
    """The message is the record's; with patterns set, what the causes said is masked."""
    settings = load_settings({"redaction_patterns": ["email"]}, environ={}).settings
    redactor = redactor_of(settings, ModelInfo())
    reporter = ErrorReporter(receiver.dsn, LIFE, text=redactor.text)
    error = raised("no ann@example.org", ValueError("was bob@example.org"))
    reporter.report(error, redactor.record(record(error_message="no ann@example.org")))
    reporter.close()
    assert "@example.org" not in msgspec.json.encode(receiver.events).decode().replace("@example.org\\", "")
    assert [value["value"] for value in receiver.events[0]["exception"]["values"]] == ["***", "no ***"]


class Row(pydantic.BaseModel):
    """What the service validates."""

    age: int


@pytest.mark.parametrize("length", [20, 2000])
def test_input_that_a_failed_validation_quotes_is_masked(reporter, receiver, length):
    """Of causes, and of a message that holds one; where it stands as far back as a message is kept, too."""
    secret = "zq" + "QUOTED"  # not as a whole in the source, which frames quote
    try:
        Row.model_validate({"age": secret})
    except pydantic.ValidationError as error:
        quoted = str(error)
        cause = ValueError(f"{'x' * (length - 1000)} {quoted}")
        cause.__cause__ = error
    reporter.report(raised(quoted, cause), record(error_message=quoted))
    reporter.close()
    (event,) = receiver.events
    assert [value["type"] for value in event["exception"]["values"]] == [
        "ValidationError",
        "ValueError",
        "RuntimeError",
    ]
    assert "input_value=***" in event["exception"]["values"][0]["value"]
    assert secret not in msgspec.json.encode(event).decode()


@given(st.lists(st.sampled_from(["input_value=", ", input_type=", "x", "\n", "secret"]), max_size=12).map("".join))
def test_what_is_quoted_is_found_as_a_pattern_would(text):
    """Each quotation that has an end is masked, and nothing else; the text is gone over once."""
    masked = re.sub(r"input_value=.*?, input_type=", "input_value=***, input_type=", text, flags=re.DOTALL)
    assert without_quoted_input(text) == masked


def test_library_that_takes_the_process_client_over_changes_nothing(reporter, receiver):
    """Another initialisation of the SDK, as some libraries do at import, neither takes our events nor gets them."""
    with EnvelopeReceiver() as theirs:
        before = sentry_sdk.get_global_scope().client
        hook = sys.excepthook
        try:
            sentry_sdk.init(theirs.dsn, default_integrations=False)
            reporter.report(raised(), record())
            reporter.close()
            sentry_sdk.flush()
        finally:
            sentry_sdk.get_client().close()
            sentry_sdk.get_global_scope().set_client(before)
            sys.excepthook = hook
        assert len(receiver.events) == 1
        assert theirs.events == []


def test_transport_that_is_down_is_not_felt(receiver):
    """With nobody to take events, reporting goes on at once, and closing takes a bounded time."""
    with EnvelopeReceiver() as gone:
        dsn = gone.dsn
    reporter = ErrorReporter(dsn, LIFE)
    for _ in range(50):
        reporter.report(raised(), record())
    reporter.close()


def test_flood_is_bounded(receiver, monkeypatch):
    """Errors beyond those that may wait are counted, not kept."""
    monkeypatch.setattr(errors, "WAITING", 0)
    reporter = ErrorReporter(receiver.dsn, LIFE)
    reporter.report(raised(), record())
    reporter.close()
    assert (reporter.dropped, receiver.events) == (1, [])


@pytest.mark.parametrize(("dsn", "said"), [("", None), ("nonsense", "malformed")])
def test_without_a_usable_dsn_there_is_no_reporter(dsn, said, caplog, monkeypatch):
    """Without a DSN nothing is reported; with a malformed one a line says so."""
    monkeypatch.delenv("SENTRY_DSN", raising=False)
    with caplog.at_level(logging.WARNING):
        assert error_reporter(load_settings({"sentry_dsn": dsn}, environ={}).settings, LIFE) is None
    assert (said or "") in caplog.text


def test_missing_sdk_is_said(caplog, monkeypatch):
    """A DSN without the SDK is said, and changes nothing else."""
    monkeypatch.setenv("SENTRY_DSN", "http://public@127.0.0.1:9/1")
    monkeypatch.setitem(sys.modules, "sentry_sdk", None)
    assert error_reporter(load_settings({}, environ={}).settings, LIFE) is None
    assert "e2i-serving[sentry]" in caplog.text
