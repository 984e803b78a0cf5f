"""What both sides of the comparison are: one model, one signature, one set of options."""

from __future__ import annotations

from typing import Any

import bentoml
import numpy as np
from bentoml.models import BentoModel

MODEL = "overhead:latest"
OPTIONS: dict[str, Any] = {"workers": 1, "traffic": {"timeout": 30}}


class Scorer:
    """Probabilities from an array, in a thread."""

    stored = BentoModel(MODEL)

    def __init__(self) -> None:
        self.estimator = bentoml.sklearn.load_model(MODEL)

    @bentoml.api
    def predict(self, x: np.ndarray) -> np.ndarray:
        """Class probabilities, shape ``(n, 2)``, of rows of shape ``(n, 30)``."""
        probabilities: np.ndarray = self.estimator.predict_proba(x)
        return probabilities
