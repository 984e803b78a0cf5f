"""Writes an audit store on SQLite or PostgreSQL, with the same SQLAlchemy Core code."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any, Final

from sqlalchemy import Connection, Dialect, Table, bindparam, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.schema import CreateIndex, CreateTable

from e2i_serving.record import Outcome, Row, RowBatch
from e2i_serving.stores.engine import open_engine, store_errors
from e2i_serving.stores.tables import entities, items, metadata, predictions

_SCHEMA_LOCK: Final = 0x653269  # any number will do; all relays must agree on it

_END_STREAM: Final = (
    update(predictions)
    .where(
        predictions.c.prediction_id == bindparam("of_prediction"),
        predictions.c.outcome == Outcome.INTERRUPTED.value,
    )
    .values(
        duration=bindparam("duration"),
        outcome=bindparam("outcome"),
        response_bytes=func.coalesce(bindparam("response_bytes"), predictions.c.response_bytes),
        error_type=func.coalesce(bindparam("error_type"), predictions.c.error_type),
        error_message=func.coalesce(bindparam("error_message"), predictions.c.error_message),
    )
)


class SqlAuditStore:
    """An ``AuditStore`` on SQLite or PostgreSQL.

    Nothing is connected or created before the first write, so that a relay starts while its database
    is down; tables that are missing are made then.
    """

    def __init__(self, url: str) -> None:
        """Prepare a store.

        Args:
            url: An SQLAlchemy URL, of SQLite (a file) or PostgreSQL.

        Raises:
            ConfigurationError: The URL is wrong, or its driver is not installed.
        """
        self._url = url
        self._engine = open_engine(url)
        self._inserts = {table.name: _insert_or_ignore(table, self._engine.dialect) for table in metadata.sorted_tables}
        self._has_tables = False

    def write(self, batch: RowBatch) -> int:
        """Store a batch in one transaction; see ``AuditStore.write``."""
        with store_errors(self._url, "written"):
            self._create_tables()
            with self._engine.begin() as connection:
                new = self._insert(connection, predictions, batch.predictions)
                self._insert(connection, items, batch.items)
                self._insert(connection, entities, batch.entities)
                if batch.stream_ends:
                    ends = [{**end, "of_prediction": end["prediction_id"]} for end in batch.stream_ends]
                    connection.execute(_END_STREAM, [_without(end, "prediction_id") for end in ends])
        return new

    def close(self) -> None:
        """Give back connections and files."""
        self._engine.dispose()

    def _create_tables(self) -> None:
        if self._has_tables:
            return
        with self._engine.begin() as connection:
            if connection.dialect.name == "postgresql":  # IF NOT EXISTS is no protection from another relay's
                connection.execute(select(func.pg_advisory_xact_lock(_SCHEMA_LOCK)))
            for table in metadata.sorted_tables:
                connection.execute(CreateTable(table, if_not_exists=True))
                for index in sorted(table.indexes, key=lambda index: str(index.name)):
                    connection.execute(CreateIndex(index, if_not_exists=True))
        self._has_tables = True

    def _insert(self, connection: Connection, table: Table, rows: Sequence[Row]) -> int:
        """Hand rows to the driver as they are: to process each value again would cost more than the database."""
        if not rows:
            return 0
        statement, names = self._inserts[table.name]
        parameters: Sequence[Any] = list(map(itemgetter(*names), rows)) if names else rows
        options = {"preserve_rowcount": True}
        return max(connection.exec_driver_sql(statement, parameters, execution_options=options).rowcount, 0)


def _insert_or_ignore(table: Table, dialect: Dialect) -> tuple[str, Sequence[str]]:
    """The statement for a driver, and the columns in its order; none for a driver that takes them by name."""
    construct: Any = postgresql if dialect.name == "postgresql" else sqlite
    compiled: Any = construct.insert(table).on_conflict_do_nothing().compile(dialect=dialect)
    return str(compiled), compiled.positiontup or ()


def _without(row: Row, column: str) -> Row:
    return {name: value for name, value in row.items() if name != column}
