"""From raw headers to one request context."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import uuid_utils

from e2i_serving.context import RequestContext
from e2i_serving.propagation.b3 import B3MultiPropagator, B3SinglePropagator
from e2i_serving.propagation.baggage import BaggagePropagator
from e2i_serving.propagation.opik import OpikPropagator
from e2i_serving.propagation.refusals import REFUSED
from e2i_serving.propagation.request_id import RequestIdPropagator
from e2i_serving.propagation.vendor import AmazonTracePropagator, TraceIdPropagator
from e2i_serving.propagation.w3c import TraceContextPropagator
from e2i_serving.typing import Headers, Propagator

PROPAGATORS: tuple[Propagator, ...] = (
    TraceContextPropagator(),
    B3SinglePropagator(),
    B3MultiPropagator(),
    AmazonTracePropagator(),
    TraceIdPropagator(),
    RequestIdPropagator(),
    BaggagePropagator(),
    OpikPropagator(),
)
"""The propagators in their order of precedence: what an earlier one found, a later one leaves."""


def new_span_id() -> str:
    """A span id made here, 16 hex digits."""
    return f"{random.getrandbits(64) or 1:016x}"


class ContextExtractor:
    """Makes the context of a request from its headers, and headers from a context.

    Args:
        propagators: In their order of precedence.
        sample_rate: Fraction that is sampled of the traces whose headers leave it open.

    Attributes:
        refused: How often each header's value was malformed, so that it was replaced by one of our own.
    """

    def __init__(self, propagators: Sequence[Propagator] = PROPAGATORS, *, sample_rate: float = 0.0) -> None:
        self.refused: Counter[str] = Counter()
        self._propagators = propagators
        # As OpenTelemetry's ratio sampler decides, so that all services decide alike.
        self._sampled_below = round(sample_rate * (1 << 64))
        self._fields = frozenset(field for propagator in propagators for field in propagator.fields)

    def extract(self, headers: Headers) -> RequestContext:
        """Read the context; whatever the headers lack or have wrong is made anew."""
        wanted = self._fields
        found: dict[str, Any] = {}
        relevant = {name: value for name, value in headers if name in wanted}
        if relevant:
            for propagator in self._propagators:
                propagator.extract(relevant, found)
            if REFUSED in found:
                self.refused.update(found[REFUSED])
        prediction_id = str(uuid_utils.uuid7())
        trace_id = found.get("trace_id") or f"{random.getrandbits(128) or 1:032x}"
        sampled = found.get("sampled")
        if sampled is None:
            sampled = self._sampled_below > 0 and int(trace_id[16:], 16) < self._sampled_below
        return RequestContext(
            prediction_id,
            found.get("request_id") or prediction_id,
            trace_id,
            new_span_id(),
            found.get("parent_span_id", ""),
            sampled,
            found.get("parent_request_id", ""),
            found.get("baggage", {}),
            found.get("opik_trace_id", ""),
            found.get("opik_parent_span_id", ""),
        )

    def inject(self, context: RequestContext) -> list[tuple[bytes, bytes]]:
        """The headers of all propagators that carry a context."""
        return [header for propagator in self._propagators for header in propagator.inject(context)]
