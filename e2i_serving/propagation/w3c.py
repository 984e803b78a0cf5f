"""W3C Trace Context (https://www.w3.org/TR/trace-context/), the ``traceparent`` header."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from e2i_serving.context import RequestContext
from e2i_serving.propagation.refusals import refuse

_TRACEPARENT = re.compile(rb"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_NO_TRACE = b"0" * 32
_NO_SPAN = b"0" * 16


class TraceContextPropagator:
    """Reads and writes ``traceparent``. A malformed one is ignored, as the specification asks."""

    fields = (b"traceparent",)

    def extract(self, headers: Mapping[bytes, bytes], into: dict[str, Any]) -> None:
        """Put trace id, parent span and the sampling flag into ``into``."""
        value = headers.get(b"traceparent")
        if value is None or "trace_id" in into:
            return
        match = _TRACEPARENT.fullmatch(value)
        if match is None:
            refuse("traceparent", into)
            return
        version, trace_id, span_id, flags, rest = match.groups()
        if version == b"ff" or trace_id == _NO_TRACE or span_id == _NO_SPAN or (version == b"00" and rest):
            refuse("traceparent", into)
            return
        into["trace_id"] = trace_id.decode()
        into["parent_span_id"] = span_id.decode()
        into["sampled"] = bool(int(flags, 16) & 1)

    def inject(self, context: RequestContext) -> Sequence[tuple[bytes, bytes]]:
        """This request's span as ``traceparent``."""
        flags = "01" if context.sampled else "00"
        return ((b"traceparent", f"00-{context.trace_id}-{context.span_id}-{flags}".encode()),)
