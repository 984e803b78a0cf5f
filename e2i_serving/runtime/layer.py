"""The outermost ASGI layer: sees every request from its first byte to its answer's, whatever becomes of it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import TYPE_CHECKING, Any

import msgspec
from bentoml._internal.context import trace_context
from opentelemetry import context as otel_context
from opentelemetry import trace as otel_trace

from e2i_serving.context import current as current_context
from e2i_serving.record import Outcome
from e2i_serving.runtime.observation import Observation, observation

if TYPE_CHECKING:
    from e2i_serving.runtime.worker import Worker

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

UNMATCHED = "__unmatched__"
RETRY_AFTER_SECONDS = 5


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
        endpoint = worker.endpoints.get(scope["path"])
        if endpoint is None:
            await self._pass(scope, receive, send)
            return
        context = worker.extractor.extract(scope["headers"])
        request = Observation(endpoint, context, scope["method"])
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit():
                request.request_bytes = int(value[:18])
        context_token = current_context.set(context)
        observation_token = observation.set(request)
        span_token = otel_context.attach(otel_trace.set_span_in_context(_remote_span(context)))
        # What BentoML's own tracing middleware sets, for BentoML's response headers and logs.
        trace_context.request_id = int(context.span_id, 16)
        worker.started()
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
            worker.ended()
            otel_context.detach(span_token)
            observation.reset(observation_token)
            current_context.reset(context_token)

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        route = scope["path"] if scope["path"] in self._worker.other_routes else UNMATCHED
        worker = self._worker

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                worker.http_request(route, message["status"])
            await send(message)

        await self._app(scope, receive, counted)


class _Answer:
    """The answer of one request, on its way out."""

    __slots__ = ("_receive", "_refused", "_request", "_send", "_sent_bytes", "_worker", "begun", "ended")

    def __init__(self, worker: Worker, request: Observation, receive: Receive, send: Send) -> None:
        self._worker = worker
        self._request = request
        self._receive = receive
        self._send = send
        self._refused = False
        self._sent_bytes = 0
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
        request.status = status = message["status"]
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
        if unjournaled is not None and self._worker.settings.audit_required:
            await self._refuse(unjournaled)
            return
        headers.extend(self._worker.response_headers(request))
        await self._send({**message, "headers": headers})

    async def _refuse(self, reason: str) -> None:
        self._refused = True
        body = msgspec.json.encode(
            {"error": "The prediction can't be put on record, which is required here.", "detail": reason}
        )
        start = _start(503, body)
        start["headers"].append((b"retry-after", str(RETRY_AFTER_SECONDS).encode()))
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


def _remote_span(context: Any) -> otel_trace.NonRecordingSpan:
    """This request's ids as the current span, so that log lines carry them and outgoing calls propagate them."""
    return otel_trace.NonRecordingSpan(
        otel_trace.SpanContext(
            int(context.trace_id, 16),
            int(context.span_id, 16),
            is_remote=False,
            trace_flags=otel_trace.TraceFlags(1 if context.sampled else 0),
        )
    )
