"""How an observed service is BentoML's own: its Service, with another app, and what it says of itself."""

from __future__ import annotations

from typing import Any

import attrs
from _bentoml_sdk import Service
from bentoml._internal.context import server_context

from e2i_serving.runtime.instrument import UNAUDITED
from e2i_serving.runtime.observation import Endpoint


@attrs.define
class ObservedService(Service[Any]):
    """BentoML's Service, whose app is built by ``ObservedAppFactory``."""

    def to_asgi(self, is_main: bool = True) -> Any:  # noqa: FBT001, FBT002  # BentoML's signature
        """The app, observed."""
        # BentoML's server sets up logging when it is imported, so that is left until there is something to serve.
        from e2i_serving.runtime.app import ObservedAppFactory  # noqa: PLC0415

        self.inject_config()
        return ObservedAppFactory(self, is_main=is_main)()

    def __hash__(self) -> int:
        return hash(self.name)


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


def bento_identity() -> tuple[str, str]:
    """Name and version of the bento that is served; the version is empty when served from source."""
    version = server_context.bento_version
    return server_context.bento_name, "" if version == "not available" else version
