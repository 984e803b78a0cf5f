"""The ledger: how far each destination has come with each life, and what became of every record.

Written by the relay alone, read by anyone. A life's rows are never deleted, so that the books cover all that
was ever accepted.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from e2i_serving.journal import Position
from e2i_serving.record import Life

LEDGER_NAME = "ledger.db"

_SCHEMA = """
CREATE TABLE IF NOT EXISTS lives (
    life TEXT PRIMARY KEY,
    service TEXT NOT NULL,
    started_ns INTEGER NOT NULL,
    records INTEGER NOT NULL DEFAULT 0,
    torn INTEGER NOT NULL DEFAULT 0,
    closed INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS cursors (
    destination TEXT NOT NULL,
    life TEXT NOT NULL,
    segment INTEGER NOT NULL,
    offset INTEGER NOT NULL,
    sequence INTEGER NOT NULL,
    ordinal INTEGER NOT NULL,
    stored INTEGER NOT NULL DEFAULT 0,
    dead_lettered INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (destination, life)
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS drops (
    destination TEXT NOT NULL,
    life TEXT NOT NULL,
    reason TEXT NOT NULL,
    records INTEGER NOT NULL,
    PRIMARY KEY (destination, life, reason)
) WITHOUT ROWID;
"""


class LifeTotals(NamedTuple):
    """What the ledger says of one destination and one life."""

    life: str
    closed: bool
    records: int
    position: Position
    stored: int
    dead_lettered: int
    dropped: dict[str, int]


class Ledger:
    """The ledger of a data directory.

    Args:
        data_dir: The data directory.
        read_only: Open for reading only; a ledger that is not there yet then reads as empty.
    """

    def __init__(self, data_dir: Path, *, read_only: bool = False) -> None:
        path = data_dir / LEDGER_NAME
        self._connection = _open_to_read(path) if read_only else sqlite3.connect(path, isolation_level=None, timeout=5)
        if not read_only:
            self._connection.execute("PRAGMA journal_mode=WAL")
            # Segments are deleted on the ledger's word, so its word must be on the disk.
            self._connection.execute("PRAGMA synchronous=FULL")
            self._connection.executescript(f"BEGIN IMMEDIATE; {_SCHEMA} COMMIT;")

    def position(self, destination: str, life: str) -> Position:
        """How far a destination has come with a life; the beginning when it has not begun."""
        row = self._connection.execute(
            "SELECT segment, offset, sequence, ordinal FROM cursors WHERE destination = ? AND life = ?",
            (destination, life),
        ).fetchone()
        return Position(*row) if row else Position()

    def is_closed(self, life: str) -> bool:
        """Whether every frame of a life is accounted for."""
        row = self._connection.execute("SELECT closed FROM lives WHERE life = ?", (life,)).fetchone()
        return bool(row and row[0])

    def advance(
        self, destination: str, life: Life, position: Position, *, stored: int, dropped: Mapping[str, int]
    ) -> None:
        """Note that a destination has dealt with a life's frames up to a position."""
        with self._transaction() as connection:
            self._know(connection, life, position.ordinal)
            connection.execute(
                "INSERT INTO cursors (destination, life, segment, offset, sequence, ordinal, stored) "
                "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (destination, life) DO UPDATE SET "
                "segment = excluded.segment, offset = excluded.offset, sequence = excluded.sequence, "
                "ordinal = excluded.ordinal, stored = stored + excluded.stored",
                (destination, life.life, *position, stored),
            )
            connection.executemany(
                "INSERT INTO drops (destination, life, reason, records) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (destination, life, reason) DO UPDATE SET records = records + excluded.records",
                [(destination, life.life, reason, records) for reason, records in dropped.items()],
            )

    def close_life(self, life: Life, records: int, torn: int) -> None:
        """Note that a dead life was read to its end and its folder may go."""
        with self._transaction() as connection:
            self._know(connection, life, records)
            connection.execute("UPDATE lives SET closed = 1, torn = torn + ? WHERE life = ?", (torn, life.life))

    def destinations(self) -> list[str]:
        """Every destination that ever dealt with anything."""
        rows = self._connection.execute("SELECT DISTINCT destination FROM cursors ORDER BY destination")
        return [name for (name,) in rows]

    def totals(self, destination: str) -> list[LifeTotals]:
        """What became of every life's records at a destination, in one consistent reading."""
        with self._transaction() as connection:
            drops: dict[str, dict[str, int]] = {}
            for life, reason, records in connection.execute(
                "SELECT life, reason, records FROM drops WHERE destination = ?", (destination,)
            ):
                drops.setdefault(life, {})[reason] = records
            rows = connection.execute(
                "SELECT lives.life, closed, records, segment, offset, sequence, ordinal, stored, dead_lettered "
                "FROM lives LEFT JOIN cursors ON cursors.life = lives.life AND destination = ? ORDER BY lives.life",
                (destination,),
            ).fetchall()
        found: list[LifeTotals] = []
        for life, closed, records, *position, stored, dead in rows:
            where = Position() if position[0] is None else Position(*position)
            found.append(LifeTotals(life, bool(closed), records, where, stored or 0, dead or 0, drops.get(life, {})))
        return found

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        self._connection.execute("BEGIN")
        try:
            yield self._connection
        except BaseException:
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    @staticmethod
    def _know(connection: sqlite3.Connection, life: Life, records: int) -> None:
        connection.execute(
            "INSERT INTO lives (life, service, started_ns, records) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (life) DO UPDATE SET records = max(records, excluded.records)",
            (life.life, life.service, life.started_ns, records),
        )


def _open_to_read(path: Path) -> sqlite3.Connection:
    """A ledger for reading; one that is not there, or is being made right now, reads as empty."""
    if path.exists():
        where = f"{path.absolute().as_uri()}?mode=ro"
        connection = sqlite3.connect(where, uri=True, isolation_level=None, timeout=5)
        if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'cursors'").fetchone():
            return connection
        connection.close()
    connection = sqlite3.connect(":memory:", isolation_level=None)
    connection.executescript(_SCHEMA)
    return connection
