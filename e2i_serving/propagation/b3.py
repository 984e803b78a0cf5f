"""B3 (https://github.com/openzipkin/b3-propagation), in its single-header and its multi-header form."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from e2i_serving.context import RequestContext
from e2i_serving.propagation.refusals import refuse

_SINGLE = re.compile(rb"((?:[0-9a-f]{16}){1,2})-([0-9a-f]{16})(?:-([01d])(?:-[0-9a-f]{16})?)?")
_TRACE = re.compile(rb"(?:[0-9a-f]{16}){1,2}")
_SPAN = re.compile(rb"[0-9a-f]{16}")
_SAMPLING_ONLY = frozenset({b"0", b"1", b"d"})
_SAMPLED = frozenset({b"1", b"d", b"true"})


class B3SinglePropagator:
    """Reads ``b3``. A trace id of 64 bits is filled up with zeros on the left."""

    fields = (b"b3",)

    def extract(self, headers: Mapping[bytes, bytes], into: dict[str, Any]) -> None:
        """Put trace id, parent span and the sampling flag into ``into``."""
        value = headers.get(b"b3")
        if value is None or value in _SAMPLING_ONLY:
            return
        match = _SINGLE.fullmatch(value)
        if match is None or not _take(match[1], match[2], match[3] or b"", into):
            refuse("b3", into)

    def inject(self, context: RequestContext) -> Sequence[tuple[bytes, bytes]]:  # noqa: ARG002  # a Propagator's signature
        """Nothing: an answer carries ``traceparent``."""
        return ()


class B3MultiPropagator:
    """Reads ``X-B3-TraceId``, ``X-B3-SpanId``, ``X-B3-Sampled`` and ``X-B3-Flags``."""

    fields = (b"x-b3-traceid", b"x-b3-spanid", b"x-b3-sampled", b"x-b3-flags")

    def extract(self, headers: Mapping[bytes, bytes], into: dict[str, Any]) -> None:
        """Put trace id, parent span and the sampling flag into ``into``."""
        trace_id = headers.get(b"x-b3-traceid")
        if trace_id is None:
            return
        span_id = headers.get(b"x-b3-spanid", b"")
        sampled = b"1" if headers.get(b"x-b3-flags") == b"1" else headers.get(b"x-b3-sampled", b"").lower()
        well_formed = _TRACE.fullmatch(trace_id) and _SPAN.fullmatch(span_id)
        if not (well_formed and _take(trace_id, span_id, sampled, into)):
            refuse("x-b3-traceid", into)

    def inject(self, context: RequestContext) -> Sequence[tuple[bytes, bytes]]:  # noqa: ARG002  # a Propagator's signature
        """Nothing: an answer carries ``traceparent``."""
        return ()


def _take(trace_id: bytes, span_id: bytes, sampled: bytes, into: dict[str, Any]) -> bool:
    """Take a trace over unless one was found before; returns whether it is one."""
    if not (int(trace_id, 16) and int(span_id, 16)):
        return False
    if "trace_id" not in into:
        into["trace_id"] = trace_id.decode().rjust(32, "0")
        into["parent_span_id"] = span_id.decode()
        if sampled:  # else it is left to whoever receives it
            into["sampled"] = sampled in _SAMPLED
    return True
