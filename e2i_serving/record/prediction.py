"""The record of one request for predictions: built once, in the worker, and never changed."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import msgspec

from e2i_serving.record.columns import Column
from e2i_serving.record.provenance import FeatureProvenance

SCHEMA_VERSION = 1
"""Version of the record's schema. Fields are only ever added, with a default; each release reads the
previous one's segments."""


class Outcome(StrEnum):
    """How a request ended."""

    OK = "ok"
    INVALID = "invalid"
    """The request was at fault: it can't be decoded, fails validation, or asks for what isn't there."""
    ERROR = "error"
    """The service was at fault: the model or the code around it raised."""
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    """The client went away, or the server stopped, before the answer was sent."""
    REJECTED = "rejected"
    """Refused without being tried: overload, or not authorised."""
    INTERRUPTED = "interrupted"
    """A stream began and its end was never recorded."""


class PredictionRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One request and the items in it, as decoded and as answered.

    Attributes:
        prediction_id: UUIDv7 in text form, made when the request arrived. An item's key is
            (prediction id, index).
        time_ns: Wall clock at arrival, nanoseconds since the epoch.
        duration: Seconds from arrival to the first byte of the answer, by the monotonic clock.
        outcome: How it ended.
        status: The HTTP status sent; 0 when none could be.
        endpoint: The API method's name.
        route: The route's path template, never the raw path.
        method: The HTTP method.
        request_id: The caller's request id, verbatim within bounds, or the prediction id. Not unique.
        trace_id: W3C trace id, 32 hex digits.
        span_id: This request's span id, 16 hex digits.
        parent_span_id: The caller's span id; empty when the trace starts here.
        parent_request_id: The request id of the service that called this one.
        sampled: Whether the trace is sampled.
        principal: Who asked, when known.
        principal_source: Where that came from: ``token``, ``mtls``, ``header``.
        phases: Seconds by phase: queue, decode, features, preprocess, predict, postprocess, encode.
        model: The model's name.
        model_version: The model's version.
        task: The model's task.
        error_type: The exception's class, or a short slug such as ``timeout``; empty when ok.
        error_message: Its message, bounded.
        labels: Business labels, allow-listed by the service.
        attributes: Free-form data the service attached.
        items: How many predictions (rows) the request asked for; 0 when it could not be decoded.
        entities: By entity key name, one value an item.
        inputs: By name, one value an item.
        outputs: By name, one value an item. The names that stores give a column of their own are
            listed in ``e2i_serving.record.rows``.
        request_bytes: Size of the request's body; -1 when not known.
        response_bytes: Size of the response's body; -1 when not known.
        sampling_fraction: The fraction of such requests that are kept; 1.0 when all are.
        redactions: Names of what redaction changed something by, behind the part of the record if it is no path.
        salt: Random bytes from which commitment salts are derived.
        retention: How long it is to be kept: the name of a retention class.
        feature_provenance: How its features were fetched; ``None`` when they came with the request.
    """

    prediction_id: str
    time_ns: int
    duration: float
    outcome: Outcome
    status: int
    endpoint: str = ""
    route: str = ""
    method: str = ""
    request_id: str = ""
    trace_id: str = ""
    span_id: str = ""
    parent_span_id: str = ""
    parent_request_id: str = ""
    sampled: bool = False
    principal: str = ""
    principal_source: str = ""
    phases: dict[str, float] = {}
    model: str = ""
    model_version: str = ""
    task: str = ""
    error_type: str = ""
    error_message: str = ""
    labels: dict[str, str] = {}
    attributes: dict[str, Any] = {}
    items: int = 0
    entities: dict[str, Column] = {}
    inputs: dict[str, Column] = {}
    outputs: dict[str, Column] = {}
    request_bytes: int = -1
    response_bytes: int = -1
    sampling_fraction: float = 1.0
    redactions: tuple[str, ...] = ()
    salt: bytes = b""
    retention: str = ""
    feature_provenance: FeatureProvenance | None = None
