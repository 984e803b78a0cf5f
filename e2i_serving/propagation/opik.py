"""Opik's trace headers: the trace of a caller, an agent for instance, whose child the prediction is."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from e2i_serving.context import RequestContext
from e2i_serving.propagation.refusals import refuse

_UUID: Final = re.compile(rb"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


class OpikPropagator:
    """Reads ``opik_trace_id`` and ``opik_parent_span_id``, as Opik's SDK writes them."""

    fields = (b"opik_trace_id", b"opik_parent_span_id")

    def extract(self, headers: Mapping[bytes, bytes], into: dict[str, Any]) -> None:
        """Put the caller's trace and span in Opik into ``into``."""
        trace = headers.get(b"opik_trace_id")
        if trace is None:
            return
        trace, span = trace.lower(), headers.get(b"opik_parent_span_id", b"").lower()
        if not _UUID.fullmatch(trace) or (span and not _UUID.fullmatch(span)):
            refuse("opik_trace_id", into)
            return
        into["opik_trace_id"] = trace.decode()
        into["opik_parent_span_id"] = span.decode()

    def inject(self, context: RequestContext) -> Sequence[tuple[bytes, bytes]]:  # noqa: ARG002  # a Propagator's signature
        """Nothing: the caller knows its own trace."""
        return ()
