"""The identity of the request being served, readable from anywhere under it."""

from __future__ import annotations

from contextvars import ContextVar

import msgspec


class RequestContext(msgspec.Struct, frozen=True):
    """Who this request is: one set of ids for the row, the log line, the span and the answer.

    Attributes:
        prediction_id: UUIDv7 in text form, made here.
        request_id: The caller's id, verbatim within bounds, or the prediction id.
        trace_id: 32 hex digits.
        span_id: 16 hex digits, made here.
        parent_span_id: The caller's span; empty when the trace starts here.
        sampled: Whether the trace is sampled.
        parent_request_id: The prediction id of the service that called this one, when it said so.
        baggage: What calling services say of the request, by name; bounded, and not to be trusted.
        opik_trace_id: The trace in Opik whose child the request is, when the caller said so.
        opik_parent_span_id: The span in it, likewise.
    """

    prediction_id: str
    request_id: str
    trace_id: str
    span_id: str
    parent_span_id: str = ""
    sampled: bool = False
    parent_request_id: str = ""
    baggage: dict[str, str] = {}
    opik_trace_id: str = ""
    opik_parent_span_id: str = ""


current: ContextVar[RequestContext | None] = ContextVar("e2i_serving_request_context", default=None)


def current_context() -> RequestContext | None:
    """The context of the request being served here; ``None`` outside a request."""
    return current.get()
