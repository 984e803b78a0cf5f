"""How an observed service is BentoML's own: its Service, with another app, and what it says of itself."""

from __future__ import annotations

import inspect
from typing import Any

import attrs
from _bentoml_sdk import Service
from bentoml._internal.container import BentoMLContainer
from bentoml._internal.context import server_context
from bentoml._internal.resource import system_resources

from e2i_serving.runtime.definition import ServiceDefinition, definition_of
from e2i_serving.runtime.instrument import UNAUDITED
from e2i_serving.runtime.observation import Endpoint
from e2i_serving.runtime.telemetry import Telemetry, start_telemetry


@attrs.define
class ObservedService(Service[Any]):
    """BentoML's Service, whose app is built by ``ObservedAppFactory``."""

    def to_asgi(self, is_main: bool = True) -> Any:  # noqa: FBT001, FBT002  # BentoML's signature
        """The app, observed."""
        # BentoML's server sets up logging when it is imported, so that is left until there is something to serve.
        from e2i_serving.runtime.app import ObservedAppFactory  # noqa: PLC0415

        self.inject_config()
        return ObservedAppFactory(self, is_main=is_main, telemetry=worker_telemetry(definition_of(self.inner)))()

    def __hash__(self) -> int:
        return hash(self.name)


def worker_telemetry(definition: ServiceDefinition) -> Telemetry:
    """The tracing and the log lines of this process, set up now if it is one of BentoML's workers."""
    if server_context.worker_index is None:
        return Telemetry()
    telemetry = start_telemetry(definition, bento_identity())
    if telemetry.tracing.provider is not None:
        # Before BentoML asks for it: else it makes one of its own.
        BentoMLContainer.tracer_provider.set(telemetry.tracing.provider)
    return telemetry


def endpoints_of(service: Service[Any]) -> dict[str, Endpoint]:
    """A service's API methods by their full path, those left out that predict nothing."""
    found: dict[str, Endpoint] = {}
    for name, method in service.apis.items():
        if getattr(method.func, UNAUDITED, False):
            continue
        # Older releases know no prefix.
        prefix = (getattr(service, "path_prefix", None) or "").strip("/")
        route = (f"/{prefix}/" if prefix else "/") + method.route.lstrip("/")
        found[route] = Endpoint(name, route, method.is_stream)
    return found


def dependencies_of(inner: type) -> list[type]:
    """The classes of the services that are served beside this one because it depends on them, theirs included."""
    found: dict[type, None] = {}
    looking = [inner]
    while looking:
        cls = looking.pop()
        for name in dir(cls):
            dependency = inspect.getattr_static(cls, name)
            on = getattr(dependency, "on", None)
            if not isinstance(on, Service) or dependency.url or dependency.deployment:
                continue
            if on.inner is not inner and on.inner not in found:
                found[on.inner] = None
                looking.append(on.inner)
    return list(found)


def bento_identity() -> tuple[str, str]:
    """Name and version of the bento that is served; the version is empty when served from source."""
    version = server_context.bento_version
    return server_context.bento_name, "" if version == "not available" else version


def workers_of(service: str) -> int:
    """How many worker processes BentoML is set to run of a service."""
    workers = BentoMLContainer.config.services.get()[service].get("workers") or 1
    return int(system_resources()["cpu"]) if workers == "cpu_count" else int(workers)
