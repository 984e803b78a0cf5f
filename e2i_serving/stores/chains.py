"""Reads rows as they stand in a store, for verification: in bulk, past SQLAlchemy's types, JSON as its text."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import lru_cache
from itertools import chain, islice
from typing import Any, Final, NamedTuple, Self

from sqlalchemy import Table

from e2i_serving.stores.engine import store_errors
from e2i_serving.stores.tables import JsonText, metadata
from e2i_serving.stores.upgrading import open_current

_CHUNK: Final = 2000
CHAINED: Final = {
    "predictions": "sequence",
    "events": "sequence",
    "outcomes": "sequence",
    "accesses": "sequence",
    "gaps": "last",
}
"""The tables whose rows stand in chains, each with the column of its place there."""


class LifeSpan(NamedTuple):
    """The rows of a life in a store.

    Attributes:
        life: The life's id.
        first: The smallest sequence number.
        last: The largest.
        rows: How many rows and gaps.
        time_ns: Time of its latest prediction; 0 when it has none.
    """

    life: str
    first: int
    last: int
    rows: int
    time_ns: int


class EntityRow(NamedTuple):
    """A row of ``entities`` beside the item it is of.

    Attributes:
        name: The entity's name.
        value: Its value.
        prediction_id: The item's prediction.
        item_index: The item's index.
        time_ns: As it stands there.
        model: As it stands there.
        entity: JSON text of the item's entities; ``None`` for none.
        item_time_ns: Time of the item; ``None`` when there is no such item.
        item_model: Model of the item.
        life: Life of the prediction; ``None`` when there is no such prediction.
        sequence: Sequence number of the prediction.
    """

    name: str
    value: str
    prediction_id: str
    item_index: int
    time_ns: int
    model: str | None
    entity: str | None
    item_time_ns: int | None
    item_model: str | None
    life: str | None
    sequence: int | None


class SqlChains:
    """Reads the chains of a store on SQLite or PostgreSQL. For one thread; use it as a context manager.

    All that one object reads, it reads of the store as it was when the first row was read.

    Args:
        url: An SQLAlchemy URL.

    Raises:
        ConfigurationError: The URL is wrong, or its driver is not installed.
        StoreError: There is no such store, or another release made it.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._engine = open_current(url, read_only=True)
        self._is_server = self._engine.dialect.name == "postgresql"
        with store_errors(url, "read"):
            self._pooled = self._engine.raw_connection()
            connection: Any = self._pooled.driver_connection
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY" if self._is_server else "BEGIN")
            self._connection = connection

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Give back the connection."""
        self._pooled.close()
        self._engine.dispose()

    def misplaced(self, limit: int) -> list[tuple[str, str]]:
        """Rows that have no place in any chain: their table, and their life as text."""
        # SQLite takes anything in a column of numbers.
        types = "" if self._is_server else " OR typeof({}) != 'integer' OR typeof(life) != 'text'"
        parts = [
            f"SELECT '{table}' AS name, CAST(life AS TEXT) AS life FROM {table} WHERE {place} < 1{types.format(place)}"  # noqa: S608  # constants
            for table, place in CHAINED.items()
        ]
        rows = self._all(f"{' UNION ALL '.join(parts)} ORDER BY 1, 2 LIMIT ?", (limit,))
        return [(table, life) for table, life in rows]

    def spans(self) -> list[LifeSpan]:
        """The lives there are, by id."""
        placed = "" if self._is_server else " AND typeof({}) = 'integer' AND typeof(life) = 'text'"
        parts = [
            f"SELECT life, min({'first' if table == 'gaps' else place}) AS a, max({place}) AS b, count(*) AS n, "  # noqa: S608  # constants
            f"max({'time_ns' if table == 'predictions' else '0'}) AS t FROM {table} "
            f"WHERE {place} > 0{placed.format(place)} GROUP BY life"
            for table, place in CHAINED.items()
        ]
        statement = (
            f"SELECT life, min(a), max(b), sum(n), max(t) FROM ({' UNION ALL '.join(parts)}) AS parts "  # noqa: S608  # constants
            "GROUP BY life ORDER BY life"
        )
        return [LifeSpan(life, first, last, int(rows), time) for life, first, last, rows, time in self._all(statement)]

    def rows(self, table: str, columns: Sequence[str], span: tuple[str, int, int]) -> Sequence[Sequence[Any]]:
        """Rows of a table in a span (life, first, last); see ``ChainRows.rows``."""
        place = CHAINED[table]
        then = ", prediction_id" if table == "predictions" else ""
        statement = (
            f"SELECT {self._columns(table, tuple(columns))} FROM {table} "  # noqa: S608  # names of columns
            f"WHERE life = ? AND {place} BETWEEN ? AND ? ORDER BY {place}{then}"
        )
        return self._all(statement, span)

    def items(self, columns: Sequence[str], span: tuple[str, int, int]) -> Iterator[Sequence[Any]]:
        """The items of a span's predictions; see ``ChainRows.items``."""
        statement = (
            f"SELECT {self._columns('items', tuple(columns), 'i.')} FROM predictions p "  # noqa: S608  # names of columns
            "JOIN items i ON i.prediction_id = p.prediction_id "
            "WHERE p.life = ? AND p.sequence BETWEEN ? AND ? ORDER BY p.sequence, p.prediction_id, i.item_index"
        )
        return self._each(statement, span)

    def before(self, life: str, first: int) -> tuple[int, str | None] | None:
        """The last row or gap before a sequence number; see ``ChainRows.before``."""
        found: list[tuple[int, str | None]] = []
        for table, place in CHAINED.items():
            statement = (
                f"SELECT {place}, hash FROM {table} WHERE life = ? AND {place} < ? ORDER BY {place} DESC LIMIT 1"  # noqa: S608  # constants
            )
            found += [(row[0], row[1]) for row in self._all(statement, (life, first))]
        # A row that was refused first stands where a gap stands, which has the link.
        return max(found, key=lambda each: (each[0], str(each[1] or "")), default=None)

    def stray_items(self, limit: int) -> list[tuple[str, int]]:
        """Items of predictions that are not there: prediction id and index."""
        rows = self._all(
            "SELECT prediction_id, item_index FROM items i WHERE NOT EXISTS "
            "(SELECT 1 FROM predictions p WHERE p.prediction_id = i.prediction_id) ORDER BY 1, 2 LIMIT ?",
            (limit,),
        )
        return [(prediction_id, index) for prediction_id, index in rows]

    def entity_rows(self) -> Iterator[EntityRow]:
        """Every row of ``entities``, with its item."""
        text = "i.entity::text" if self._is_server else "i.entity"
        rows = self._each(
            f"SELECT e.name, e.value, e.prediction_id, e.item_index, e.time_ns, e.model, {text}, i.time_ns, i.model, "  # noqa: S608  # constants
            "p.life, p.sequence FROM entities e "
            "LEFT JOIN items i ON i.prediction_id = e.prediction_id AND i.item_index = e.item_index "
            "LEFT JOIN predictions p ON p.prediction_id = e.prediction_id"
        )
        return (EntityRow(*row) for row in rows)

    def item_entities(self) -> Iterator[tuple[str, int, str]]:
        """Every item that has entities: prediction id, index and their JSON text."""
        text = "entity::text" if self._is_server else "entity"
        rows = self._each(f"SELECT prediction_id, item_index, {text} FROM items WHERE entity IS NOT NULL")  # noqa: S608  # constants
        return ((prediction_id, index, entity) for prediction_id, index, entity in rows)

    def has_entity(self, name: str, value: str, prediction_id: str, item_index: int) -> bool:
        """Whether ``entities`` has a row."""
        statement = "SELECT 1 FROM entities WHERE name = ? AND value = ? AND prediction_id = ? AND item_index = ?"
        return bool(self._all(statement, (name, value, prediction_id, item_index)))

    def place_of(self, prediction_id: str) -> tuple[str, int]:
        """Life and sequence number of a prediction; nothing and 0 when it is not there."""
        rows = self._all("SELECT life, sequence FROM predictions WHERE prediction_id = ?", (prediction_id,))
        return (rows[0][0], rows[0][1]) if rows else ("", 0)

    def holds(self) -> list[dict[str, Any]]:
        """Every hold, the oldest first."""
        names = metadata.tables["holds"].columns.keys()
        rows = self._all(f"SELECT {', '.join(names)} FROM holds ORDER BY time_ns, hold_id")  # noqa: S608  # names of columns
        return [dict(zip(names, row, strict=True)) for row in rows]

    def _all(self, statement: str, parameters: Sequence[Any] = ()) -> list[Any]:
        with store_errors(self._url, "read"), closing(self._connection.cursor()) as cursor:
            rows: list[Any]
            try:
                rows = self._run(cursor, statement, parameters).fetchall()
            except sqlite3.OperationalError as error:
                self._read_any_bytes(error)
                rows = self._run(cursor, statement, parameters).fetchall()
            return rows

    def _each(self, statement: str, parameters: Sequence[Any] = ()) -> Iterator[Any]:
        """Rows, fetched as they are asked for."""
        with store_errors(self._url, "read"):
            cursor = self._connection.cursor("e2i_rows") if self._is_server else self._connection.cursor()
            with closing(cursor):
                self._run(cursor, statement, parameters)
                rows = chain.from_iterable(iter(lambda: cursor.fetchmany(_CHUNK), []))
                given = 0
                try:
                    for row in rows:
                        given += 1
                        yield row
                except sqlite3.OperationalError as error:
                    self._read_any_bytes(error)
                    self._run(cursor, statement, parameters)
                    yield from islice(cursor, given, None)

    def _read_any_bytes(self, error: sqlite3.OperationalError) -> None:
        """Read on where text is no text: it was never written that way, and must be found, not be in the way."""
        if "decode" not in str(error):
            raise error
        self._connection.text_factory = _text_or_bytes

    def _run(self, cursor: Any, statement: str, parameters: Sequence[Any]) -> Any:
        cursor.execute(statement.replace("?", "%s") if self._is_server else statement, parameters)
        return cursor

    def _columns(self, table: str, columns: tuple[str, ...], prefix: str = "") -> str:
        return selected_columns(metadata.tables[table], columns, prefix, cast=self._is_server)


def _text_or_bytes(data: bytes) -> str | bytes:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data


@lru_cache(maxsize=64)
def selected_columns(table: Table, columns: tuple[str, ...], prefix: str, *, cast: bool) -> str:
    """Columns of a table for a SELECT; those of JSON as text, where a cast is needed for that."""
    return ", ".join(
        f"{prefix}{name}::text" if cast and isinstance(table.c[name].type, JsonText) else f"{prefix}{name}"
        for name in columns
    )
