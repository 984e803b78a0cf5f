"""Mistakes in how a service is written, which BentoML would accept and then serve wrongly, or not at all."""

from __future__ import annotations

import inspect
from typing import Final

from _bentoml_sdk.method import APIMethod
from bentoml.models import BentoModel

from e2i_serving.exceptions import ServiceDefinitionError
from e2i_serving.runtime.labels import refuse_wrong_labels
from e2i_serving.services.retrieval import refuse_wrong_features

STEPS: Final = ("load", "features", "preprocess", "infer", "postprocess", "labels")
"""What ``predict`` calls, and a subclass may override."""

_OTHER_KINDS: Final = (inspect.iscoroutinefunction, inspect.isgeneratorfunction, inspect.isasyncgenfunction)


def refuse_mistakes(cls: type) -> None:
    """Refuse a class that is written wrongly.

    Raises:
        ServiceDefinitionError: It hides an API method, has a step that is no plain method, or a name or model of
            the wrong type.
    """
    apis = {name for base in cls.__mro__[1:] for name, value in vars(base).items() if isinstance(value, APIMethod)}
    # As they are found, not as the class has them: a mixin before the base may be where they come from.
    for name in sorted(apis):
        if not isinstance(inspect.getattr_static(cls, name), APIMethod):
            raise ServiceDefinitionError(
                f"{cls.__name__}.{name} replaces the API method {name!r} of its base, so that its route would vanish. "
                "Override infer(), features() or another step instead, or decorate it with @bentoml.api."
            )
    for name in STEPS:
        value = inspect.getattr_static(cls, name)
        if not inspect.isfunction(value) or any(is_other(value) for is_other in _OTHER_KINDS):
            raise ServiceDefinitionError(
                f"{cls.__name__}.{name} must be a plain method (def, not async def, without yield, no attribute): "
                "predict calls it."
            )
    refuse_wrong_labels(cls)
    refuse_wrong_features(cls)
    for name in ("label_names", "feature_names", "class_names"):
        value = cls.__dict__.get(name)
        if isinstance(value, str):
            raise ServiceDefinitionError(
                f"{cls.__name__}.{name} must be a tuple of names, and a string would count letter by letter. "
                f"Write {name} = ({value!r},)."
            )
    model = cls.__dict__.get("model")
    if model is not None and not isinstance(model, str | BentoModel):
        raise ServiceDefinitionError(
            f"{cls.__name__}.model must be a model's tag such as 'churn:latest', not {type(model).__name__}."
        )
