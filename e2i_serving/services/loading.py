"""From a model in the BentoML store to an object with ``predict``."""

from __future__ import annotations

import importlib
import warnings
from typing import Any

import numpy as np
from bentoml import Model as StoredModel

from e2i_serving.exceptions import ConfigurationError


def load_model(stored: StoredModel) -> Any:
    """Load a model with the BentoML module that saved it.

    Raises:
        ConfigurationError: The module can't be imported, or the model can't be loaded by it.
    """
    module_name = stored.info.module
    try:
        module = importlib.import_module(module_name)
        loaded = module.load_model(stored.tag)
    except ImportError as error:
        raise ConfigurationError(
            f"The model {stored.tag} was saved by {module_name}, which can't be imported: {error}. "
            "Install its framework, or override load()."
        ) from error
    except Exception as error:
        raise ConfigurationError(
            f"The model {stored.tag} can't be loaded by {module_name}: {type(error).__name__}: {error}. "
            "Override load() if it needs more than that."
        ) from error
    if hasattr(loaded, "feature_names_in_"):
        # It was fitted on a frame and is asked with arrays in the same order, which the service sees to.
        warnings.filterwarnings("ignore", message="X does not have valid feature names", category=UserWarning)
    return _ADAPTERS.get((type(loaded).__module__.partition(".")[0], type(loaded).__name__), _same)(loaded)


def feature_names_of(estimator: Any) -> tuple[str, ...]:
    """The feature names that an estimator was fitted with; empty when it does not say."""
    for attribute in ("feature_names_in_", "feature_names", "feature_name_"):
        found = getattr(estimator, attribute, None)
        if found is not None and not callable(found) and len(found):
            return tuple(str(name) for name in found)
    return ()


def feature_count_of(estimator: Any) -> int | None:
    """How many features an estimator expects; ``None`` when it does not say."""
    found = getattr(estimator, "n_features_in_", None)
    return int(found) if found is not None else None


def accepts_missing(estimator: Any) -> bool:
    """Whether an estimator takes NaN as a missing value; true when it does not say, so that it decides itself."""
    tags = getattr(estimator, "__sklearn_tags__", None)
    try:
        return bool(tags().input_tags.allow_nan) if tags is not None else True
    except Exception:  # noqa: BLE001  # tags are a courtesy; some estimators break giving them
        return True


class XGBoostBooster:
    """A bare ``xgboost.Booster`` with the interface of the others.

    Args:
        booster: The booster.
    """

    def __init__(self, booster: Any) -> None:
        self._booster = booster
        self.feature_names_in_ = tuple(booster.feature_names or ())
        self.n_features_in_ = booster.num_features()

    def predict(self, features: Any) -> Any:
        """Raw predictions, shape ``(n,)`` or ``(n, classes)``."""
        # Names are dropped, because features come as an array in the booster's own order.
        return self._booster.inplace_predict(np.asarray(features, dtype=np.float64), validate_features=False)

    def predict_proba(self, features: Any) -> Any:
        """Class probabilities, shape ``(n, classes)``, of a booster with a logistic or softprob objective."""
        return as_probabilities(self.predict(features))


class LightGBMBooster:
    """A bare ``lightgbm.Booster`` with the interface of the others.

    Args:
        booster: The booster.
    """

    def __init__(self, booster: Any) -> None:
        self._booster = booster
        self.feature_names_in_ = tuple(booster.feature_name())
        self.n_features_in_ = booster.num_feature()

    def predict(self, features: Any) -> Any:
        """Raw predictions, shape ``(n,)`` or ``(n, classes)``."""
        return self._booster.predict(np.asarray(features, dtype=np.float64))

    def predict_proba(self, features: Any) -> Any:
        """Class probabilities, shape ``(n, classes)``, of a booster with a binary or multiclass objective."""
        return as_probabilities(self.predict(features))


def as_probabilities(raw: Any) -> Any:
    """Probabilities of the second class as those of both; those of many as they are."""
    raw = np.asarray(raw)
    return np.column_stack([1.0 - raw, raw]) if raw.ndim == 1 else raw


def _same(loaded: Any) -> Any:
    return loaded


_ADAPTERS = {("xgboost", "Booster"): XGBoostBooster, ("lightgbm", "Booster"): LightGBMBooster}
"""By top-level package and class name, what gives a loaded object ``predict`` and ``predict_proba``."""
