"""Fixtures of the unit tests."""

from __future__ import annotations

import os
import re
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from opik_entries import opened_exporter

from e2i_serving.exceptions import StoreError
from e2i_serving.journal import JournalReader, JournalWriter, LifeFolder, Position, list_lives
from e2i_serving.journal.frame import Frame
from e2i_serving.observers.metrics import ObservationBooks, observation_books
from e2i_serving.record import Entry, Life, ModelInfo, Outcome, PredictionFilter, PredictionRecord, StreamEnd, Values
from e2i_serving.relay import Delivery, Destination, Ledger, Relay, breaker, read_books
from e2i_serving.relay.audit_destination import AuditDestination
from e2i_serving.runtime.definition import ServiceDefinition
from e2i_serving.runtime.layer import ObservabilityLayer
from e2i_serving.runtime.observation import Endpoint
from e2i_serving.runtime.worker import Worker
from e2i_serving.testing import OpikReceiver
from e2i_serving.testing.stores import InMemoryAuditStore

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

    def __init__(
        self, data_dir: Any, *, strict: bool = True, observers: Any = (), served_by: Any = None, **arguments: Any
    ) -> None:
        options = {"data_dir": str(data_dir), "relay_enabled": False, "access_log_enabled": False} | arguments
        self.seen = Seen()
        self.worker = Worker(
            ServiceDefinition("credit", Service, options),
            MODEL,
            ENDPOINTS,
            other_routes=frozenset({"/readyz"}),
            served_by=served_by,
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

    def books(self) -> ObservationBooks:
        """What became of the records that were observed."""
        return observation_books(self.worker.data_dir / "metrics")

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


class Journals:
    """What tests of the journal write and read with."""

    @staticmethod
    def life(name: str = "life-1") -> Life:
        """A worker's life."""
        return Life(name, "credit", 1, os.getpid())

    @staticmethod
    def record(number: int, size: int = 0) -> PredictionRecord:
        """A record with a payload of about so many bytes."""
        inputs = {"text": Values(["x" * size])} if size else {}
        return PredictionRecord(
            f"p{number}", number, 0.1, Outcome.OK, 200, request_id=f"r{number}", items=1, inputs=inputs
        )

    @staticmethod
    def open_writer(journal: Path, name: str = "life-1", **options: Any) -> JournalWriter:
        """A writer with small segments."""
        return JournalWriter(
            journal, Journals.life(name), **{"segment_bytes": 64 * 1024, "record_bytes": 4 * 1024 * 1024} | options
        )

    @staticmethod
    def only_folder(journal: Path) -> LifeFolder:
        """The folder of the only life."""
        (folder,) = list_lives(journal)
        return folder

    @staticmethod
    def read_all(
        folder: LifeFolder, position: Position | None = None, limit: int = 1000
    ) -> tuple[list[Frame], JournalReader]:
        """All frames of an ended life, and the reader behind them."""
        reader = JournalReader(folder, position)
        frames: list[Frame] = []
        while more := reader.read(limit, ended=True):
            frames += more
        return frames, reader

    @staticmethod
    def ids(frames: list[Frame]) -> list[str]:
        """Prediction ids, in order."""
        return [frame.decode().prediction_id for frame in frames]  # type: ignore[union-attr]


@pytest.fixture(scope="session")
def journal() -> type[Journals]:
    """What tests of the journal write and read with."""
    return Journals


class Store(AuditDestination):
    """An audit store in memory that can be told to fail, and that counts how often it is asked."""

    class ProcessDiedError(BaseException):
        """Stands for the end of the process between two instructions."""

    def __init__(self, kept: Any = None) -> None:
        self.kept = kept or InMemoryAuditStore()
        super().__init__(self.kept)
        self.handed: list[str] = []
        self.down = 0
        self.dies_after_writing = False

    def deliver(self, entries: Sequence[Entry], state: bytes) -> bytes:
        """Store entries, or fail as was asked for."""
        if self.down:
            self.down -= 1
            raise StoreError("The store is down.")
        self.handed += [getattr(entry.body, "prediction_id", "") for entry in entries]
        state = super().deliver(entries, state)
        if self.dies_after_writing:
            raise self.ProcessDiedError
        return state

    @property
    def ids(self) -> list[str]:
        """What it has, in order of time."""
        return [row["prediction_id"] for row in self.kept.predictions(PredictionFilter(), newest_first=False)]


class Instance:
    """A data directory with a ledger, a store and a relay of them, as often as one is needed."""

    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.store = Store()
        self.ledger = Ledger(data_dir)
        self.tidied = 0

    def relay(
        self, *destinations: Destination, batch_size: int = 10, linger: float | None = None, **options: Any
    ) -> Relay:
        """A relay to the store, or to others."""
        deliveries = [
            Delivery(destination, self.ledger, batch_size=batch_size) for destination in destinations or (self.store,)
        ]
        arguments: dict[str, Any] = {"poll_seconds": 0.01, "linger_seconds": linger, "housekeeping": self.tidy}
        return Relay(self.data_dir, deliveries, self.ledger, **arguments | options)

    def tidy(self) -> None:
        self.tidied += 1

    def lives(self) -> list[LifeFolder]:
        return list_lives(self.data_dir / "journal")

    def balanced(self) -> tuple[int, int, int, dict[str, int]]:
        (book,) = read_books(self.data_dir)
        assert book.balanced
        return book.accepted, book.stored, book.pending, dict(book.dropped)

    def open_writer(self, name: str = "life-1") -> JournalWriter:
        """A writer with small segments."""
        journal = self.data_dir / "journal"
        return JournalWriter(journal, self.life(name), segment_bytes=64 * 1024, record_bytes=1024 * 1024)

    @staticmethod
    def life(name: str) -> Life:
        """A worker's life."""
        return Life(name, "credit", 1, os.getpid())

    @staticmethod
    def record(number: int, size: int = 0) -> PredictionRecord:
        """A record with a payload of about so many bytes."""
        inputs = {"text": Values(["x" * size])} if size else {}
        return PredictionRecord(f"p{number:04d}", number, 0.1, Outcome.OK, 200, items=1, inputs=inputs)

    @staticmethod
    def names(count: int, start: int = 0) -> list[str]:
        """The ids of records by number."""
        return [f"p{number:04d}" for number in range(start, start + count)]


@pytest.fixture
def instance(tmp_path):
    """An instance whose relay has not run."""
    made = Instance(tmp_path)
    with closing(made.ledger):
        yield made


@pytest.fixture
def short_pauses(monkeypatch):
    """A destination that is down is asked again soon."""
    monkeypatch.setattr(breaker, "FIRST_PAUSE_SECONDS", 0.01)
    monkeypatch.setattr(breaker, "LONGEST_PAUSE_SECONDS", 0.05)


@pytest.fixture
def opik() -> Iterator[OpikReceiver]:
    """What stands for Opik."""
    with OpikReceiver() as receiver:
        yield receiver


@pytest.fixture
def export(opik: OpikReceiver) -> Callable[..., None]:
    """What exports entries to it."""

    def run(*entries: Entry, **options: Any) -> None:
        with opened_exporter(opik.url, **options) as exporter:
            exporter.export(entries)

    return run
