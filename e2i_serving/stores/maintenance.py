"""Changes a store on purpose: erases, purges and holds. All else only ever adds to it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

import msgspec
from sqlalchemy import Connection

from e2i_serving.exceptions import StoreError
from e2i_serving.stores.chains import CHAINED, selected_columns
from e2i_serving.stores.engine import store_errors
from e2i_serving.stores.tables import metadata
from e2i_serving.stores.upgrading import open_current
from e2i_serving.stores.urls import masked_url

_CHUNK: Final = 400
_LOCK: Final = 0x6532695F_6D61696E
"""The advisory lock of a PostgreSQL database that whoever changes a store holds."""

_VACUUMED: Final = ("predictions", "items", "entities", "events", "outcomes", "accesses", "gaps", "holds")


class Hold(msgspec.Struct, frozen=True, kw_only=True):
    """A legal hold: what it covers is neither erased nor purged until it is released.

    Attributes:
        hold_id: UUIDv7 in text form.
        time_ns: When it was set, nanoseconds since the epoch.
        entity: The entity it covers, as ``name=value``; ``None`` for any, or when it was erased after its release.
        model: The model it covers; ``None`` for any.
        since_ns: Predictions at or after this; ``None`` for no bound.
        until_ns: Predictions before this; likewise.
        reason: Why.
        principal: Who set it.
        released_ns: When it was released; ``None`` while it holds.
        released_by: Who released it.
    """

    hold_id: str
    time_ns: int
    entity: str | None = None
    model: str | None = None
    reason: str | None = None
    principal: str | None = None
    since_ns: int | None = None
    until_ns: int | None = None
    released_ns: int | None = None
    released_by: str | None = None


class SqlMaintenance:
    """Changes a store on SQLite or PostgreSQL. For one thread; use it as a context manager.

    Args:
        url: An SQLAlchemy URL.

    Raises:
        ConfigurationError: The URL is wrong, or its driver is not installed.
        StoreError: There is no such store, or another release made it.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._engine = open_current(url, read_only=False)
        self._is_server = self._engine.dialect.name == "postgresql"

    def __enter__(self) -> SqlMaintenance:  # noqa: PYI034  # never derived from
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give back connections."""
        self._engine.dispose()

    @contextmanager
    def transaction(self, *, keep: bool = True) -> Iterator[StoreChange]:
        """One transaction, one at a time: what it saw is not changed by another before it ends.

        Only a relay adds to a PostgreSQL store meanwhile; to one on SQLite nobody does. An exception takes it back.

        Args:
            keep: Whether to commit it; false to try only.

        Raises:
            StoreError: The store refused.
        """
        with store_errors(self._url, "changed"), self._engine.connect() as connection:
            if self._is_server:
                # Two that chose the same rows would both leave, and sign, gaps in their places. Each statement after
                # the lock must see what the one before committed, whatever the server's default is.
                connection.exec_driver_sql("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
                connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_LOCK})")
            else:
                connection.exec_driver_sql("PRAGMA secure_delete = ON")
                connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                yield StoreChange(connection, is_server=self._is_server)
                if keep:
                    connection.commit()
                else:
                    connection.rollback()
            except BaseException:
                connection.rollback()
                raise

    def vacuum(self) -> None:
        """Let nothing of what was erased stay in the database's files.

        Raises:
            StoreError: It refused, for instance because others were reading all the time.
        """
        with (
            store_errors(self._url, "vacuumed"),
            self._engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection,
        ):
            if self._is_server:
                connection.exec_driver_sql(f"VACUUM {', '.join(_VACUUMED)}")
                return
            connection.exec_driver_sql("PRAGMA secure_delete = ON")
            connection.exec_driver_sql("VACUUM")
            (busy, *_), *_ = connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        if busy:
            raise StoreError(
                f"What was erased from {masked_url(self._url)} may still stand in its write-ahead log, as somebody "
                "reads from it all the time. Run the command again later."
            )


class StoreChange:
    """What can be done within one transaction.

    Args:
        connection: The transaction's.
        is_server: Whether it is PostgreSQL.
    """

    def __init__(self, connection: Connection, *, is_server: bool) -> None:
        self._connection = connection
        self._is_server = is_server

    def rows(
        self, table: str, columns: Sequence[str], column: str, values: Iterable[Any], *, where: str = ""
    ) -> list[Any]:
        """Rows of a table that have one of these values in a column, JSON as its stored text.

        Args:
            table: The table.
            columns: The columns to read.
            column: The column to look in.
            values: The values.
            where: A condition more, in SQL.
        """
        names = selected_columns(metadata.tables[table], tuple(columns), "", cast=self._is_server)
        also = f" AND {where}" if where else ""
        found: list[Any] = []
        for chunk in _chunks(values):
            marks = ", ".join("?" * len(chunk))
            statement = f"SELECT {names} FROM {table} WHERE {column} IN ({marks}){also}"  # noqa: S608  # names
            found += self.all(statement, chunk)
        return found

    def all(self, statement: str, parameters: Sequence[Any] = ()) -> list[Any]:
        """The rows of a query, written with ``?``."""
        return list(self._run(statement, parameters).fetchall())

    def update(self, table: str, key: dict[str, Any], values: dict[str, Any]) -> None:
        """Change columns of a row. JSON is handed over as text."""
        assignments = ", ".join(f"{name} = ?" for name in values)
        where = " AND ".join(f"{name} = ?" for name in key)
        self._run(f"UPDATE {table} SET {assignments} WHERE {where}", (*values.values(), *key.values()))  # noqa: S608  # names

    def insert(self, table: str, row: dict[str, Any]) -> None:
        """Add a row."""
        marks = ", ".join("?" * len(row))
        self._run(f"INSERT INTO {table} ({', '.join(row)}) VALUES ({marks})", tuple(row.values()))  # noqa: S608  # names

    def delete(self, table: str, column: str, values: Iterable[Any], *, where: str = "") -> int:
        """Delete the rows that have one of these values in a column; returns how many there were."""
        also = f" AND {where}" if where else ""
        gone = 0
        for chunk in _chunks(values):
            marks = ", ".join("?" * len(chunk))
            gone += self._run(f"DELETE FROM {table} WHERE {column} IN ({marks}){also}", chunk).rowcount  # noqa: S608  # names
        return gone

    def delete_places(self, table: str, places: Iterable[tuple[str, int]]) -> int:
        """Delete rows by their life and sequence number; returns how many there were."""
        return self._run_many(f"DELETE FROM {table} WHERE life = ? AND sequence = ?", list(places))  # noqa: S608  # a constant

    def delete_entities(self, keys: Sequence[tuple[str, str, str, int]]) -> int:
        """Delete rows of ``entities`` by name, value, prediction id and item index; returns how many there were."""
        statement = "DELETE FROM entities WHERE name = ? AND value = ? AND prediction_id = ? AND item_index = ?"
        return self._run_many(statement, keys)

    def links(self, life: str, places: Iterable[int]) -> dict[int, str]:
        """The links of a chain at sequence numbers, in hex; what has none is left out."""
        found: dict[int, str] = {}
        for chunk in _chunks(places):
            marks = ", ".join("?" * len(chunk))
            for table, place in CHAINED.items():  # gaps last: where a row was stored again, its gap has the link
                statement = f"SELECT {place}, hash FROM {table} WHERE life = ? AND {place} IN ({marks})"  # noqa: S608  # names
                found |= {number: link for number, link in self.all(statement, (life, *chunk)) if link is not None}
        return found

    def containing(self, table: str, columns: Sequence[str], column: str, part: str) -> list[Any]:
        """Rows of a table whose column, as text, contains a text."""
        names = selected_columns(metadata.tables[table], tuple(columns), "", cast=self._is_server)
        place = f"strpos({column}::text, ?)" if self._is_server else f"instr({column}, ?)"
        return self.all(f"SELECT {names} FROM {table} WHERE {place} > 0", (part,))  # noqa: S608  # names

    def holds(self, *, released: bool | None = None) -> list[Hold]:
        """The holds, the oldest first.

        Args:
            released: Only the released ones, or only those that hold.
        """
        names = Hold.__struct_fields__
        where = {None: "", True: "WHERE released_ns IS NOT NULL", False: "WHERE released_ns IS NULL"}[released]
        rows = self.all(f"SELECT {', '.join(names)} FROM holds {where} ORDER BY time_ns, hold_id")  # noqa: S608  # names
        return [Hold(**dict(zip(names, row, strict=True))) for row in rows]

    def _run(self, statement: str, parameters: Sequence[Any]) -> Any:
        text = statement.replace("?", "%s") if self._is_server else statement
        return self._connection.exec_driver_sql(text, tuple(parameters))

    def _run_many(self, statement: str, parameters: Sequence[tuple[Any, ...]]) -> int:
        if not parameters:
            return 0
        text = statement.replace("?", "%s") if self._is_server else statement
        options = {"preserve_rowcount": True}
        return max(self._connection.exec_driver_sql(text, list(parameters), execution_options=options).rowcount, 0)


def _chunks(values: Iterable[Any]) -> Iterator[list[Any]]:
    wanted = list(dict.fromkeys(values))
    for start in range(0, len(wanted), _CHUNK):
        yield wanted[start : start + _CHUNK]
