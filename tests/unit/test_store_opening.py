"""How SQL stores are named, opened and refused."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest

from e2i_serving.exceptions import ConfigurationError, StoreError
from e2i_serving.record import Entry, Life, Outcome, PredictionFilter, PredictionRecord
from e2i_serving.relay.explode import explode
from e2i_serving.stores.engine import open_engine, sqlite_url
from e2i_serving.stores.query import SqlAuditQuery
from e2i_serving.stores.sql import SqlAuditStore
from e2i_serving.stores.urls import masked_url

ENTRY = Entry(Life("life-1", "credit", 1, 1), 1, PredictionRecord("p1", 1, 0.1, Outcome.OK, 200))


def test_a_missing_sqlite_file_is_said_and_not_made(tmp_path):
    """A reader names the file it did not find, says what to do, and creates nothing."""
    path = tmp_path / "audit.db"
    with pytest.raises(StoreError, match=r"no audit store at .*audit\.db.*relay"):
        SqlAuditQuery(sqlite_url(path))
    assert not path.exists()


def test_a_database_of_something_else_is_a_store_error(tmp_path):
    """A file that is no audit store is refused in this package's words."""
    path = tmp_path / "other.db"
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE invoices (number INTEGER)")
    with closing(SqlAuditQuery(sqlite_url(path))) as reader, pytest.raises(StoreError, match="holds no audit store"):
        reader.count(PredictionFilter())


def test_a_store_that_is_being_made_reads_as_empty(tmp_path):
    """Between the file's creation and its tables', a reader finds nothing instead of an error."""
    path = tmp_path / "audit.db"
    path.touch()
    with closing(SqlAuditQuery(sqlite_url(path))) as reader:
        assert reader.count(PredictionFilter()) == 0
        assert list(reader.predictions(PredictionFilter())) == []


def test_an_odd_path_is_still_a_path(tmp_path):
    """Spaces, percent signs and hashes in a path mean themselves."""
    folder = tmp_path / "a b%20#c"
    folder.mkdir()
    with closing(SqlAuditStore(sqlite_url(folder / "audit.db"))) as store:
        store.write(explode([ENTRY]))
    assert (folder / "audit.db").is_file()
    with closing(SqlAuditQuery(sqlite_url(folder / "audit.db"))) as reader:
        assert reader.count(PredictionFilter()) == 1


def test_a_server_that_is_away_hides_the_password(free_port):
    """A store that can't be reached says so without its password, and only when used."""
    store = SqlAuditStore(f"postgresql://ann:s3cret@127.0.0.1:{free_port}/audit?connect_timeout=2")
    with pytest.raises(StoreError, match=r"ann:\*\*\*@127.0.0.1") as caught:
        store.write(explode([ENTRY]))
    assert "s3cret" not in str(caught.value)
    store.close()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mysql://u:s3cret@h/db", "no audit store on 'mysql'"),
        ("sqlite://", "in memory"),
        ("sqlite:///:memory:", "in memory"),
        ("ann:s3cret", "no store URL"),
        ("", "no store URL"),
    ],
)
def test_a_wrong_url_is_a_configuration_error(url, said):
    """What is no usable URL is refused when the store is made."""
    with pytest.raises(ConfigurationError, match=said):
        SqlAuditStore(url)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://ann:s3cret@host:5432/db", "postgresql://ann:***@host:5432/db"),
        ("postgresql://ann:s3/cr@et@host/db", "postgresql://ann:***@host/db"),
        ("postgresql://host/db?user=ann&password=s3cret&x=1", "postgresql://host/db?user=ann&password=***&x=1"),
        ("postgresql://host/db?sslpassword=s3cret", "postgresql://host/db?sslpassword=***"),
        ("sqlite:////var/lib/audit.db", "sqlite:////var/lib/audit.db"),
        ("no url", "no url"),
    ],
)
def test_passwords_are_masked(url, shown):
    """A URL that is shown has no secret in it."""
    assert masked_url(url) == shown


def test_what_was_written_survives_a_loss_of_power(tmp_path):
    """Journals are deleted once the store has their records, so a commit waits for the disk."""
    engine = open_engine(sqlite_url(tmp_path / "audit.db"))
    with closing(engine.raw_connection()) as connection:
        cursor = connection.cursor()
        assert cursor.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert cursor.execute("PRAGMA synchronous").fetchone() == (2,)
    engine.dispose()
