"""Requests that reach an API method and that no layer is observing.

Under a plain ``@bentoml.service`` these are all: no layer can be put around the app. Under ours these are the runs of
tasks, which begin after their request was answered, and requests that something between the layer and the method sent
there. Such a request begins where BentoML decodes it and ends where it encodes the answer or an error is raised. What
BentoML answers by itself (an unknown route, 405, 429, 504) is not seen.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final

import msgspec
import uuid_utils
from bentoml.exceptions import BentoMLException
from opentelemetry import context as otel_context
from pydantic import ValidationError
from starlette.requests import Request
from starlette.responses import Response

from e2i_serving.context import RequestContext
from e2i_serving.context import current as current_context
from e2i_serving.propagation import new_span_id
from e2i_serving.record import Outcome
from e2i_serving.runtime.observation import Observation, observation
from e2i_serving.runtime.refused import NotOnRecord
from e2i_serving.runtime.tracing import StampedPhases, request_span

if TYPE_CHECKING:
    from e2i_serving.runtime.worker import Worker

logger = logging.getLogger("e2i_serving")

UNLAYERED: Final = "__e2i_serving_unlayered__"
"""Marks a hook that serves only where there is no layer."""

_plain: UnlayeredRequests | None = None


class UnlayeredRequests:
    """Observes a worker's requests that no layer does. Made on the running event loop.

    Args:
        worker: The parts of this worker process.
        layered: Whether a layer sees all other requests.
    """

    def __init__(self, worker: Worker, *, layered: bool) -> None:
        self.worker = worker
        self._layered = layered
        self._endpoints = {endpoint.name: endpoint for endpoint in worker.endpoints.values()}
        self._loop = asyncio.get_running_loop()

    def begin(self, name: str, request: Request) -> Observation | None:
        """Begin to observe a request; ``None`` if its method predicts nothing."""
        endpoint = self._endpoints.get(name)
        if endpoint is None:
            return None
        worker, headers = self.worker, request.scope["headers"]
        outer = current_context.get() if self._layered else None
        context = worker.extractor.extract(headers) if outer is None else _within(outer)
        current = Observation(endpoint, context, request.method)
        current.labels = worker.labels.read(context, headers)
        current.ender = self
        current.within = self._layered
        if context.sampled and worker.tracing.sink is not None:
            current.phases = StampedPhases(time.perf_counter)
        current_context.set(context)
        observation.set(current)
        otel_context.attach(request_span(current))
        return current

    async def answered(self, current: Observation, response: Response) -> None:
        """End a request with its answer, before this leaves; called on the event loop.

        Raises:
            NotOnRecord: It must be on record, and can't be.
        """
        current.ender = None
        unjournaled = self._end(current, response)
        if unjournaled is None:
            unjournaled = await self.worker.sync()
            self.worker.synced(current, unjournaled)
        if unjournaled is not None and self.worker.refuses(unjournaled):
            raise NotOnRecord(unjournaled)

    def returned(self, current: Observation, result: Any) -> None:
        """End a request whose method made the response itself; called in any thread.

        BentoML encodes nothing then. Under a layer, its app says what was answered.
        """
        if isinstance(result, Response) and not self._layered:
            self._leave(current, self._end, result)

    def ended(self, current: Observation, error: BaseException | None) -> None:
        """End a request by what was raised, or a stream; called in any thread."""
        self._leave(current, self._end_stream if current.streaming is not None else self._end, error)

    def _leave(self, current: Observation, end: Callable[[Observation, Any], Any], ending: Any) -> None:
        current.ender = None
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            # In the thread of an API method; the journal and the metrics are the event loop's alone. The loop gets to
            # this before it gets to what the thread came to, so that the record still comes before the answer.
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(end, current, ending)
        else:
            end(current, ending)

    def _end(self, current: Observation, ending: Any) -> str | None:
        outcome = None
        if isinstance(ending, asyncio.CancelledError):
            outcome = Outcome.CANCELLED
        elif isinstance(ending, BaseException):
            current.status = _status_of(ending)
        else:
            current.status = ending.status_code
            outcome = Outcome.INTERRUPTED if current.endpoint.is_stream else None
        unjournaled = self.worker.end(current, outcome)
        if unjournaled is not None and self.worker.refuses(unjournaled):
            current.refused = unjournaled
        if current.streaming is not None:
            current.ender = self
        if isinstance(ending, Response):
            headers = self.worker.response_headers(current, with_ids=not self._layered)
            ending.raw_headers.extend(headers)
        return unjournaled

    def _end_stream(self, current: Observation, ending: BaseException | None) -> None:
        outcome = Outcome.OK if ending is None else Outcome.ERROR
        if isinstance(ending, asyncio.CancelledError):
            outcome = Outcome.CANCELLED
        self.worker.end_stream(current, outcome, -1, ending)


def start(service: Any, instance: Any, load_seconds: float) -> None:
    """Wire this process's worker for a service that BentoML's own decorator made; called on the event loop.

    Args:
        service: The service.
        instance: The instance of its class.
        load_seconds: How long it took to load its model.
    """
    from e2i_serving.runtime.bento import (  # noqa: PLC0415  # it imports this module
        bento_identity,
        endpoints_of,
        worker_telemetry,
        workers_of,
    )
    from e2i_serving.runtime.definition import define, definition_of  # noqa: PLC0415
    from e2i_serving.runtime.models import model_info_of  # noqa: PLC0415
    from e2i_serving.runtime.scrape import ServedBy  # noqa: PLC0415
    from e2i_serving.runtime.worker import Worker  # noqa: PLC0415

    global _plain  # noqa: PLW0603  # one service a process, and no app to keep it on
    arguments = definition_of(service.inner).arguments
    definition = define(service.inner, name=service.name, arguments=arguments)
    served_by = ServedBy(workers_of(service.name), load_seconds=load_seconds, telemetry=worker_telemetry(definition))
    worker = Worker(
        definition,
        model_info_of(instance, service),
        endpoints_of(service),
        bento=bento_identity(),
        served_by=served_by,
    )
    _plain = UnlayeredRequests(worker, layered=False)
    worker.start()
    logger.warning(
        "%s is decorated with @bentoml.service: predictions are audited and measured, but requests that BentoML "
        "answers by itself (404, 405, 429, 504) are not seen, nor what fails in a batch, and its own middlewares stay. "
        "@e2i_serving.service sees all.",
        service.name,
    )


def stop() -> None:
    """End this process's worker, if it was started here."""
    global _plain  # noqa: PLW0603  # as above
    if _plain is not None:
        _plain.worker.close()
        _plain = None


standing_by: ContextVar[UnlayeredRequests | None] = ContextVar("e2i_serving_standing_by", default=None)
"""What observes a request to an API method that the layer of its app does not; set by the app."""


def begin(name: str, request: Request) -> Observation | None:
    """Begin to observe a request to an API method; ``None`` when nothing does, or it predicts nothing."""
    requests = standing_by.get() or _plain
    return requests.begin(name, request) if requests is not None else None


def with_metrics(text: str) -> str:
    """BentoML's metrics, with ours behind them when this process is served unlayered."""
    return text if _plain is None else f"{text.rstrip()}\n{_plain.worker.metrics_text()}"


def _within(outer: RequestContext) -> RequestContext:
    """A request of its own within one that predicts nothing by itself: its trace and request id, and its span above."""
    return msgspec.structs.replace(
        outer, prediction_id=str(uuid_utils.uuid7()), span_id=new_span_id(), parent_span_id=outer.span_id
    )


def _status_of(error: BaseException) -> int:
    """The status that BentoML answers an error with."""
    if isinstance(error, ValidationError):
        return 400
    if isinstance(error, BentoMLException):
        return int(error.error_code)
    return 500
