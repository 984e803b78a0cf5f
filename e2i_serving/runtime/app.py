"""The app of a served service: BentoML's own factory, with the observability layer outermost.

With ``bento`` and ``instrument`` the only modules that build on BentoML's private parts; contract tests hold what
they rely on. Where BentoML is not as expected, the layer is added, BentoML's middlewares stay, and one line says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import math
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

from _bentoml_impl.server.app import ServiceAppFactory
from _bentoml_sdk import Service
from bentoml._internal.container import BentoMLContainer
from bentoml._internal.context import server_context
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from e2i_serving.observers.metrics import BentoMLNames
from e2i_serving.runtime.bento import bento_identity, endpoints_of, workers_of
from e2i_serving.runtime.definition import ServiceDefinition, definition_of
from e2i_serving.runtime.layer import App, ObservabilityLayer
from e2i_serving.runtime.models import model_info_of
from e2i_serving.runtime.observation import observation
from e2i_serving.runtime.refused import NotOnRecord, RefusedRequest
from e2i_serving.runtime.scrape import ServedBy
from e2i_serving.runtime.telemetry import Telemetry
from e2i_serving.runtime.unlayered import UNLAYERED, UnlayeredRequests, standing_by
from e2i_serving.runtime.user_metrics import UserMetrics
from e2i_serving.runtime.worker import Worker
from e2i_serving.typing import Observer

logger = logging.getLogger("e2i_serving")

METRICS_HOOK = "__metrics__"
_METRICS = "RunnerTrafficMetricsMiddleware"
_ACCESS_AND_METRICS = frozenset({"AccessLogMiddleware", _METRICS})
_TRACING = "OpenTelemetryMiddleware"
_PROBES = frozenset({"livez", "healthz", "readyz", "metrics"})


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
        telemetry: The process's tracing and log lines.
        observers: More observers than the settings ask for.
        strict: Let our own faults raise, as tests want.
    """

    def __init__(
        self,
        service: Service[Any],
        *,
        is_main: bool,
        definition: ServiceDefinition | None = None,
        telemetry: Telemetry | None = None,
        observers: Sequence[tuple[str, Observer]] = (),
        strict: bool = False,
    ) -> None:
        self._placed = _Placed()
        self._definition = definition or definition_of(service.inner)
        self._telemetry = telemetry or Telemetry()
        self._observers = observers
        self._strict = strict
        self._settings = self._definition.load_settings().settings
        self._counts_requests = False
        self._load_seconds: float | None = None
        self._unlayered: UnlayeredRequests | None = None
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
            had_metrics = any(map(_counts, theirs))
            theirs = _without_replaced(theirs, traces=self._telemetry.tracing.provider is not None)
            # What BentoML's middleware would count under BentoML's names is counted here instead.
            self._counts_requests = had_metrics and not any(map(_counts, theirs))
        return [Middleware(_LayerMiddleware, placed=self._placed), *theirs]

    @contextlib.asynccontextmanager
    async def lifespan(self, app: Starlette) -> AsyncGenerator[None, None]:
        """BentoML's lifespan; inside it, once the model is loaded, the worker's."""
        async with super().lifespan(app):
            worker = self._placed.worker = self._open_worker(app)
            self._unlayered = UnlayeredRequests(worker, layered=True)
            worker.start()
            try:
                yield
            finally:
                await worker.stop()

    async def readyz(self, request: Request) -> Response:
        """BentoML's readiness; not ready while predictions that must be on record can't be."""
        worker = self._placed.worker
        if worker is None:
            return await super().readyz(request)
        try:
            if not worker.may_predict():
                raise HTTPException(503, "Predictions can't be put on record, which is required here.")  # noqa: TRY301  # as BentoML does
            answer = await super().readyz(request)
        except HTTPException:
            worker.numbers.set_ready(is_ready=False)
            raise
        worker.numbers.set_ready(is_ready=True)
        return answer

    async def create_instance(self, app: Starlette) -> None:
        """BentoML's making of the service, which loads the model; timed."""
        began = time.perf_counter()
        await super().create_instance(app)
        self._load_seconds = time.perf_counter() - began

    async def api_endpoint(self, name: str, request: Request) -> Response:
        """BentoML's answer of an API method; where one refuses, in its own words."""
        standing_by.set(self._unlayered)
        try:
            response = await super().api_endpoint(name, request)
            current = observation.get()
            if current is not None and current.ender is not None and current.streaming is None:
                await current.ender.answered(current, response)  # the method made it itself
        except RefusedRequest as error:
            return _refusal(error)
        except Exception:
            current = observation.get()
            if current is None or current.refused is None:
                raise
            return _refusal(NotOnRecord(current.refused))
        except asyncio.CancelledError as error:
            # BentoML gave up waiting for the method, which a layer that observes the request sees for itself.
            current = observation.get()
            if current is not None and current.ender is not None:
                current.ender.ended(current, error)
            raise
        return response

    async def batch_infer(self, name: str, input_args: Any, input_kwargs: Any) -> Any:
        """BentoML's call of an adaptively batched method, in each caller's own context; what it raises is noted."""
        try:
            return await super().batch_infer(name, input_args, input_kwargs)
        except Exception as error:
            current = observation.get()
            if current is not None:
                current.fail(error)
            raise

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
            served_by=self._served_by(app),
            observers=self._observers,
            strict=self._strict,
        )

    def _served_by(self, app: Starlette) -> ServedBy:
        metrics = BentoMLContainer.api_server_config.metrics
        names = None
        if self._counts_requests:
            bento, version = server_context.bento_name, server_context.bento_version
            buckets = tuple(bound for bound in BentoMLContainer.duration_buckets.get() if bound != math.inf)
            names = BentoMLNames(metrics.namespace.get(), buckets, bento, version, self.service.name)
        path = next(
            (str(route.path) for route in app.router.routes if isinstance(route, Route) and route.name == "metrics"), ""
        )
        return ServedBy(
            workers=workers_of(self.service.name),
            access_log=BentoMLContainer.api_server_config.logging.access.enabled.get(),
            load_seconds=self._load_seconds,
            probes=frozenset(
                str(route.path) for route in app.router.routes if isinstance(route, Route) and route.name in _PROBES
            ),
            metrics_path=path,
            bentoml=names,
            users=self._user_metrics(),
            telemetry=self._telemetry,
        )

    def _user_metrics(self) -> UserMetrics:
        # That of our own bases is for services that have no layer.
        hook = getattr(self.service.inner, METRICS_HOOK, None)
        is_own = hook is not None and not getattr(hook, UNLAYERED, False)
        return UserMetrics(getattr(self._service_instance, METRICS_HOOK) if is_own else None)


def _refusal(error: RefusedRequest) -> Response:
    status = int(error.error_code)
    if status >= 500:  # noqa: PLR2004  # HTTP's own number
        logger.warning("%s", error)
    return JSONResponse(error.body(), status_code=status, headers=error.headers)


def _counts(middleware: Middleware) -> bool:
    return getattr(middleware.cls, "__name__", "") == _METRICS


def _without_replaced(theirs: list[Middleware], *, traces: bool) -> list[Middleware]:
    replaced = set(_ACCESS_AND_METRICS)
    if traces or not BentoMLContainer.tracing.sample_rate.get():
        replaced.add(_TRACING)
    kept = [middleware for middleware in theirs if getattr(middleware.cls, "__name__", "") not in replaced]
    if len(kept) == len(theirs):
        logger.warning("BentoML's middlewares are not as expected; they stay, and ours is added to them.")
    return kept
