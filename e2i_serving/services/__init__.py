"""Service bases: a subclass names a model and writes only what is particular to it."""

from e2i_serving.services.base import PredictionService
from e2i_serving.services.causal import CausalEstimate, CausalService
from e2i_serving.services.classification import ClassificationService
from e2i_serving.services.decorator import service
from e2i_serving.services.regression import RegressionEstimate, RegressionService
from e2i_serving.services.requests import PredictionRequest

__all__ = [
    "CausalEstimate",
    "CausalService",
    "ClassificationService",
    "PredictionRequest",
    "PredictionService",
    "RegressionEstimate",
    "RegressionService",
    "service",
]
