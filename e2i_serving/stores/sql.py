"""Writes an audit store on SQLite or PostgreSQL, with the same SQLAlchemy Core code."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any, Final

from sqlalchemy import Connection, Dialect, Select, Table, Text, bindparam, func, literal, select, union_all
from sqlalchemy.dialects import postgresql, sqlite

from e2i_serving.record import ChainEnd, Row, RowBatch
from e2i_serving.stores.calls import CallWatch, OnCall
from e2i_serving.stores.engine import open_engine, store_errors
from e2i_serving.stores.migrations import HEAD, bring_to_head, version_of
from e2i_serving.stores.refusals import refusals
from e2i_serving.stores.tables import accesses, entities, events, gaps, items, outcomes, predictions
from e2i_serving.stores.watchdog import Watchdog

_WRITTEN: Final = (predictions, items, entities, events, outcomes, accesses, gaps)

STATEMENT_SECONDS: Final = 50
"""How long a PostgreSQL server may work on one statement of a write, waiting for locks included."""


class SqlAuditStore:
    """An ``AuditStore`` on SQLite or PostgreSQL.

    Nothing is connected or created before the first write, so that a relay starts while its database
    is down; the tables are made or upgraded then. A server that does not answer is given up after
    ``watchdog.HANG_SECONDS``.
    """

    def __init__(self, url: str, *, on_call: OnCall | None = None) -> None:
        """Prepare a store.

        Args:
            url: An SQLAlchemy URL, of SQLite (a file) or PostgreSQL.
            on_call: Is told each call of the database.

        Raises:
            ConfigurationError: The URL is wrong, or its driver is not installed.
        """
        self._url = url
        self._engine = open_engine(url)
        self._inserts = {table.name: _insert_or_ignore(table, self._engine.dialect) for table in _WRITTEN}
        self._is_server = self._engine.dialect.name == "postgresql"
        self._watchdog = Watchdog(self._engine)
        self._is_at_head = False
        if on_call is not None:
            CallWatch(self._engine, on_call)

    def write(self, batch: RowBatch) -> int:
        """Store a batch in one transaction; see ``AuditStore.write``."""
        with store_errors(self._url, "written"):
            self._upgrade()
            with self._watchdog, self._engine.begin() as connection:
                if self._is_server:  # of this transaction alone: a pooler may hand the session to others
                    connection.exec_driver_sql(f"SET LOCAL statement_timeout = '{STATEMENT_SECONDS}s'")
                with refusals(self._url):
                    new = self._insert(connection, predictions, batch.predictions)
                    self._insert(connection, items, batch.items)
                    self._insert(connection, entities, batch.entities)
                    self._insert(connection, events, batch.events)
                    self._insert(connection, outcomes, batch.outcomes)
                    self._insert(connection, accesses, batch.accesses)
                    self._insert(connection, gaps, batch.gaps)
        return new

    def chain_end(self, life: str, *, since: int, until: int) -> ChainEnd | None:
        """The last row of a life that has a hash; see ``AuditStore.chain_end``."""
        with store_errors(self._url, "read"):
            self._upgrade()
            with self._watchdog, self._engine.begin() as connection:
                if self._is_server:
                    connection.exec_driver_sql(f"SET LOCAL statement_timeout = '{STATEMENT_SECONDS}s'")
                found = connection.execute(_CHAIN_ENDS, {"life": life, "since": since, "until": until}).all()
        # Only the numbers are known to be comparable: SQLite's columns take values of any type.
        return max((ChainEnd(*row) for row in found), key=lambda end: (end.sequence, str(end.reason)), default=None)

    def close(self) -> None:
        """Give back connections and files."""
        self._engine.dispose()

    def _upgrade(self) -> None:
        if self._is_at_head:
            return
        with self._watchdog, self._engine.connect() as connection:
            version = version_of(connection)
        if version != HEAD:
            bring_to_head(self._engine)  # takes as long as it takes
        self._is_at_head = True

    def _insert(self, connection: Connection, table: Table, rows: Sequence[Row]) -> int:
        """Hand rows to the driver as they are: to process each value again would cost more than the database."""
        if not rows:
            return 0
        statement, names = self._inserts[table.name]
        parameters: Sequence[Any] = list(map(itemgetter(*names), rows)) if names else rows
        options = {"preserve_rowcount": True}
        return max(connection.exec_driver_sql(statement, parameters, execution_options=options).rowcount, 0)


def _chain_end(table: Table) -> Select[Any]:
    """The statement that finds a table's last row of a life."""
    is_gap = table is gaps
    place = table.c.last if is_gap else table.c.sequence
    about = (table.c.reason, func.coalesce(table.c.digest, "")) if is_gap else (_NOTHING, _NOTHING)
    found = (
        select(place, table.c.hash, *about)
        .where(table.c.life == bindparam("life"), place.between(bindparam("since"), bindparam("until")))
        .where(table.c.hash.is_not(None))
        .order_by(place.desc())
        .limit(1)
    )
    return select(*found.subquery().c)


_NOTHING: Final = literal("", Text)
_CHAIN_ENDS: Final = union_all(*map(_chain_end, (predictions, events, outcomes, accesses, gaps)))


def _insert_or_ignore(table: Table, dialect: Dialect) -> tuple[str, Sequence[str]]:
    """The statement for a driver, and the columns in its order; none for a driver that takes them by name."""
    construct: Any = postgresql if dialect.name == "postgresql" else sqlite
    compiled: Any = construct.insert(table).on_conflict_do_nothing().compile(dialect=dialect)
    return str(compiled), compiled.positiontup or ()
