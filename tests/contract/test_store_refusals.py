"""Which errors of a database are for good, and which pass, on real ones."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import psutil
import psycopg
import pytest
from sqlalchemy import text

from e2i_serving.exceptions import RefusedError, StoreError
from e2i_serving.record import PredictionFilter, Row, RowBatch
from e2i_serving.stores import engine as engine_module
from e2i_serving.stores import sql as sql_module
from e2i_serving.stores import watchdog as watchdog_module
from e2i_serving.stores.engine import sqlite_url
from e2i_serving.stores.query import SqlAuditQuery
from e2i_serving.stores.sql import SqlAuditStore
from e2i_serving.stores.tables import metadata

NOT_NULL: dict[str, Any] = {
    "prediction_id": "p1",
    "time_ns": 1,
    "duration": 0.5,
    "outcome": "ok",
    "status": 200,
    "sampled": False,
    "items": 0,
    "sampling_fraction": 1.0,
    "schema_version": 1,
    "life": "life-1",
    "sequence": 1,
}


def prediction(**changes: Any) -> Row:
    """A prediction's row, with every column."""
    return {**dict.fromkeys(metadata.tables["predictions"].columns.keys()), **NOT_NULL, **changes}


def batch(**changes: Any) -> RowBatch:
    """A batch of one prediction."""
    return RowBatch(predictions=[prediction(**changes)])


@pytest.fixture(params=["sqlite", "postgres"])
def url(request, tmp_path) -> str:
    """The URL of an empty store on each database."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "audit.db")
    address: str = request.getfixturevalue("postgres_url")
    return address


@pytest.fixture
def store(url) -> Iterator[SqlAuditStore]:
    """A store whose tables are there."""
    with closing(SqlAuditStore(url)) as made:
        made.write(RowBatch())
        yield made


@pytest.mark.parametrize(
    "changes",
    [
        {"outcome": None},
        {"sequence": 2**70},
        {"request_id": "surrogate \ud800"},
        {"request_id": {"of": "another type"}},
        {"labels": object()},
    ],
    ids=["null", "overflow", "surrogate", "dict", "object"],
)
def test_rows_that_no_database_takes_are_refused_for_good(store, url, changes):
    """What can never be stored says so, stores nothing, and quotes nobody's data; what follows is stored."""
    both = RowBatch(predictions=[prediction(prediction_id="good"), prediction(**{"request_id": "s3cret", **changes})])
    with pytest.raises(RefusedError) as caught:
        store.write(both)
    assert "s3cret" not in str(caught.value)
    assert "\n" not in str(caught.value)
    with closing(SqlAuditQuery(url)) as reader:
        assert reader.count(PredictionFilter()) == 0
    assert store.write(batch()) == 1


def test_a_row_without_a_column_is_refused_for_good(store):
    """What was left out will not be there the next time."""
    row = prediction()
    del row["hash"]
    with pytest.raises(RefusedError, match="hash"):
        store.write(RowBatch(predictions=[row]))


@pytest.mark.parametrize(
    "changes",
    [{"status": 2**40}, {"labels": '{"unclosed'}, {"request_id": "nul\0"}],
    ids=["integer", "json", "nul"],
)
def test_what_only_postgres_refuses(postgres_url, changes):
    """Values that do not fit a column's type are refused for good."""
    with closing(SqlAuditStore(postgres_url)) as store:
        with pytest.raises(RefusedError, match="never will be") as caught:
            store.write(batch(**changes))
        assert "unclosed" not in str(caught.value)


def test_an_index_key_that_is_too_long_is_refused_for_good(postgres_url):
    """PostgreSQL calls it a limit of the program, and it will not move."""
    noise = "".join(chr(0x4E00 + number * 7919 % 20000) for number in range(4000))
    with closing(SqlAuditStore(postgres_url)) as store, pytest.raises(RefusedError, match="index row"):
        store.write(batch(request_id=noise))


def test_a_check_of_the_administrators_refuses_for_good(store, url):
    """A constraint that somebody added is an answer about the row."""
    with store._engine.begin() as connection:
        if url.startswith("sqlite"):
            connection.execute(
                text(
                    "CREATE TRIGGER no_errors BEFORE INSERT ON predictions WHEN NEW.outcome = 'error' "
                    "BEGIN SELECT RAISE(ABORT, 'no errors here'); END"
                )
            )
        else:
            connection.execute(text("ALTER TABLE predictions ADD CHECK (outcome <> 'error')"))
    with pytest.raises(RefusedError):
        store.write(batch(outcome="error"))
    assert store.write(batch()) == 1


def passing(error: StoreError) -> bool:
    """Whether an error is one after which a batch is handed over again."""
    return not isinstance(error, RefusedError)


def test_a_locked_sqlite_file_passes(tmp_path, monkeypatch):
    """Another process's lock is waited for, then said, and the batch can be handed over again."""
    monkeypatch.setattr(engine_module, "BUSY_SECONDS", 0.05)
    with closing(SqlAuditStore(sqlite_url(tmp_path / "audit.db"))) as store:
        store.write(RowBatch())
        with closing(sqlite3.connect(tmp_path / "audit.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(StoreError, match="locked") as caught:
                store.write(batch())
            assert passing(caught.value)
            other.execute("ROLLBACK")
        assert store.write(batch()) == 1


def test_a_full_sqlite_file_passes(tmp_path):
    """A store that has no room is tried again."""
    with closing(SqlAuditStore(sqlite_url(tmp_path / "audit.db"))) as store:
        store.write(RowBatch())
        with store._engine.connect() as connection:
            pages = connection.exec_driver_sql("PRAGMA page_count").scalar_one()
            connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StoreError, match="full") as caught:
            store.write(batch(attributes=f'"{"x" * 100_000}"'))
        assert passing(caught.value)


def test_a_file_that_is_no_database_passes(tmp_path):
    """What an operator can mend is not held against the rows."""
    (tmp_path / "audit.db").write_bytes(b"not a database at all" * 500)
    with closing(SqlAuditStore(sqlite_url(tmp_path / "audit.db"))) as store, pytest.raises(StoreError) as caught:
        store.write(batch())
    assert passing(caught.value)


def test_a_read_only_sqlite_file_passes(tmp_path):
    """Rights can be given."""
    with closing(SqlAuditStore(sqlite_url(tmp_path / "audit.db"))) as store:
        store.write(RowBatch())
        with store._engine.connect() as connection:
            connection.exec_driver_sql("PRAGMA query_only = ON")
        with pytest.raises(StoreError, match="readonly") as caught:
            store.write(batch())
        assert passing(caught.value)


def test_missing_tables_pass(store, url):
    """A table that somebody dropped can be brought back."""
    with store._engine.begin() as connection:
        connection.execute(text("DROP TABLE events"))
    events = dict.fromkeys(metadata.tables["events"].columns.keys())
    row = {**events, "life": "l", "sequence": 1, "prediction_id": "p", "kind": "end", "duration": 1.0, "outcome": "ok"}
    with pytest.raises(StoreError) as caught:
        store.write(RowBatch(events=[row]))
    assert passing(caught.value)


def test_a_connection_that_was_ended_is_made_anew(postgres_url):
    """A server that was restarted between two writes costs neither of them."""
    with closing(SqlAuditStore(postgres_url)) as store, psycopg.connect(postgres_url, autocommit=True) as admin:
        store.write(RowBatch())
        admin.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
            "AND datname = current_database() AND backend_type = 'client backend'"
        )
        assert store.write(batch()) == 1


def test_a_server_that_is_read_only_passes(postgres_url):
    """A standby becomes the primary one day."""
    with closing(SqlAuditStore(postgres_url)) as store:
        store.write(RowBatch())
        with store._engine.connect() as connection:
            connection.exec_driver_sql("SET SESSION CHARACTERISTICS AS TRANSACTION READ ONLY")
            connection.commit()
        with pytest.raises(StoreError, match="read-only") as caught:
            store.write(batch())
        assert passing(caught.value)
        store.close()
        assert store.write(batch()) == 1


def test_a_lock_at_the_server_ends_the_statement(postgres_url, monkeypatch):
    """A statement that waits too long is given up by the server, and the batch can be handed over again."""
    monkeypatch.setattr(sql_module, "STATEMENT_SECONDS", 1)
    with closing(SqlAuditStore(postgres_url)) as store, psycopg.connect(postgres_url) as other:
        store.write(RowBatch())
        other.execute("LOCK TABLE predictions IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(StoreError, match="statement timeout") as caught:
            store.write(batch())
        assert passing(caught.value)
        other.rollback()
        assert store.write(batch()) == 1


@contextlib.contextmanager
def stopped_backends(url: str) -> Iterator[None]:
    """The server's processes for this schema, stopped as if they hung."""
    schema = re.search(r"search_path%3D(\w+)", url)
    assert schema
    with psycopg.connect(url, autocommit=True) as admin:
        rows = admin.execute(
            "SELECT pid FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
        ).fetchall()
        backends = [psutil.Process(pid) for (pid,) in rows]
    for backend in backends:
        backend.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        for backend in backends:
            with contextlib.suppress(psutil.NoSuchProcess):
                backend.send_signal(signal.SIGCONT)


def test_a_server_that_hangs_is_given_up(postgres_url, monkeypatch):
    """A server's process that is stopped acknowledges and never answers; the write goes on with another."""
    monkeypatch.setattr(watchdog_module, "HANG_SECONDS", 0.5)
    with closing(SqlAuditStore(postgres_url)) as store:
        store.write(RowBatch())
        with stopped_backends(postgres_url):
            assert store.write(batch()) == 1, "The server takes new connections, and one was not made."


def test_a_server_that_takes_connections_and_says_nothing_is_given_up(monkeypatch):
    """A port that is open and silent ends in an error, not in waiting for ever."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        with closing(SqlAuditStore(f"postgresql://ann@127.0.0.1:{port}/audit?connect_timeout=2")) as store:
            with pytest.raises(StoreError) as caught:
                store.write(batch())
            assert passing(caught.value)


def relayed(listener: socket.socket, target: str, stalled: threading.Event) -> None:
    """Hand bytes on between a client and a server's socket until stalled; then keep the line open and silent."""
    client, _ = listener.accept()
    server = socket.socket(socket.AF_UNIX)
    server.connect(target)

    def pump(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if stalled.is_set():
                    continue
                sink.sendall(data)

    threads = [threading.Thread(target=pump, args=pair, daemon=True) for pair in ((client, server), (server, client))]
    for thread in threads:
        thread.start()
    threads[0].join()  # until the client is gone
    server.close()
    client.close()


def test_a_line_that_falls_silent_is_given_up(postgres_url, postgres_server, monkeypatch):
    """A proxy that goes on taking bytes and answers none can't hold a write for ever."""
    monkeypatch.setattr(watchdog_module, "HANG_SECONDS", 0.5)
    folder = re.search(r"host=([^&]+)", postgres_server)
    assert folder
    (path,) = Path(unquote(folder[1])).glob(".s.PGSQL.*[0-9]")
    stalled = threading.Event()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        proxy = threading.Thread(target=relayed, args=(listener, str(path), stalled), daemon=True)
        proxy.start()
        port = listener.getsockname()[1]
        address = re.sub(r"@/", f"@127.0.0.1:{port}/", postgres_url)
        address = re.sub(r"host=[^&]+&?", "connect_timeout=2&", address)
        with closing(SqlAuditStore(address)) as store:
            store.write(batch())
            stalled.set()
            with pytest.raises(StoreError) as caught:
                store.write(batch(prediction_id="p2"))
            assert passing(caught.value)
        proxy.join(10)
        assert not proxy.is_alive()


def test_the_watchdog_leaves_what_is_done_alone(postgres_url):
    """A timer that fires as its write ends does not cut the connection that the next one uses."""
    with closing(SqlAuditStore(postgres_url)) as store:
        store.write(batch())
        connection = store._watchdog._connection
        store._watchdog._cut()
        assert store.write(batch(prediction_id="p2")) == 1
        assert store._watchdog._connection is connection
