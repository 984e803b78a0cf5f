"""What is told of the calls that a store makes of its database: the same of SQLite and of PostgreSQL."""

from __future__ import annotations

from contextlib import closing
from itertools import pairwise

import pytest
from sqlalchemy.engine import make_url

from e2i_serving.exceptions import RefusedError
from e2i_serving.record import RowBatch
from e2i_serving.relay.explode import explode
from e2i_serving.stores.calls import Database
from e2i_serving.stores.engine import sqlite_url
from e2i_serving.stores.sql import SqlAuditStore


@pytest.fixture(params=["sqlite", "postgres"])
def url(request, tmp_path):
    """A database of each kind, empty."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "audit.db")
    return request.getfixturevalue("postgres_url")


@pytest.fixture
def calls():
    """What was told."""
    return []


@pytest.fixture
def store(url, calls):
    """A store whose tables are made, and of which nothing was told yet."""
    with closing(SqlAuditStore(url, on_call=calls.append)) as made:
        made.write(RowBatch())
        calls.clear()
        yield made


def test_a_write_is_one_call_a_table_and_a_commit(store, url, calls, entry):
    """However many rows it has; which database it was and how long it took is told, and no value."""
    store.write(explode([entry(number) for number in range(1, 101)]))
    found = [(call.operation, call.table, call.rows) for call in calls if call.operation != "SET"]
    assert found == [("INSERT", "predictions", 100), ("INSERT", "items", 100), ("COMMIT", "", 0)]
    assert all(before.ended_ns <= after.began_ns for before, after in pairwise(calls))
    assert all(0 < call.began_ns <= call.ended_ns for call in calls)
    parsed = make_url(url)
    if parsed.drivername == "sqlite":
        assert calls[0].database == Database("sqlite")
    else:
        assert calls[0].database == Database("postgresql", parsed.host or "", parsed.port or 0, parsed.database)


def test_a_call_that_fails_says_of_which_type(store, url, calls, entry):
    """The type of what the driver raised, PostgreSQL's code, and the rollback behind it."""
    batch = explode([entry(1)])
    batch.predictions[0]["time_ns"] = None
    with pytest.raises(RefusedError):
        store.write(batch)
    failed, rollback = [call for call in calls if call.operation != "SET"]
    is_server = failed.database.system == "postgresql"
    expected = ("NotNullViolation", "23502") if is_server else ("IntegrityError", "")
    assert (failed.operation, failed.table, failed.error_type, failed.status) == ("INSERT", "predictions", *expected)
    assert (rollback.operation, rollback.error_type) == ("ROLLBACK", "")


def test_who_hears_of_calls_can_not_make_a_write_fail(url, entry, caplog):
    """What it raises is said, and the rows are stored."""

    def fail(call):
        raise ValueError("broken")

    with closing(SqlAuditStore(url, on_call=fail)) as store:
        assert store.write(explode([entry(1)])) == 1
    assert "broken" in caplog.text
