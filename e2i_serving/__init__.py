"""Make a BentoML service answerable for every prediction it serves."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from e2i_serving.context import RequestContext, current_context
    from e2i_serving.exceptions import E2IServingError
    from e2i_serving.record import Outcome, PredictionRecord
    from e2i_serving.runtime.labels import Label
    from e2i_serving.runtime.observation import annotate
    from e2i_serving.runtime.outcomes import OutcomeRecorder, record_outcome
    from e2i_serving.runtime.trail import AuditTrail
    from e2i_serving.services import (
        CausalEstimate,
        CausalService,
        ClassificationService,
        PredictionRequest,
        PredictionService,
        RegressionEstimate,
        RegressionService,
        service,
    )

_HOMES = {
    "AuditTrail": "e2i_serving.runtime.trail",
    "CausalEstimate": "e2i_serving.services",
    "CausalService": "e2i_serving.services",
    "ClassificationService": "e2i_serving.services",
    "E2IServingError": "e2i_serving.exceptions",
    "Label": "e2i_serving.runtime.labels",
    "Outcome": "e2i_serving.record",
    "OutcomeRecorder": "e2i_serving.runtime.outcomes",
    "PredictionRecord": "e2i_serving.record",
    "PredictionRequest": "e2i_serving.services",
    "PredictionService": "e2i_serving.services",
    "RegressionEstimate": "e2i_serving.services",
    "RegressionService": "e2i_serving.services",
    "RequestContext": "e2i_serving.context",
    "annotate": "e2i_serving.runtime.observation",
    "current_context": "e2i_serving.context",
    "record_outcome": "e2i_serving.runtime.outcomes",
    "service": "e2i_serving.services",
}
"""Where each public name lives: imported when asked for, so that importing the package costs nothing."""

__all__ = [
    "AuditTrail",
    "CausalEstimate",
    "CausalService",
    "ClassificationService",
    "E2IServingError",
    "Label",
    "Outcome",
    "OutcomeRecorder",
    "PredictionRecord",
    "PredictionRequest",
    "PredictionService",
    "RegressionEstimate",
    "RegressionService",
    "RequestContext",
    "annotate",
    "current_context",
    "record_outcome",
    "service",
]


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(home), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
