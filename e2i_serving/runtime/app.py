"""The app of a served service: BentoML's own factory, with the observability layer outermost.

With ``bento`` and ``instrument`` the only modules that build on BentoML's private parts; contract tests hold what
they rely on. Where BentoML is not as expected, the layer is added, BentoML's middlewares stay, and one line says so.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import anyio.to_thread
from _bentoml_impl.server.app import ServiceAppFactory
from _bentoml_sdk import Service
from bentoml._internal.container import BentoMLContainer
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response

from e2i_serving.observers.metrics import CONTENT_TYPE
from e2i_serving.runtime.bento import bento_identity, endpoints_of
from e2i_serving.runtime.definition import ServiceDefinition, definition_of
from e2i_serving.runtime.layer import App, ObservabilityLayer
from e2i_serving.runtime.models import model_info_of
from e2i_serving.runtime.worker import Worker
from e2i_serving.typing import Observer

logger = logging.getLogger("e2i_serving")

_ACCESS_AND_METRICS = frozenset({"AccessLogMiddleware", "RunnerTrafficMetricsMiddleware"})
_TRACING = "OpenTelemetryMiddleware"


class _Placed:
    """Where the worker will stand: the layer is built with the app, the worker once the model is loaded."""

    def __init__(self) -> None:
        self.worker: Worker | None = None


class _LayerMiddleware:
    def __init__(self, app: App, placed: _Placed) -> None:
        self._app = app
        self._placed = placed
        self._layer: ObservabilityLayer | None = None

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        layer = self._layer
        if layer is None:
            worker = self._placed.worker
            if worker is None or scope["type"] == "lifespan":
                await self._app(scope, receive, send)
                return
            layer = self._layer = ObservabilityLayer(self._app, worker)
        await layer(scope, receive, send)


class ObservedAppFactory(ServiceAppFactory):
    """BentoML's app factory, with the observability layer outermost.

    Args:
        service: The service.
        is_main: Whether it is the one that clients reach.
        definition: The service's definition, if not the one attached to its class.
        observers: More observers than the settings ask for.
        strict: Let our own faults raise, as tests want.
    """

    def __init__(
        self,
        service: Service[Any],
        *,
        is_main: bool,
        definition: ServiceDefinition | None = None,
        observers: Sequence[tuple[str, Observer]] = (),
        strict: bool = False,
    ) -> None:
        self._placed = _Placed()
        self._definition = definition or definition_of(service.inner)
        self._observers = observers
        self._strict = strict
        self._settings = self._definition.load_settings().settings
        super().__init__(service, is_main=is_main)

    @property
    def worker(self) -> Worker | None:
        """The parts of this worker process, once it has started."""
        return self._placed.worker

    @property
    def middlewares(self) -> list[Middleware]:
        """BentoML's middlewares less those that the layer replaces, with the layer before them."""
        theirs: list[Middleware] = super().middlewares
        if self._settings.replace_middlewares:
            theirs = _without_replaced(theirs)
        return [Middleware(_LayerMiddleware, placed=self._placed), *theirs]

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncGenerator[None, None]:
        """BentoML's lifespan; inside it, once the model is loaded, the worker's."""
        async with super().lifespan(app):
            worker = self._placed.worker = self._open_worker(app)
            worker.start()
            try:
                yield
            finally:
                await worker.stop()

    async def readyz(self, request: Request) -> Response:
        """BentoML's readiness; not ready while predictions that must be on record can't be."""
        worker = self._placed.worker
        if worker is not None and worker.settings.audit_required and not worker.can_journal():
            raise HTTPException(503, "Predictions can't be put on record, which is required here.")
        return await super().readyz(request)

    async def metrics(self, request: Request) -> Response:  # type: ignore[override]  # as BentoML's own override
        """BentoML's and the user's own metrics, then ours."""
        theirs = await super().metrics(request)
        worker = self._placed.worker
        ours = await anyio.to_thread.run_sync(worker.metrics_text) if worker is not None else ""
        body = bytes(theirs.body)
        separator = b"" if not body or body.endswith(b"\n") else b"\n"
        return Response(body + separator + ours.encode(), media_type=CONTENT_TYPE)

    def _open_worker(self, app: Starlette) -> Worker:
        service = self.service
        endpoints = endpoints_of(service)
        paths = (getattr(route, "path", None) for route in app.router.routes)
        return Worker(
            self._definition,
            model_info_of(self._service_instance, service),
            endpoints,
            other_routes=frozenset(path for path in paths if path and path not in endpoints),
            bento=bento_identity(),
            access_log=BentoMLContainer.api_server_config.logging.access.enabled.get(),
            observers=self._observers,
            strict=self._strict,
        )


def _without_replaced(theirs: list[Middleware]) -> list[Middleware]:
    replaced = set(_ACCESS_AND_METRICS)
    if not BentoMLContainer.tracing.sample_rate.get():
        replaced.add(_TRACING)
    kept = [middleware for middleware in theirs if getattr(middleware.cls, "__name__", "") not in replaced]
    if len(kept) == len(theirs):
        logger.warning("BentoML's middlewares are not as expected; they stay, and ours is added to them.")
    return kept
