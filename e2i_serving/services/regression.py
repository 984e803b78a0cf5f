"""Regression: a value an instance, with an interval when the model gives one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import bentoml
import numpy as np
from numpy.typing import NDArray

from e2i_serving.record import Column, Constant, Matrix
from e2i_serving.services.base import PredictionService
from e2i_serving.services.loading import refuse_kind
from e2i_serving.services.requests import PredictionRequest, PredictionRequestBody
from e2i_serving.services.responses import Answer, RegressionResponse


@dataclass(slots=True)
class RegressionEstimate:
    """What ``infer`` may return instead of a bare array.

    Attributes:
        value: Shape ``(n,)``.
        lower: Lower bound of the interval, shape ``(n,)``.
        upper: Upper bound, shape ``(n,)``.
    """

    value: NDArray[Any]
    lower: NDArray[Any] | None = None
    upper: NDArray[Any] | None = None


class RegressionService(PredictionService):
    """Serves a regressor with ``predict``.

    The bounds of a model with ``predict_interval(features, level)`` are answered and recorded as well.

    Attributes:
        interval_level: The probability with which an interval is to cover the value.
    """

    task: ClassVar[str] = "regression"
    interval_level: float = 0.9

    @bentoml.api(input_spec=PredictionRequestBody, output_spec=RegressionResponse)
    def predict(self, request: PredictionRequest, /) -> Answer:
        """Predict the value of one or many instances."""
        return self._answer(request)

    def e2i_load(self) -> None:
        """Load the model, and refuse a classifier unless ``infer`` is overridden."""
        super().e2i_load()
        if type(self).infer is RegressionService.infer:
            mend = "Serve it by a ClassificationService, or override infer()."
            refuse_kind(type(self).__name__, self.estimator, ("classifier",), mend)

    def infer(self, inputs: Any) -> Any:
        """Values of shape ``(n,)``, or a ``RegressionEstimate``."""
        value = np.asarray(self.estimator.predict(inputs), dtype=np.float64).reshape(-1)
        predict_interval = getattr(self.estimator, "predict_interval", None)
        if predict_interval is None:
            return value
        lower, upper = predict_interval(inputs, self.interval_level)
        return RegressionEstimate(value, lower, upper)

    def postprocess(self, raw: Any, request: PredictionRequest) -> tuple[dict[str, Column], dict[str, Any]]:
        """Values, and their interval if there is one."""
        estimate = raw if isinstance(raw, RegressionEstimate) else RegressionEstimate(np.asarray(raw, dtype=np.float64))
        outputs: dict[str, Column] = {"prediction": Matrix.of(estimate.value)}
        body: dict[str, Any] = {"predictions": estimate.value}
        add_interval(outputs, body, estimate.lower, estimate.upper, self.interval_level)
        return outputs, body


def add_interval(
    outputs: dict[str, Column],
    body: dict[str, Any],
    lower: NDArray[Any] | None,
    upper: NDArray[Any] | None,
    level: float,
) -> None:
    """Add an interval to what is recorded and answered, if there is one."""
    if lower is None or upper is None:
        return
    low = np.asarray(lower, dtype=np.float64).reshape(-1)
    high = np.asarray(upper, dtype=np.float64).reshape(-1)
    outputs |= {"lower": Matrix.of(low), "upper": Matrix.of(high), "level": Constant(level)}
    body |= {"intervals": np.column_stack([low, high]), "level": level}
