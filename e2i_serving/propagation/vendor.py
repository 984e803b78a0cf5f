"""Trace headers of load balancers and of older services: ``X-Amzn-Trace-Id`` and ``X-Trace-Id``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from e2i_serving.context import RequestContext
from e2i_serving.propagation.refusals import refuse

_AMAZON_LENGTH = 512
_ROOT = re.compile(rb"1-([0-9a-f]{8})-([0-9a-f]{24})")
_SPAN = re.compile(rb"[0-9a-f]{16}")
_TRACE = re.compile(rb"[0-9a-f]{32}")


class AmazonTracePropagator:
    """Reads ``X-Amzn-Trace-Id``, as load balancers and X-Ray write it.

    The format is https://docs.aws.amazon.com/xray/latest/devguide/xray-concepts.html#xray-concepts-tracingheader:
    fields ``Root``, ``Parent`` and ``Sampled``, of which a load balancer sends the first alone.
    """

    fields = (b"x-amzn-trace-id",)

    def extract(self, headers: Mapping[bytes, bytes], into: dict[str, Any]) -> None:
        """Put trace id, parent span and the sampling flag into ``into``."""
        value = headers.get(b"x-amzn-trace-id")
        if value is None:
            return
        parts = dict(part.strip().partition(b"=")[::2] for part in value[:_AMAZON_LENGTH].split(b";"))
        root = _ROOT.fullmatch(parts.get(b"Root", b""))
        parent = parts.get(b"Parent", b"")
        if root is None or (parent and not _SPAN.fullmatch(parent)) or not int(root[1] + root[2], 16):
            refuse("x-amzn-trace-id", into)
        elif "trace_id" not in into:
            into["trace_id"] = (root[1] + root[2]).decode()
            into["parent_span_id"] = parent.decode()
            if parts.get(b"Sampled") in (b"0", b"1"):  # else it is left to whoever receives it
                into["sampled"] = parts[b"Sampled"] == b"1"

    def inject(self, context: RequestContext) -> Sequence[tuple[bytes, bytes]]:  # noqa: ARG002  # a Propagator's signature
        """Nothing: an answer carries ``traceparent``."""
        return ()


class TraceIdPropagator:
    """Reads ``X-Trace-Id``, 32 hexadecimal digits; UUIDs with their hyphens are taken as well."""

    fields = (b"x-trace-id",)

    def extract(self, headers: Mapping[bytes, bytes], into: dict[str, Any]) -> None:
        """Put the trace id into ``into``."""
        value = headers.get(b"x-trace-id")
        if value is None:
            return
        digits = value.replace(b"-", b"").lower()
        if not _TRACE.fullmatch(digits) or not int(digits, 16):
            refuse("x-trace-id", into)
        elif "trace_id" not in into:
            into["trace_id"] = digits.decode()

    def inject(self, context: RequestContext) -> Sequence[tuple[bytes, bytes]]:  # noqa: ARG002  # a Propagator's signature
        """Nothing: an answer carries ``traceparent``."""
        return ()
