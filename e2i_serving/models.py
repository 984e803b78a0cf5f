"""Save models with what they came from, so that each prediction's record says it."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, Final

from e2i_serving.exceptions import ConfigurationError

__all__ = ["save"]

_FRAMEWORKS: Final = {"catboost": "catboost", "keras": "keras", "lightgbm": "lightgbm", "sklearn": "sklearn"} | {
    "torch": "pytorch",
    "xgboost": "xgboost",
}
"""By the top-level package of a model's class, the module of BentoML that saves it."""


def save(
    name: str,
    model: Any,
    *,
    framework: str = "",
    mlflow_run_id: str = "",
    training_data: str = "",
    feature_service: str = "",
    feature_names: Sequence[str] = (),
    metadata: Mapping[str, Any] | None = None,
    **options: Any,
) -> str:
    """Save a model to the BentoML store, with its lineage in its metadata.

    Args:
        name: Its name in the store.
        model: The model; or the URI of one in MLflow, such as ``runs:/<run>/model``, which is imported.
        framework: The module of BentoML that saves it, such as ``sklearn``; found by the model's class when not given,
            and ``picklable_model`` for a class of no framework.
        mlflow_run_id: The training run. Taken from a ``runs:/`` URI when not given.
        training_data: What it was trained on: a path, a version, a digest.
        feature_service: The feature service whose features it takes.
        feature_names: Its features, in order.
        metadata: More that should stand in its metadata.
        **options: Handed to BentoML: ``labels``, ``custom_objects``, ``signatures`` ...

    Returns:
        Its tag, ``name:version``.

    Raises:
        ConfigurationError: The framework is not installed, or BentoML has none of that name.
    """
    is_uri = isinstance(model, str)
    if is_uri and not mlflow_run_id and model.startswith("runs:/"):
        mlflow_run_id = model.removeprefix("runs:/").partition("/")[0]
    lineage = {"mlflow_run_id": mlflow_run_id, "training_data": training_data, "feature_service": feature_service}
    described = dict(metadata or {}) | {key: value for key, value in lineage.items() if value}
    if feature_names:
        described["feature_names"] = list(feature_names)
    kind = framework or ("mlflow" if is_uri else _framework_of(model))
    module = _imported(f"bentoml.{kind}")
    write = module.import_model if is_uri else module.save_model
    return str(write(name, model, metadata=described, **options).tag)


def _framework_of(model: Any) -> str:
    for kind in type(model).__mro__:
        found = _FRAMEWORKS.get(kind.__module__.partition(".")[0])
        if found is not None:
            return found
    return "picklable_model"


def _imported(name: str) -> Any:
    # BentoML raises an error of its own where a framework is missing.
    from bentoml.exceptions import MissingDependencyException  # noqa: PLC0415  # keeps the import light

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # BentoML's plans for its modules are not the caller's
            return import_module(name)
    except (ImportError, MissingDependencyException) as error:
        raise ConfigurationError(f"The model can't be saved by {name}: {error}. Install its framework.") from error
