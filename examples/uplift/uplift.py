"""A T-learner: one model of the treated, one of the untreated, and the effect as their difference."""

from __future__ import annotations

from statistics import NormalDist
from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator

Array = NDArray[np.float64]


class TLearner(BaseEstimator):
    """Effects of a treatment from a randomised trial, by a linear regression an arm.

    Its methods are those of EconML's estimators, so that one of these can take its place.
    """

    def fit(self, features: ArrayLike, treated: ArrayLike, outcome: ArrayLike) -> Self:
        """Fit both arms.

        Args:
            features: Shape ``(n, k)``.
            treated: Who was treated, shape ``(n,)``, of zeros and ones.
            outcome: What came of it, shape ``(n,)``.
        """
        design = _design(features)
        chosen = np.asarray(treated).astype(bool)
        target = np.asarray(outcome, dtype=np.float64)
        self.control_ = _ordinary_least_squares(design[~chosen], target[~chosen])
        self.treated_ = _ordinary_least_squares(design[chosen], target[chosen])
        self.treated_share_ = float(chosen.mean())
        self.n_features_in_ = design.shape[1] - 1
        return self

    def potential_outcomes(self, features: ArrayLike) -> tuple[Array, Array]:
        """Expected outcomes untreated and treated, each of shape ``(n,)``."""
        design = _design(features)
        return design @ self.control_[0], design @ self.treated_[0]

    def effect(self, features: ArrayLike) -> Array:
        """Expected outcome treated less untreated, shape ``(n,)``."""
        control, treated = self.potential_outcomes(features)
        return treated - control

    def effect_interval(self, features: ArrayLike, *, alpha: float = 0.1) -> tuple[Array, Array]:
        """Lower and upper bounds, each of shape ``(n,)``, that cover the effect with probability ``1 - alpha``."""
        design = _design(features)
        # The arms are independent, so the variances of their expectations add up.
        variance = np.einsum("ij,jk,ik->i", design, self.control_[1] + self.treated_[1], design)
        margin = NormalDist().inv_cdf(1.0 - alpha / 2.0) * np.sqrt(variance)
        effect = self.effect(features)
        return effect - margin, effect + margin

    def propensity(self, features: ArrayLike) -> Array:
        """Probability of having been treated, shape ``(n,)``: the trial's share, as chance alone decided."""
        return np.full(len(np.asarray(features)), self.treated_share_)


def _design(features: ArrayLike) -> Array:
    rows = np.asarray(features, dtype=np.float64)
    return np.column_stack([np.ones(len(rows)), rows])


def _ordinary_least_squares(design: Array, target: Array) -> tuple[Array, Array]:
    """Coefficients of shape ``(k,)`` and their covariance of shape ``(k, k)``."""
    inverse = np.linalg.inv(design.T @ design)
    coefficients = inverse @ design.T @ target
    residuals = target - design @ coefficients
    return coefficients, inverse * (residuals @ residuals) / (len(target) - design.shape[1])
