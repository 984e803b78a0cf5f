"""Fixtures of the unit tests."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from e2i_serving.journal import JournalReader, list_lives
from e2i_serving.record import ModelInfo, PredictionRecord, StreamEnd
from e2i_serving.runtime.definition import ServiceDefinition
from e2i_serving.runtime.layer import ObservabilityLayer
from e2i_serving.runtime.observation import Endpoint
from e2i_serving.runtime.worker import Worker

MODEL = ModelInfo("scorer", "v1", task="classification")
ENDPOINTS = {"/predict": Endpoint("predict", "/predict"), "/stream": Endpoint("stream", "/stream", is_stream=True)}

App = Callable[[Any, Any, Any], Awaitable[None]]


class Service:
    """A class to define a service by."""


class Seen:
    """An observer that keeps what it is shown."""

    def __init__(self) -> None:
        self.records: list[PredictionRecord] = []

    def on_end(self, record: PredictionRecord) -> None:
        self.records.append(record)


class Rig:
    """A layer around an application, with a real worker on a data directory of its own."""

    def __init__(self, data_dir: Any, *, strict: bool = True, observers: Any = (), **arguments: Any) -> None:
        options = {"data_dir": str(data_dir), "relay_enabled": False, "access_log_enabled": False} | arguments
        self.seen = Seen()
        self.worker = Worker(
            ServiceDefinition("credit", Service, options),
            MODEL,
            ENDPOINTS,
            other_routes=frozenset({"/readyz"}),
            observers=[*observers, ("seen", self.seen)],
            strict=strict,
        )

    async def request(
        self, app: App, path: str = "/predict", *, headers: Any = (), method: str = "POST", receive: Any = None
    ) -> list[Any]:
        """Serve one request, and return the messages that were sent."""
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        scope = {"type": "http", "path": path, "method": method, "headers": list(headers), "query_string": b""}
        await ObservabilityLayer(app, self.worker)(scope, receive or _nothing_to_receive, send)
        return sent

    def journaled(self) -> list[PredictionRecord | StreamEnd]:
        """What stands in the journal."""
        found: list[Any] = []
        for folder in list_lives(self.worker.data_dir / "journal"):
            found += [frame.decode() for frame in JournalReader(folder).read(10_000, ended=True)]
        return found

    @property
    def only(self) -> PredictionRecord:
        """The only record; what observers saw is what was journaled."""
        (record,) = self.journaled()
        assert self.seen.records == [record]
        assert isinstance(record, PredictionRecord)
        return record

    def metric(self, name: str) -> float:
        """The value of a metric without or with labels, as it is exposed; 0 when it is not."""
        found = re.search(rf"^{re.escape(name)} (\S+)$", self.worker.metrics_text(), re.MULTILINE)
        return float(found.group(1)) if found else 0.0

    @staticmethod
    def answering(status: int = 200, body: bytes = b"{}", headers: Any = ()) -> App:
        """An application that answers at once."""

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": status, "headers": list(headers)})
            await send({"type": "http.response.body", "body": body})

        return app

    @staticmethod
    def streaming(chunks: int, *, status: int = 200, end: bool = True, error: Exception | None = None) -> App:
        """An application that answers in chunks of ten bytes."""

        async def app(scope: Any, receive: Any, send: Any) -> None:
            await send({"type": "http.response.start", "status": status, "headers": []})
            for _ in range(chunks):
                await send({"type": "http.response.body", "body": b"0123456789", "more_body": True})
            if error is not None:
                raise error
            if end:
                await send({"type": "http.response.body", "body": b"", "more_body": False})

        return app

    @staticmethod
    def header(sent: list[Any], name: bytes) -> list[bytes]:
        """The values of a response header."""
        return [value for key, value in sent[0]["headers"] if key == name]


async def _nothing_to_receive() -> Any:
    return {"type": "http.request", "body": b"", "more_body": False}


@pytest.fixture
def make_rig(tmp_path):
    """Make rigs, and end them."""
    made: list[Rig] = []

    def make(**options: Any) -> Rig:
        made.append(Rig(options.pop("data_dir", tmp_path / f"data-{len(made)}"), **options))
        return made[-1]

    yield make
    for rig in made:
        rig.worker.close()


@pytest.fixture
def rig(make_rig) -> Rig:
    """A rig whose own faults raise."""
    return make_rig()
