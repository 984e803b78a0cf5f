"""What a database adds to an audit store: whole batches, readers beside writers, and instances that share it."""

from __future__ import annotations

import threading
from contextlib import closing

import pytest

from e2i_serving.exceptions import StoreError
from e2i_serving.record import PredictionFilter, RowBatch
from e2i_serving.relay.explode import explode
from e2i_serving.stores.engine import sqlite_url
from e2i_serving.stores.query import SqlAuditQuery
from e2i_serving.stores.sql import SqlAuditStore

EVERYTHING = PredictionFilter()


@pytest.fixture(params=["sqlite", "postgres"])
def url(request, tmp_path) -> str:
    """The URL of an empty store on each database."""
    if request.param == "sqlite":
        return sqlite_url(tmp_path / "audit.db")
    address: str = request.getfixturevalue("postgres_url")
    return address


def test_a_failed_write_stores_nothing(url, entry):
    """A batch is all or nothing, and can be handed over again."""
    with closing(SqlAuditStore(url)) as store:
        store.write(RowBatch())
        batch = explode([entry(1)])
        good = batch.items[0]["item_index"]
        batch.items[0]["item_index"] = None
        with pytest.raises(StoreError, match="can't be written"):
            store.write(batch)
        with closing(SqlAuditQuery(url)) as reader:
            assert reader.count(EVERYTHING) == 0
        batch.items[0]["item_index"] = good
        assert store.write(batch) == 1


def test_reading_while_writing(url, entry):
    """A reader sees whole batches, never a part of one, while another thread writes."""
    with closing(SqlAuditStore(url)) as store, closing_reader(url, store) as reader:
        batches = [explode([entry(10 * batch + number, items=2) for number in range(10)]) for batch in range(20)]
        writer = threading.Thread(target=lambda: [store.write(batch) for batch in batches])
        writer.start()
        seen = []
        while writer.is_alive():
            seen.append(reader.count(EVERYTHING))
        writer.join()
        assert [number % 10 for number in seen] == [0] * len(seen)
        assert reader.count(EVERYTHING) == 200


def closing_reader(url: str, store: SqlAuditStore) -> closing[SqlAuditQuery]:
    """A reader of a store whose tables exist."""
    store.write(RowBatch())
    return closing(SqlAuditQuery(url))


def test_a_reader_can_not_change_anything(url):
    """The reader's own connection refuses to write."""
    with closing(SqlAuditStore(url)) as store, closing_reader(url, store) as reader:
        from sqlalchemy import text
        from sqlalchemy.exc import DBAPIError

        with pytest.raises(DBAPIError, match=r"(?i)read-?only"), reader._engine.begin() as connection:
            connection.execute(text("DELETE FROM predictions"))


def test_several_relays_make_the_tables_at_once(url, entry):
    """Instances that share a store may all be its first."""
    numbers = range(1, 5)
    stores = [SqlAuditStore(url) for _ in numbers]
    written: list[int] = []
    threads = [
        threading.Thread(
            target=lambda store=store, number=number: written.append(store.write(explode([entry(number)])))
        )
        for store, number in zip(stores, numbers, strict=True)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for store in stores:
        store.close()
    assert written == [1, 1, 1, 1]
