"""Context headers: who asks, and which trace the request belongs to."""

from e2i_serving.propagation.extraction import ContextExtractor
from e2i_serving.propagation.request_id import RequestIdPropagator
from e2i_serving.propagation.w3c import TraceContextPropagator

__all__ = ["ContextExtractor", "RequestIdPropagator", "TraceContextPropagator"]
