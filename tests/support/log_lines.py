"""Logging as a worker sets it up, into memory."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec
import pydantic
import structlog
from opentelemetry import context as otel_context

from e2i_serving.context import RequestContext
from e2i_serving.guard import FailureGuard
from e2i_serving.record import ModelInfo
from e2i_serving.redaction import redactor_of
from e2i_serving.runtime.logs import configure_logs
from e2i_serving.runtime.observation import Endpoint, Observation, observation
from e2i_serving.runtime.redacting import Redacting
from e2i_serving.runtime.tracing import request_span
from e2i_serving.settings import load_settings

SECRET = "zq" + "SECRET"  # not as a whole in any line of source, which tracebacks quote


class Lines:
    """Logging as a worker sets it up, into memory."""

    def __init__(self, **arguments):
        self.stream = io.StringIO()
        self.settings = load_settings({"log_format": "json"} | arguments, environ={}).settings
        self.context, self.render = configure_logs(self.settings, stream=self.stream)
        self.context.model = ModelInfo("scorer", "v1")

    def redact(self):
        """Redact as the settings say."""
        self.context.redactor = redactor_of(self.settings, ModelInfo())
        self.context.exception_text = Redacting(self.context.redactor, FailureGuard()).log_text

    @property
    def all(self):
        return [msgspec.json.decode(line) for line in self.stream.getvalue().splitlines()]

    @property
    def only(self):
        (line,) = self.all
        return line


@contextmanager
def logging_put_back() -> Iterator[None]:
    """Leave logging as it was."""
    loggers = [logging.getLogger(name) for name in ("", "bentoml", "uvicorn.error", "circus", "httpx")]
    before = [(each, each.handlers[:], each.level, each.propagate) for each in loggers]
    yield
    for each, handlers, level, propagate in before:
        each.handlers[:], each.propagate = handlers, propagate
        each.setLevel(level)
    structlog.reset_defaults()


@contextmanager
def a_request_served() -> Iterator[Observation]:
    """A request being served, for the length of a with-block."""
    context = RequestContext("p-1", "order-17", "a" * 32, "b" * 16)
    request = Observation(Endpoint("predict", "/predict"), context, "POST")
    request.labels = {"brand": "alpha"}
    token = observation.set(request)
    span = otel_context.attach(request_span(request))
    yield request
    otel_context.detach(span)
    observation.reset(token)


class Row(pydantic.BaseModel):
    age: int


def invalid():
    """What pydantic raises for a value that nobody should see."""
    try:
        Row.model_validate({"age": SECRET})
    except pydantic.ValidationError as error:
        return error
    raise AssertionError
