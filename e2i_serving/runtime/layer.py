"""The outermost ASGI layer: sees every request from its first byte to its answer's, whatever becomes of it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

import msgspec
from bentoml._internal.context import trace_context
from opentelemetry import context as otel_context

from e2i_serving.context import current as current_context
from e2i_serving.record import Outcome, PredictionRecord
from e2i_serving.runtime.observation import Endpoint, Observation, observation, outcome_of
from e2i_serving.runtime.refused import NotOnRecord
from e2i_serving.runtime.tracing import StampedPhases, request_span

if TYPE_CHECKING:
    from e2i_serving.runtime.worker import Worker

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

UNMATCHED = "__unmatched__"


class ObservabilityLayer:
    """Owns a request's context, clock, record and response headers.

    A request for a prediction is recorded and its record handed to the observers before the first byte of its
    answer leaves. Any other request is only counted. Nothing of ours that fails reaches the caller.

    Args:
        app: What is inside: BentoML's own middlewares and routes.
        worker: The parts of this worker process.
    """

    def __init__(self, app: App, worker: Worker) -> None:
        self._app = app
        self._worker = worker

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        worker = self._worker
        path = scope["path"]
        endpoint = worker.endpoints.get(path)
        if endpoint is None:
            if path == worker.served_by.metrics_path:
                await self._metrics(scope, send)
                return
            endpoint = worker.routed(path)
        if endpoint is None:
            await self._pass(scope, receive, send)
            return
        request = self._observe(endpoint, scope)
        context = request.context
        context_token = current_context.set(context)
        observation_token = observation.set(request)
        span_token = otel_context.attach(request_span(request))
        # What BentoML's own tracing middleware sets, for BentoML's response headers and logs.
        trace_context.request_id = int(context.span_id, 16)
        worker.numbers.started(endpoint.route, predicts=True)
        answer = _Answer(worker, request, receive, send)
        try:
            await self._app(scope, receive, answer.send)
            if not answer.begun:
                await answer.fail(RuntimeError("The application returned without an answer."))
            # A stream whose client went away is ended without an error and without its last chunk.
            answer.cut_short(Outcome.CANCELLED)
        except asyncio.CancelledError:
            answer.cut_short(Outcome.CANCELLED)
            raise
        except Exception as error:
            if answer.begun:
                answer.cut_short(Outcome.ERROR, error)
                raise
            await answer.fail(error)
        finally:
            worker.numbers.ended(endpoint.route, answer.status, time.perf_counter() - request.arrived, predicts=True)
            otel_context.detach(span_token)
            observation.reset(observation_token)
            current_context.reset(context_token)

    def _observe(self, endpoint: Endpoint, scope: Scope) -> Observation:
        worker = self._worker
        context = worker.extractor.extract(scope["headers"])
        request = Observation(endpoint, context, scope["method"])
        request.labels = worker.labels.read(context, scope["headers"])
        if context.sampled and worker.tracing.sink is not None:
            request.phases = StampedPhases(time.perf_counter)
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit():
                request.request_bytes = int(value[:18])
        return request

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        worker = self._worker
        path = scope["path"]
        route = path if path in worker.other_routes else UNMATCHED
        if path in worker.served_by.probes:
            await self._count(route, scope, receive, send)
            return
        context = worker.extractor.extract(scope["headers"])
        request = Observation(Endpoint("", route), context, scope["method"])
        context_token = current_context.set(context)
        # A server may begin it in the context of the request before it on the connection.
        observation_token = observation.set(None)
        span_token = otel_context.attach(request_span(request))
        ids = worker.extractor.inject(context)

        async def identified(message: Message) -> None:
            if message["type"] == "http.response.start":
                request.status = message["status"]
                message = {**message, "headers": [*message.get("headers", ()), *ids]}
            await send(message)

        try:
            await self._count(route, scope, receive, identified)
        finally:
            if context.sampled and worker.tracing.sink is not None:
                worker.tracing.sink.take(_other_request(request), {})
            otel_context.detach(span_token)
            observation.reset(observation_token)
            current_context.reset(context_token)

    async def _count(self, route: str, scope: Scope, receive: Receive, send: Send) -> None:
        worker = self._worker
        status = 0

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                worker.numbers.http_request(route, status)
            await send(message)

        began = time.perf_counter()
        worker.numbers.started(route, predicts=False)
        try:
            await self._app(scope, receive, counted)
        finally:
            worker.numbers.ended(route, status, time.perf_counter() - began, predicts=False)

    async def _metrics(self, scope: Scope, send: Send) -> None:
        """Answer here, outside BentoML's own limits: who measures an overload must not be refused for it."""
        if scope["method"] not in ("GET", "HEAD"):
            status, headers, body = 405, [(b"allow", b"GET, HEAD"), (b"content-length", b"0")], b""
        else:
            headers, body = await self._worker.scrape.answer(scope["headers"])
            status = 200
        self._worker.numbers.http_request(scope["path"], status)
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else body})


class _Answer:
    """The answer of one request, on its way out."""

    __slots__ = ("_receive", "_refused", "_request", "_send", "_sent_bytes", "_worker", "begun", "ended", "status")

    def __init__(self, worker: Worker, request: Observation, receive: Receive, send: Send) -> None:
        self._worker = worker
        self._request = request
        self._receive = receive
        self._send = send
        self._refused = False
        self._sent_bytes = 0
        self.status = 0
        self.begun = False
        self.ended = False

    async def send(self, message: Message) -> None:
        """Pass a message on; the first one only after the record is safe."""
        kind = message["type"]
        if kind == "http.response.start":
            if not self.begun:
                await self._begin(message)
                return
        elif kind == "http.response.body":
            if self._refused:
                return
            if self._request.endpoint.is_stream:
                await self._send_chunk(message)
                return
        await self._send(message)

    async def fail(self, error: BaseException) -> None:
        """Answer 500 for an application that raised, or gave no answer, on its own terms."""
        if self._request.error is None:
            self._request.error = error
        self._worker.log_escaped(error)
        body = b'{"error":"An unexpected error has occurred, please check the server log."}'
        await self.send(_start(500, body))
        await self.send({"type": "http.response.body", "body": body})

    def cut_short(self, outcome: Outcome, error: BaseException | None = None) -> None:
        """Record that the request ended without its whole answer, if it did."""
        request = self._request
        if not self.begun:
            self.begun = True
            self._worker.end(request, outcome)
        elif request.endpoint.is_stream and not (self.ended or self._refused):
            self.ended = True
            self._worker.end_stream(request, outcome, self._sent_bytes, error)

    async def _begin(self, message: Message) -> None:
        self.begun = True
        request = self._request
        request.status = self.status = status = message["status"]
        headers = list(message.get("headers", ()))
        for name, value in headers:
            if name == b"content-length" and value.isdigit():
                request.response_bytes = int(value)
        outcome = None
        if status < 400 and request.endpoint.is_stream:  # noqa: PLR2004  # HTTP's own number
            outcome = Outcome.INTERRUPTED
        elif getattr(getattr(self._receive, "__self__", None), "disconnected", False):
            # Uvicorn's own note that the client is gone; it would drop the answer without a word.
            outcome = Outcome.CANCELLED
        unjournaled = self._worker.end(request, outcome)
        if unjournaled is None:
            unjournaled = await self._worker.sync()
            self._worker.synced(request, unjournaled)
        if unjournaled is not None and self._worker.refuses(unjournaled):
            await self._refuse(unjournaled)
            return
        headers.extend(self._worker.response_headers(request))
        await self._send({**message, "headers": headers})

    async def _refuse(self, reason: str) -> None:
        self._refused = True
        self.status = 503
        refusal = NotOnRecord(reason)
        body = msgspec.json.encode(refusal.body())
        start = _start(503, body)
        start["headers"].extend((name.lower().encode(), value.encode()) for name, value in refusal.headers.items())
        start["headers"].extend(self._worker.response_headers(self._request))
        await self._send(start)
        await self._send({"type": "http.response.body", "body": body})

    async def _send_chunk(self, message: Message) -> None:
        self._sent_bytes += len(message.get("body", b""))
        await self._send(message)
        if not message.get("more_body", False) and not self.ended:
            self.ended = True
            outcome = Outcome.OK if self._request.error is None else Outcome.ERROR
            self._worker.end_stream(self._request, outcome, self._sent_bytes, self._request.error)


def _start(status: int, body: bytes) -> dict[str, Any]:
    return {
        "type": "http.response.start",
        "status": status,
        "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())],
    }


def _other_request(request: Observation) -> PredictionRecord:
    """What is told in a span of a request that predicts nothing, and has no record."""
    context = request.context
    return PredictionRecord(
        "",
        request.started_ns,
        time.perf_counter() - request.arrived,
        outcome_of(request.status) if request.status else Outcome.CANCELLED,
        request.status,
        route=request.endpoint.route,
        method=request.method,
        request_id=context.request_id,
        trace_id=context.trace_id,
        span_id=context.span_id,
        parent_span_id=context.parent_span_id,
        sampled=True,
    )
