"""The ledger: how far each destination has come with each life, and what became of every record.

Written by the relay alone, read by anyone. A life's rows are never deleted and its counts never go back, so that
the books cover all that was ever accepted.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from e2i_serving.journal import DAMAGED, Position
from e2i_serving.record import Life
from e2i_serving.relay.dead_letters import NO_ROOM, DeadLetter, DeadLetters, drop
from e2i_serving.relay.ledger_schema import open_ledger, open_to_read


class LifeTotals(NamedTuple):
    """What the ledger says of one destination and one life."""

    life: str
    closed: bool
    records: int
    position: Position
    stored: int
    dead_lettered: int
    """Dead letters that were not delivered since."""
    dropped: dict[str, int]
    given_up: int
    """Of the dropped records, those that stand behind the position."""
    begun: bool
    """Whether the destination dealt with anything of the life."""
    skipped: int = 0
    """Of the records before the position, those that were never for the destination: it was added later."""


class GivenUp(NamedTuple):
    """The part of a segment that is lost to a destination, as the disk was needed for newer records."""

    segment: int
    first: int
    """Sequence number of the first frame that is lost."""
    last: int
    """Sequence number of the last one."""
    records: int
    last_ordinal: int
    """Ordinal of the last record in the segment."""


class Ledger:
    """The ledger of a data directory. Any thread may use it.

    Args:
        data_dir: The data directory.
        read_only: Open for reading only; a ledger that is not there yet then reads as empty.
        dead_letter_bytes: Most disk that it takes with its dead letters; what there is no room for is not kept.

    Raises:
        JournalError: A newer release made it.

    Attributes:
        dead_letters: What destinations refused for good.
    """

    def __init__(self, data_dir: Path, *, read_only: bool = False, dead_letter_bytes: float = float("inf")) -> None:
        self._dead_letter_bytes = dead_letter_bytes
        self._connection = open_to_read(data_dir) if read_only else open_ledger(data_dir)
        self._lock = threading.RLock()
        self.dead_letters = DeadLetters(self._transaction)

    def began_ns(self) -> int:
        """When the first life in the books began, nanoseconds since the epoch; 0 before there is one."""
        row = self._one("SELECT min(started_ns) FROM lives", ())
        return int(row[0] or 0) if row else 0

    def position(self, destination: str, life: str) -> Position:
        """How far a destination has come with a life; the beginning when it has not begun."""
        return self.cursor(destination, life)[0]

    def cursor(self, destination: str, life: str) -> tuple[Position, bytes]:
        """How far a destination has come with a life, and what it asked to be told there."""
        row = self._one(
            "SELECT segment, offset, sequence, ordinal, state FROM cursors WHERE destination = ? AND life = ?",
            (destination, life),
        )
        return (Position(*row[:4]), row[4]) if row else (Position(), b"")

    def is_closed(self, life: str) -> bool:
        """Whether every frame of a life is accounted for."""
        row = self._one("SELECT closed FROM lives WHERE life = ?", (life,))
        return bool(row and row[0])

    def advance(
        self,
        destination: str,
        life: Life,
        position: Position,
        *,
        stored: int,
        dropped: Mapping[str, int],
        state: bytes = b"",
        dead_letters: Sequence[DeadLetter] = (),
    ) -> int:
        """Note that a destination has dealt with a life's frames up to a position, in one transaction.

        Args:
            destination: The destination's name.
            life: The life.
            position: Behind the last frame dealt with.
            stored: How many more records it has.
            dropped: How many more were given up, by reason.
            state: What the destination is to be told with the next frames.
            dead_letters: What it refused of these frames.

        Returns:
            How many of the letters were not kept, as there is no room for them; they count as dropped.
        """
        with self._transaction() as connection:
            kept = [letter for letter in dead_letters if self._keep(connection, destination, letter)]
            dead = sum(letter.records for letter in kept)
            if len(kept) < len(dead_letters):
                without_room = sum(letter.records for letter in dead_letters) - dead
                dropped = {**dropped, NO_ROOM: without_room}
            self._know(connection, life, position.ordinal)
            connection.execute(
                "INSERT INTO cursors (destination, life, segment, offset, sequence, ordinal, stored, dead_lettered, "
                "state) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (destination, life) DO UPDATE SET "
                "segment = excluded.segment, offset = excluded.offset, sequence = excluded.sequence, "
                "ordinal = excluded.ordinal, stored = stored + excluded.stored, "
                "dead_lettered = dead_lettered + excluded.dead_lettered, state = excluded.state",
                (destination, life.life, *position, stored, dead, state),
            )
            connection.execute("INSERT OR IGNORE INTO destinations VALUES (?, 1)", (destination,))
            drop(connection, destination, life.life, dropped)
            connection.execute(
                "DELETE FROM given_up WHERE destination = ? AND life = ? AND last <= ?",
                (destination, life.life, position.sequence),
            )
            connection.execute(
                "DELETE FROM intents WHERE destination = ? AND life = ? AND sequence <= ?",
                (destination, life.life, position.sequence),
            )
        return len(dead_letters) - len(kept)

    def intend(self, destination: str, life: str, links: Sequence[tuple[int, bytes]]) -> None:
        """Note, on the disk, what a destination is about to be given: its links, by sequence number."""
        with self._transaction() as connection:
            connection.executemany(
                "INSERT OR IGNORE INTO intents VALUES (?, ?, ?, ?)",
                [(destination, life, sequence, link) for sequence, link in links],
            )

    def intended(self, destination: str, life: str, first: int, last: int) -> list[tuple[int, bytes]]:
        """The links that were noted of a life for sequence numbers in a range, and not yet dealt with for certain."""
        return self._all(
            "SELECT sequence, link FROM intents WHERE destination = ? AND life = ? AND sequence BETWEEN ? AND ?",
            (destination, life, first, last),
        )

    def in_doubt(self, destination: str, life: str) -> int:
        """Number of the last frame of a life that a destination may have and is not known to; 0 for none."""
        statement = "SELECT max(sequence) FROM intents WHERE destination = ? AND life = ?"
        return self._one(statement, (destination, life))[0] or 0

    def enlist(self, names: Sequence[str], leader: str) -> None:
        """Note which destinations there are from now on.

        One that is new, or is there again, begins in each life where the leader stands; what is before that is not
        its own. In a life that nobody dealt with yet, it begins at the beginning.

        Args:
            names: All of them.
            leader: The one that is always there.
        """
        with self._transaction() as connection:
            active = {name for (name,) in connection.execute("SELECT name FROM destinations WHERE active")}
            connection.execute("UPDATE destinations SET active = 0")
            for name in names:
                connection.execute("INSERT OR REPLACE INTO destinations VALUES (?, 1)", (name,))
                if name not in active and name != leader:
                    self._join(connection, name, leader)

    def active_destinations(self) -> set[str]:
        """The destinations that the last relay had."""
        return {name for (name,) in self._all("SELECT name FROM destinations WHERE active")}

    def give_up(self, life: Life, by_destination: Mapping[str, GivenUp]) -> None:
        """Note what destinations lose with a segment, before it goes."""
        with self._transaction() as connection:
            for destination, lost in by_destination.items():
                self._know(connection, life, lost.last_ordinal)
                connection.execute("INSERT INTO given_up VALUES (?, ?, ?, ?, ?, ?, ?)", (destination, life.life, *lost))
                drop(connection, destination, life.life, {"overflow": lost.records})

    def given_up(self, destination: str, life: str) -> list[GivenUp]:
        """What a destination loses behind its position, in order."""
        rows = self._all(
            "SELECT segment, first, last, records, last_ordinal FROM given_up "
            "WHERE destination = ? AND life = ? ORDER BY segment",
            (destination, life),
        )
        return [GivenUp(*row) for row in rows]

    def close_life(self, life: Life, records: int, torn: int) -> None:
        """Note that a dead life was read to its end and its folder may go."""
        with self._transaction() as connection:
            self._know(connection, life, records)
            connection.execute("UPDATE lives SET closed = 1, torn = torn + ? WHERE life = ?", (torn, life.life))
            connection.execute("DELETE FROM intents WHERE life = ?", (life.life,))

    def lose_rest(self, life: Life, records: int, destinations: Sequence[str]) -> None:
        """Note that what is left of a dead life can't be read, so that destinations lose what they lack of it.

        Args:
            life: The life, as far as it is known.
            records: How many records it is known to have journaled.
            destinations: All that there are.
        """
        with self._transaction() as connection:
            self._know(connection, life, records)
            row = connection.execute("SELECT records FROM lives WHERE life = ?", (life.life,)).fetchone()
            for name in destinations:
                of = "WHERE destination = ? AND life = ?"
                at = connection.execute(f"SELECT ordinal FROM cursors {of}", (name, life.life)).fetchone()  # noqa: S608  # constants
                behind = connection.execute(f"SELECT sum(records) FROM given_up {of}", (name, life.life)).fetchone()  # noqa: S608  # likewise
                lost = row[0] - (at[0] if at else 0) - (behind[0] or 0)
                connection.execute(f"DELETE FROM given_up {of}", (name, life.life))  # noqa: S608  # likewise
                connection.execute(
                    "INSERT INTO cursors (destination, life, segment, offset, sequence, ordinal) VALUES "
                    "(?, ?, 1, 0, 0, ?) ON CONFLICT (destination, life) DO UPDATE SET ordinal = excluded.ordinal",
                    (name, life.life, row[0]),
                )
                drop(connection, name, life.life, {DAMAGED: lost} if lost > 0 else {})

    def chains(self, destination: str) -> list[tuple[str, int, bytes, bool]]:
        """For each life the number of the last frame dealt with, the state behind it, and whether the life is closed.

        Lives without a state are left out.
        """
        return self._all(
            "SELECT cursors.life, sequence, state, closed FROM cursors JOIN lives USING (life) "
            "WHERE destination = ? AND state != x'' ORDER BY cursors.life",
            (destination,),
        )

    def destinations(self) -> list[str]:
        """Every destination that there ever was."""
        return [name for (name,) in self._all("SELECT name FROM destinations ORDER BY name")]

    def totals(self, destination: str) -> list[LifeTotals]:
        """What became of every life's records at a destination, in one consistent reading."""
        with self._transaction() as connection:
            drops: dict[str, dict[str, int]] = {}
            for life, reason, records in connection.execute(
                "SELECT life, reason, records FROM drops WHERE destination = ?", (destination,)
            ):
                drops.setdefault(life, {})[reason] = records
            lost: dict[str, int] = dict(
                connection.execute(
                    "SELECT life, sum(records) FROM given_up WHERE destination = ? GROUP BY life", (destination,)
                ).fetchall()
            )
            rows = connection.execute(
                "SELECT lives.life, closed, records, segment, offset, sequence, ordinal, stored, "
                "dead_lettered - recovered, skipped "
                "FROM lives LEFT JOIN cursors ON cursors.life = lives.life AND destination = ? ORDER BY lives.life",
                (destination,),
            ).fetchall()
        found: list[LifeTotals] = []
        for life, closed, records, *position, stored, dead, skipped in rows:
            where = Position() if position[0] is None else Position(*position)
            dropped = drops.get(life, {})
            counts = (stored or 0, dead or 0, dropped, lost.get(life, 0))
            begun = position[0] is not None
            found.append(LifeTotals(life, bool(closed), records, where, *counts, begun=begun, skipped=skipped or 0))
        return found

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._connection.close()

    def _keep(self, connection: sqlite3.Connection, destination: str, letter: DeadLetter) -> bool:
        """Keep a letter, if there is room for it."""
        pages, free, size = (
            connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "freelist_count", "page_size")
        )
        if (pages - free) * size + len(letter.payload) > self._dead_letter_bytes:
            return False
        DeadLetters.insert(connection, destination, letter)
        return True

    def _one(self, statement: str, parameters: Sequence[object] = ()) -> Any:
        with self._lock:
            return self._connection.execute(statement, parameters).fetchone()

    def _all(self, statement: str, parameters: Sequence[object] = ()) -> list[Any]:
        with self._lock:
            return self._connection.execute(statement, parameters).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._connection.execute("BEGIN")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    @staticmethod
    def _join(connection: sqlite3.Connection, name: str, leader: str) -> None:
        """Bring a destination to where the leader stands, in the lives that are still read and in those it began."""
        rows = connection.execute(
            "SELECT ahead.life, ahead.segment, ahead.offset, ahead.sequence, ahead.ordinal, coalesce(own.sequence, 0), "
            "coalesce(own.ordinal, 0) FROM cursors AS ahead JOIN lives USING (life) "
            "LEFT JOIN cursors AS own ON own.life = ahead.life AND own.destination = ?1 "
            "WHERE ahead.destination = ?2 AND (own.life IS NOT NULL OR NOT closed)",
            (name, leader),
        ).fetchall()
        for life, segment, offset, sequence, ordinal, own_sequence, own_ordinal in rows:
            if own_sequence >= sequence:
                continue
            behind = "FROM given_up WHERE destination = ? AND life = ? AND last <= ?"
            lost = connection.execute(
                f"SELECT coalesce(sum(records), 0) {behind}",
                (name, life, sequence),
            ).fetchone()[0]
            connection.execute(f"DELETE {behind}", (name, life, sequence))
            connection.execute(
                "INSERT INTO cursors (destination, life, segment, offset, sequence, ordinal, skipped) "
                "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (destination, life) DO UPDATE SET "
                "segment = excluded.segment, offset = excluded.offset, sequence = excluded.sequence, "
                "ordinal = excluded.ordinal, skipped = skipped + excluded.skipped",
                (name, life, segment, offset, sequence, ordinal, ordinal - own_ordinal - lost),
            )

    @staticmethod
    def _know(connection: sqlite3.Connection, life: Life, records: int) -> None:
        connection.execute(
            "INSERT INTO lives (life, service, started_ns, records) VALUES (?, ?, ?, ?) "
            "ON CONFLICT (life) DO UPDATE SET records = max(records, excluded.records)",
            (life.life, life.service, life.started_ns, records),
        )
