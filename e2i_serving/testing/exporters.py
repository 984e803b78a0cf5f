"""Exporters and their receivers, for tests of what is sent."""

from __future__ import annotations

import gzip
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler
from types import TracebackType
from typing import Any

import msgspec

from e2i_serving.exceptions import RefusedError, StoreError
from e2i_serving.record import Entry
from e2i_serving.testing.servers import LocalServer


class RecordingExporter:
    """An ``Exporter`` that keeps what it is handed.

    Args:
        name: Its name.

    Attributes:
        entries: What it took, in order.
        down: How many of the next exports fail with ``StoreError``.
        refuses: Which entries it refuses for good.
        is_open: Whether it was not shut down yet.
    """

    def __init__(self, name: str = "recording") -> None:
        self.name = name
        self.entries: list[Entry] = []
        self.down = 0
        self.refuses: Callable[[Entry], bool] = lambda _entry: False
        self.is_open = True

    def export(self, entries: Sequence[Entry]) -> None:
        """Keep entries; see ``Exporter.export``."""
        if not self.is_open:
            raise StoreError(f"{self.name} was shut down.")
        if self.down:
            self.down -= 1
            raise StoreError(f"{self.name} is down.")
        if any(self.refuses(entry) for entry in entries):
            raise RefusedError(f"{self.name} refuses.")
        self.entries += entries

    def check(self) -> None:
        """Fail when it is told to."""
        if self.down or not self.is_open:
            raise StoreError(f"{self.name} is down.")

    def force_flush(self, timeout_seconds: float) -> bool:  # noqa: ARG002  # as the Protocol has it
        """Nothing is held back."""
        return True

    def shutdown(self) -> None:
        """Take nothing more."""
        self.is_open = False


@dataclass(frozen=True, slots=True)
class Request:
    """What was sent: the body as it was before it was compressed, header names in lower case."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, decoded."""
        return msgspec.json.decode(self.body)


@dataclass(frozen=True, slots=True)
class Fault:
    """How a request is answered, in place of being taken.

    Attributes:
        status: The status; 0 to close the connection without an answer.
        headers: The headers.
        body: The body.
        delay_seconds: How long to wait before; a receiver that closes waits no longer.
        takes: Whether what was sent is taken all the same, so that only the answer is lost.
        cut: Whether the connection is closed in the middle of the body.
    """

    status: int = 500
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    delay_seconds: float = 0.0
    takes: bool = False
    cut: bool = False


class ExportReceiver(LocalServer):
    """An HTTP server on a free port of this machine that takes what exporters send, for the length of a with-block.

    Attributes:
        requests: What was taken, in order.
        faults: How the next requests are answered, the first first.
        judge: Asked of every request without a fault of its own; a fault, or ``None`` to take it.
        status: The status of what is taken.
    """

    def __init__(self) -> None:
        self.requests: list[Request] = []
        self.faults: deque[Fault] = deque()
        self.judge: Callable[[Request], Fault | None] = lambda _request: None
        self.status = 200
        self._closing = threading.Event()
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:  # the standard library's name
                receiver._handle(self)

            do_GET = do_PUT = do_PATCH = do_POST  # noqa: N815  # likewise

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  # likewise
                """Say nothing."""

        super().__init__(Handler)

    def take(self, request: Request) -> None:
        """Look at a request that is taken. From any thread."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close the port."""
        self._closing.set()  # ends what waits to be answered
        super().__exit__(kind, error, traceback)

    def _fault(self, request: Request) -> Fault | None:
        try:
            return self.faults.popleft()
        except IndexError:
            return self.judge(request)

    def _handle(self, handler: BaseHTTPRequestHandler) -> None:
        body = handler.rfile.read(int(handler.headers.get("content-length") or 0))
        if handler.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        headers = {name.lower(): value for name, value in handler.headers.items()}
        request = Request(handler.command, handler.path, headers, body)
        fault = self._fault(request)
        if fault is None or fault.takes:
            self.requests.append(request)
            self.take(request)
        fault = Fault(self.status) if fault is None else fault
        if fault.delay_seconds:
            self._closing.wait(fault.delay_seconds)
        if not fault.status:
            handler.close_connection = True
            return
        handler.send_response(fault.status)
        for name, value in fault.headers.items():
            handler.send_header(name, value)
        if fault.status != 204:  # noqa: PLR2004  # HTTP's own number
            handler.send_header("content-length", str(len(fault.body) + (10 if fault.cut else 0)))
        handler.end_headers()
        handler.wfile.write(fault.body)
        handler.close_connection = handler.close_connection or fault.cut


class OpikReceiver(ExportReceiver):
    """Takes what is sent to Opik, and keeps it as Opik does: one trace an id, the last one sent holds.

    Attributes:
        traces: The traces by id.
        spans: The spans by id.
        scores: The feedback scores by trace and name.
        received: How often each trace was sent.
    """

    def __init__(self) -> None:
        super().__init__()
        self.status = 204
        self.traces: dict[str, dict[str, Any]] = {}
        self.spans: dict[str, dict[str, Any]] = {}
        self.scores: dict[tuple[str, str], dict[str, Any]] = {}
        self.received: dict[str, int] = {}

    def take(self, request: Request) -> None:
        """Keep what a batch holds."""
        if not request.body:
            return
        content = request.json()
        for trace in content.get("traces", ()):
            self.received[trace["id"]] = self.received.get(trace["id"], 0) + 1
            self.traces[trace["id"]] = trace
        self.spans.update((span["id"], span) for span in content.get("spans", ()))
        self.scores.update(((score["id"], score["name"]), score) for score in content.get("scores", ()))
        if request.method == "PATCH":
            self.traces.setdefault(request.path.rpartition("/")[2], {}).update(content)
