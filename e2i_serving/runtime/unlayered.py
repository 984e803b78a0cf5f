"""Serving under a plain ``@bentoml.service``, where no layer can be put around the app.

A request then begins where BentoML decodes it and ends where it encodes the answer or an error is raised. What
BentoML answers by itself (an unknown route, 405, 429, 504) is not seen, and one line at start-up says so.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Any

from bentoml.exceptions import BentoMLException
from opentelemetry import context as otel_context
from pydantic import ValidationError

from e2i_serving.context import current as current_context
from e2i_serving.record import Outcome
from e2i_serving.runtime.observation import Endpoint, Observation, observation
from e2i_serving.runtime.tracing import StampedPhases, request_span

logger = logging.getLogger("e2i_serving")

UNLAYERED = "__e2i_serving_unlayered__"
"""Marks a hook that serves only where there is no layer."""

_worker: Any = None
_loop: asyncio.AbstractEventLoop | None = None
_endpoints: dict[str, Endpoint] = {}


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

    global _worker, _loop  # noqa: PLW0603  # one service a process, and no app to keep it on
    _loop = asyncio.get_running_loop()
    arguments = definition_of(service.inner).arguments
    endpoints = endpoints_of(service)
    _endpoints.update({endpoint.name: endpoint for endpoint in endpoints.values()})
    definition = define(service.inner, name=service.name, arguments=arguments)
    served_by = ServedBy(workers_of(service.name), load_seconds=load_seconds, telemetry=worker_telemetry(definition))
    _worker = Worker(
        definition,
        model_info_of(instance, service),
        endpoints,
        bento=bento_identity(),
        served_by=served_by,
    )
    _worker.start()
    logger.warning(
        "%s is decorated with @bentoml.service: predictions are audited and measured, but requests that BentoML "
        "answers by itself (404, 405, 429, 504) are not seen, and its own middlewares stay. "
        "@e2i_serving.service sees all.",
        service.name,
    )


def stop() -> None:
    """End this process's worker, if there is one."""
    global _worker  # noqa: PLW0603  # as above
    if _worker is not None:
        _worker.close()
        _worker = None


def begin(name: str, request: Any) -> Observation | None:
    """Begin to observe a request to an API method; ``None`` when a layer would, or nothing does."""
    endpoint = _endpoints.get(name)
    if _worker is None or endpoint is None:
        return None
    context = _worker.extractor.extract(request.scope["headers"])
    current = Observation(endpoint, context, request.method)
    current.labels = _worker.labels.read(context, request.scope["headers"])
    current.on_end = _end
    if context.sampled and _worker.tracing.sink is not None:
        current.phases = StampedPhases(time.perf_counter)
    current_context.set(context)
    observation.set(current)
    otel_context.attach(request_span(current))
    return current


def with_metrics(text: str) -> str:
    """BentoML's metrics, with ours behind them when this process is served unlayered."""
    return text if _worker is None else f"{text.rstrip()}\n{_worker.metrics_text()}"


def _end(current: Observation, ending: Any) -> None:
    if ending is not None:
        current.on_end = None
        _on_loop(_finish, current, ending)


def _end_stream(current: Observation, ending: BaseException | None) -> None:
    current.on_end = None
    _on_loop(_finish_stream, current, ending)


def _on_loop(function: Callable[[Observation, Any], None], current: Observation, ending: Any) -> None:
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        # In the thread of an API method; the journal and the metrics are the event loop's alone. The loop gets to
        # this before it gets to an error raised there, so that the record still comes before the answer.
        if _loop is not None and not _loop.is_closed():
            _loop.call_soon_threadsafe(function, current, ending)
    else:
        function(current, ending)


def _finish_stream(current: Observation, ending: BaseException | None) -> None:
    if _worker is None:
        return
    outcome = Outcome.OK if ending is None else Outcome.ERROR
    if isinstance(ending, asyncio.CancelledError):
        outcome = Outcome.CANCELLED
    _worker.end_stream(current, outcome, -1, ending)


def _finish(current: Observation, ending: Any) -> None:
    worker = _worker
    if worker is None:
        return
    outcome = None
    if isinstance(ending, asyncio.CancelledError):
        outcome = Outcome.CANCELLED
    elif isinstance(ending, BaseException):
        current.status = _status_of(ending)
    else:
        current.status = ending.status_code
        outcome = Outcome.INTERRUPTED if current.endpoint.is_stream else None
    worker.end(current, outcome)
    if outcome is Outcome.INTERRUPTED:
        current.on_end = _end_stream
    if not isinstance(ending, BaseException):
        ending.raw_headers.extend(worker.response_headers(current))


def _status_of(error: BaseException) -> int:
    """The status that BentoML answers an error with."""
    if isinstance(error, ValidationError):
        return 400
    if isinstance(error, BentoMLException):
        return int(error.error_code)
    return 500
