"""From raw headers to one request context."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import uuid_utils

from e2i_serving.context import RequestContext
from e2i_serving.propagation.request_id import RequestIdPropagator
from e2i_serving.propagation.w3c import TraceContextPropagator
from e2i_serving.typing import Headers, Propagator

PROPAGATORS: tuple[Propagator, ...] = (TraceContextPropagator(), RequestIdPropagator())
"""The propagators in their order of precedence: what an earlier one found, a later one leaves."""


class ContextExtractor:
    """Makes the context of a request from its headers, and headers from a context.

    Args:
        propagators: In their order of precedence.
    """

    def __init__(self, propagators: Sequence[Propagator] = PROPAGATORS) -> None:
        self._propagators = propagators
        self._fields = frozenset(field for propagator in propagators for field in propagator.fields)

    def extract(self, headers: Headers) -> RequestContext:
        """Read the context; whatever the headers lack or have wrong is made anew."""
        wanted = self._fields
        found: dict[str, Any] = {}
        relevant = {name: value for name, value in headers if name in wanted}
        if relevant:
            for propagator in self._propagators:
                propagator.extract(relevant, found)
        prediction_id = str(uuid_utils.uuid7())
        return RequestContext(
            prediction_id,
            found.get("request_id") or prediction_id,
            found.get("trace_id") or f"{random.getrandbits(128) or 1:032x}",
            f"{random.getrandbits(64) or 1:016x}",
            found.get("parent_span_id", ""),
            found.get("sampled", False),
        )

    def inject(self, context: RequestContext) -> list[tuple[bytes, bytes]]:
        """The headers of all propagators that carry a context."""
        return [header for propagator in self._propagators for header in propagator.inject(context)]
