"""The decorator that makes a class an observed BentoML service."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, overload

import bentoml
from _bentoml_sdk import Service

from e2i_serving.exceptions import ServiceDefinitionError
from e2i_serving.runtime.bento import ObservedService
from e2i_serving.runtime.checks import add_deployment_hook
from e2i_serving.runtime.definition import define
from e2i_serving.runtime.instrument import instrument
from e2i_serving.runtime.labels import refuse_wrong_labels

T = TypeVar("T")


@overload
def service(inner: type[T], /) -> Service[T]: ...


@overload
def service(
    *, observability: Mapping[str, Any] | None = None, **bentoml_options: Any
) -> Callable[[type[T]], Service[T]]: ...


def service(
    inner: type[T] | None = None, /, *, observability: Mapping[str, Any] | None = None, **bentoml_options: Any
) -> Service[T] | Callable[[type[T]], Service[T]]:
    """Make a class a BentoML service that answers for every prediction it serves.

    Takes all that ``bentoml.service`` takes and returns BentoML's own ``Service``. The class may derive from a
    base of this package or be any class with ``@bentoml.api`` methods.

    Args:
        inner: The class, when used without arguments.
        observability: Settings by name; they win over the environment and ``observability.yaml``.
        **bentoml_options: Handed to ``bentoml.service``: ``name``, ``workers``, ``traffic``, ``resources`` ...

    Raises:
        ServiceDefinitionError: The class is decorated already.

    Example:
        ```python
        @e2i_serving.service(workers=2)
        class Churn(e2i_serving.ClassificationService):
            model = "churn:latest"
        ```
    """
    caller = sys._getframe(1).f_globals.get("__name__", "__main__")  # noqa: SLF001  # as BentoML finds it itself

    def decorate(cls: type[T]) -> Service[T]:
        if isinstance(cls, Service):
            raise ServiceDefinitionError(
                f"{cls.name} is a service already. Use either @e2i_serving.service or @bentoml.service, once."
            )
        refuse_wrong_labels(cls)
        define(cls, name=bentoml_options.get("name"), arguments=observability, layered=True)
        instrument(cls)
        add_deployment_hook(cls)
        make: Any = bentoml.service
        made: Service[T] = make(service_class=ObservedService, **bentoml_options)(cls)
        made._caller_module = caller  # noqa: SLF001  # else it would be this module, and BentoML could not import it
        return made

    return decorate(inner) if inner is not None else decorate
