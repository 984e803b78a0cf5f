"""Causal models: a treatment effect an instance, and the treatment it recommends."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import bentoml
import numpy as np
from numpy.typing import NDArray

from e2i_serving.record import Column, Constant, Matrix, Values
from e2i_serving.services.base import PredictionService
from e2i_serving.services.loading import refuse_kind
from e2i_serving.services.regression import add_interval
from e2i_serving.services.requests import PredictionRequest, PredictionRequestBody
from e2i_serving.services.responses import Answer, CausalResponse

TREAT = "treat"
CONTROL = "control"


@dataclass(slots=True)
class CausalEstimate:
    """What ``infer`` returns.

    Attributes:
        effect: Effect of the treatment, outcome treated less outcome untreated; shape ``(n,)``.
        lower: Lower bound of its interval, shape ``(n,)``.
        upper: Upper bound, shape ``(n,)``.
        outcome_control: Expected outcome untreated, shape ``(n,)``.
        outcome_treated: Expected outcome treated, shape ``(n,)``.
        propensity: Probability of having been treated, shape ``(n,)``.
    """

    effect: NDArray[Any]
    lower: NDArray[Any] | None = None
    upper: NDArray[Any] | None = None
    outcome_control: NDArray[Any] | None = None
    outcome_treated: NDArray[Any] | None = None
    propensity: NDArray[Any] | None = None


class CausalService(PredictionService):
    """Serves a model of treatment effects.

    A model has ``effect(X)`` as EconML's have, and may have ``effect_interval(X, alpha=)``,
    ``potential_outcomes(X)`` (untreated, treated) and ``propensity(X)``; without ``effect``, its ``predict`` is
    taken for the effect, unless it is a classifier or a regressor.

    Attributes:
        effect_threshold: Above which effect treating is recommended: what the treatment costs, in the outcome's unit.
        interval_level: The probability with which an interval is to cover the effect.
        policy: Name of the rule that recommends, for the record.
    """

    task: ClassVar[str] = "causal"
    effect_threshold: float = 0.0
    interval_level: float = 0.9
    policy: str = "effect-above-threshold"

    @bentoml.api(input_spec=PredictionRequestBody, output_spec=CausalResponse)
    def predict(self, request: PredictionRequest, /) -> Answer:
        """Estimate the treatment effect for one or many instances."""
        return self._answer(request)

    def e2i_load(self) -> None:
        """Load the model, and refuse one of outcomes instead of effects unless ``infer`` is overridden."""
        super().e2i_load()
        if type(self).infer is CausalService.infer and not hasattr(self.estimator, "effect"):
            mend = "Serve a model with effect(X), or override infer() to return a CausalEstimate."
            refuse_kind(type(self).__name__, self.estimator, ("classifier", "regressor"), mend)

    def infer(self, inputs: Any) -> Any:
        """A ``CausalEstimate`` of what the model can tell."""
        model = self.estimator
        effect = model.effect if hasattr(model, "effect") else model.predict
        estimate = CausalEstimate(np.asarray(effect(inputs), dtype=np.float64).reshape(-1))
        if hasattr(model, "effect_interval"):
            estimate.lower, estimate.upper = model.effect_interval(inputs, alpha=1.0 - self.interval_level)
        if hasattr(model, "potential_outcomes"):
            estimate.outcome_control, estimate.outcome_treated = model.potential_outcomes(inputs)
        if hasattr(model, "propensity"):
            estimate.propensity = model.propensity(inputs)
        return estimate

    def postprocess(self, raw: Any, request: PredictionRequest) -> tuple[dict[str, Column], dict[str, Any]]:
        """Recommend a treatment by the effect."""
        estimate = raw if isinstance(raw, CausalEstimate) else CausalEstimate(np.asarray(raw, dtype=np.float64))
        effect = np.asarray(estimate.effect, dtype=np.float64).reshape(-1)
        treatments = [TREAT if above else CONTROL for above in (effect > self.effect_threshold).tolist()]
        outputs: dict[str, Column] = {
            "prediction": Matrix.of(effect),
            "effect": Matrix.of(effect),
            "treatment": Values(treatments),
            "threshold": Constant(self.effect_threshold),
            "policy": Constant(self.policy),
        }
        body: dict[str, Any] = {"effects": effect, "treatments": treatments, "threshold": self.effect_threshold}
        add_interval(outputs, body, estimate.lower, estimate.upper, self.interval_level)
        optional = {
            "outcome_control": ("outcomes_control", estimate.outcome_control),
            "outcome_treated": ("outcomes_treated", estimate.outcome_treated),
            "propensity": ("propensities", estimate.propensity),
        }
        for column, (field, values) in optional.items():
            if values is not None:
                array = np.asarray(values, dtype=np.float64).reshape(-1)
                outputs[column] = Matrix.of(array)
                body[field] = array
        return outputs, body
