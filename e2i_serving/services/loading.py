"""From a model in the BentoML store to an object with ``predict``."""

from __future__ import annotations

import importlib
import json
import warnings
from typing import Any, ClassVar

import numpy as np
from bentoml import Model as StoredModel
from bentoml.exceptions import MissingDependencyException

from e2i_serving.exceptions import ConfigurationError


def load_model(stored: StoredModel) -> Any:
    """Load a model with the BentoML module that saved it.

    Raises:
        ConfigurationError: The module can't be imported, or the model can't be loaded by it.
    """
    module = import_framework(stored)
    try:
        loaded = module.load_model(stored.tag)
    except Exception as error:
        raise ConfigurationError(
            f"The model {stored.tag} can't be loaded by {stored.info.module}: {type(error).__name__}: {error}. "
            "Override load() if it needs more than that."
        ) from error
    return _adapted(loaded)


def import_framework(stored: StoredModel) -> Any:
    """Import the BentoML module that saved a model.

    Returns:
        The module, which has ``load_model``.

    Raises:
        ConfigurationError: None is named, it can't be imported, or it loads no models; said in one line.
    """
    name = stored.info.module
    if not name:
        raise ConfigurationError(f"The model {stored.tag} does not say which module saved it. Override load().")
    try:
        module = importlib.import_module(name)
    except Exception as error:
        # BentoML has an exception of its own for a missing framework; a broken one may raise anything.
        is_missing = isinstance(error, ImportError | MissingDependencyException)
        said = " ".join(str(error if is_missing else f"{type(error).__name__}: {error}").split()).rstrip(".")
        raise ConfigurationError(
            f"The model {stored.tag} was saved by {name}, which can't be imported: {said}. "
            "Install its framework, or override load()."
        ) from error
    if not hasattr(module, "load_model"):
        raise ConfigurationError(
            f"The model {stored.tag} was saved by {name}, which has no load_model. Override load()."
        )
    return module


def ignore_missing_feature_names() -> None:
    """Keep scikit-learn from warning, at each prediction, of arrays where a model was fitted on a frame."""
    # The service sees to the order of features.
    warnings.filterwarnings("ignore", message="X does not have valid feature names", category=UserWarning)


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

    probabilistic: ClassVar[tuple[str, ...]] = ("binary:logistic", "multi:softprob", "reg:logistic")

    def __init__(self, booster: Any) -> None:
        self._booster = booster
        self.feature_names_in_ = tuple(booster.feature_names or ())
        self.n_features_in_ = booster.num_features()

    @property
    def objective(self) -> str:
        """The objective; of one that was given as a function, XGBoost's default."""
        return str(json.loads(self._booster.save_config())["learner"]["objective"]["name"])

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

    probabilistic: ClassVar[tuple[str, ...]] = ("binary", "multiclass", "multiclassova", "cross_entropy")

    def __init__(self, booster: Any) -> None:
        self._booster = booster
        self.feature_names_in_ = tuple(booster.feature_name())
        self.n_features_in_ = booster.num_feature()

    @property
    def objective(self) -> str:
        """The objective; empty for one that was given as a function."""
        return str(self._booster.dump_model(num_iteration=1).get("objective", "")).partition(" ")[0]

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


def refuse_kind(service: str, estimator: Any, kinds: tuple[str, ...], needed: str) -> None:
    """Refuse a scikit-learn estimator that predicts something else than the service answers.

    Args:
        service: Name of the service's class.
        estimator: What its ``load`` returned.
        kinds: Kinds of estimators that can't be right: ``classifier``, ``regressor``.
        needed: What to serve, or do, instead.

    Raises:
        ConfigurationError: It is of such a kind.
    """
    kind = getattr(estimator, "_estimator_type", None)
    tags = getattr(estimator, "__sklearn_tags__", None)
    if kind is None and tags is not None:
        try:
            kind = tags().estimator_type
        except Exception:  # noqa: BLE001  # tags are a courtesy; some estimators break giving them
            kind = None
    if kind in kinds:
        raise ConfigurationError(f"{service} serves a {type(estimator).__name__}, which is a {kind}. {needed}")


def require_probabilities(service: str, estimator: Any) -> None:
    """Refuse a model that gives classes, margins or values where probabilities are needed.

    Args:
        service: Name of the service's class.
        estimator: What its ``load`` returned.

    Raises:
        ConfigurationError: It is a booster whose objective gives no class probabilities, or an estimator with
            scikit-learn's interface and without ``predict_proba``.
    """
    if hasattr(estimator, "get_params") and not hasattr(estimator, "predict_proba"):
        raise ConfigurationError(
            f"{service} serves a {type(estimator).__name__}, which has no predict_proba. Train a classifier that "
            "gives probabilities (CalibratedClassifierCV makes one of any), or override infer() to return them."
        )
    booster = _adapted(estimator)
    if not isinstance(booster, XGBoostBooster | LightGBMBooster) or booster.objective in booster.probabilistic:
        return
    objective = f"objective {booster.objective!r}" if booster.objective else "an objective of its own"
    raise ConfigurationError(
        f"{service} serves a booster with {objective}, which gives no class probabilities. "
        f"Train it with {' or '.join(map(repr, booster.probabilistic[:2]))}, or override infer() to return "
        "probabilities of shape (n, classes)."
    )


def _adapted(loaded: Any) -> Any:
    adapter = _ADAPTERS.get((type(loaded).__module__.partition(".")[0], type(loaded).__name__))
    return loaded if adapter is None else adapter(loaded)


_ADAPTERS: dict[tuple[str, str], type[XGBoostBooster | LightGBMBooster]] = {
    ("xgboost", "Booster"): XGBoostBooster,
    ("lightgbm", "Booster"): LightGBMBooster,
}
"""By top-level package and class name, what gives a loaded object ``predict`` and ``predict_proba``."""
