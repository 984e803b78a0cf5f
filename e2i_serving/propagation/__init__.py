"""Context headers: who asks, and which trace the request belongs to."""

from e2i_serving.propagation.b3 import B3MultiPropagator, B3SinglePropagator
from e2i_serving.propagation.baggage import LABEL_PREFIX, PREDICTION_ID, REQUEST_ID, BaggagePropagator
from e2i_serving.propagation.extraction import ContextExtractor, new_span_id
from e2i_serving.propagation.opik import OpikPropagator
from e2i_serving.propagation.request_id import RequestIdPropagator
from e2i_serving.propagation.vendor import AmazonTracePropagator, TraceIdPropagator
from e2i_serving.propagation.w3c import TraceContextPropagator

__all__ = [
    "LABEL_PREFIX",
    "PREDICTION_ID",
    "REQUEST_ID",
    "AmazonTracePropagator",
    "B3MultiPropagator",
    "B3SinglePropagator",
    "BaggagePropagator",
    "ContextExtractor",
    "OpikPropagator",
    "RequestIdPropagator",
    "TraceContextPropagator",
    "TraceIdPropagator",
    "new_span_id",
]
