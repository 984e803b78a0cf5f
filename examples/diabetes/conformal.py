"""A regressor that says how far off it may be."""

from __future__ import annotations

from typing import Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from sklearn.base import BaseEstimator, RegressorMixin, clone
from sklearn.model_selection import train_test_split


class ConformalRegressor(RegressorMixin, BaseEstimator):
    """Split conformal prediction: an interval from the errors on rows that the regressor did not see.

    It covers the true value with at least the probability asked for, whatever the regressor and the distribution,
    as long as new rows come from the same one.

    Args:
        regressor: What predicts.
        calibration_share: The share of the rows kept back to measure errors on.
        random_state: Seed of the split.
    """

    def __init__(self, regressor: RegressorMixin, calibration_share: float = 0.25, random_state: int = 0) -> None:
        self.regressor = regressor
        self.calibration_share = calibration_share
        self.random_state = random_state

    def fit(self, features: ArrayLike, target: ArrayLike) -> Self:
        """Fit on one part of the rows of shape ``(n, k)``, and measure the errors on the other."""
        fit_x, calibration_x, fit_y, calibration_y = train_test_split(
            np.asarray(features), np.asarray(target), test_size=self.calibration_share, random_state=self.random_state
        )
        self.regressor_ = clone(self.regressor).fit(fit_x, fit_y)
        self.errors_ = np.sort(np.abs(calibration_y - self.regressor_.predict(calibration_x)))
        self.n_features_in_ = fit_x.shape[1]
        return self

    def predict(self, features: ArrayLike) -> NDArray[np.float64]:
        """Values, shape ``(n,)``."""
        return self.regressor_.predict(np.asarray(features))

    def predict_interval(
        self, features: ArrayLike, level: float = 0.9
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Lower and upper bounds, each of shape ``(n,)``, that cover the value with probability ``level``."""
        value = self.predict(features)
        count = len(self.errors_)
        # One more than the errors seen, for the one to come: that is what makes the coverage hold.
        rank = min(int(np.ceil((count + 1) * level)), count)
        margin = self.errors_[rank - 1]
        return value - margin, value + margin
