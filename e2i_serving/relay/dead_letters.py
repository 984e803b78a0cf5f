"""Dead letters: what a destination refused for good, kept as it stood in the journal until someone decides."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Final

import msgspec

from e2i_serving.exceptions import EncryptionError, FrameError
from e2i_serving.journal import Frame
from e2i_serving.record import Life
from e2i_serving.typing import Cipher

REFUSED: Final = "refused"
DEAD_LETTERED: Final = "dead-lettered"
"""Reason of the gap that has a letter's place."""
DISCARDED: Final = "discarded"
"""Why a letter that was given up for good counts as dropped."""
NO_ROOM: Final = "dead-letters-full"
"""Why a letter counts as dropped that there was no room for."""

_COLUMNS: Final = (
    "id, destination, life, sequence, ordinal, kind, schema, key_id, records, reason, message, time_ns, about, "
    "payload, digest, state, requested"
)


class DeadLetter(msgspec.Struct, frozen=True, kw_only=True):
    """A frame that a destination refused for good.

    Attributes:
        id: Its number in the ledger; 0 until it has one.
        destination: Who refused it.
        life: The life it belongs to.
        sequence: Its sequence number there.
        ordinal: As in the frame.
        kind: As in the frame.
        schema: As in the frame.
        key_id: Number of the key that its payload is encrypted with; 0 when it is not.
        records: 1 for a prediction's record, 0 for anything else.
        reason: Why, in a word.
        message: Why, in the destination's words.
        time_ns: Wall clock when it was refused last, nanoseconds since the epoch.
        about: The life, as MessagePack.
        payload: The frame's payload as it stood in the journal.
        digest: Its digest in the chain; empty when it has none.
        state: The destination's state behind the gap that has its place.
        requested: Whether it is to be delivered again.
    """

    destination: str
    life: str
    sequence: int
    ordinal: int
    kind: int
    schema: int
    key_id: int
    records: int
    message: str
    time_ns: int
    about: bytes
    payload: bytes
    reason: str = REFUSED
    digest: bytes = b""
    state: bytes = b""
    requested: bool = False
    id: int = 0

    def life_of(self) -> Life:
        """The life it belongs to."""
        return msgspec.msgpack.decode(self.about, type=Life)

    def frame(self) -> Frame:
        """The frame as it stood in the journal."""
        return Frame(self.kind, self.schema, self.sequence, self.ordinal, self.payload, self.key_id, self.life)

    def without_payload(self) -> DeadLetter:
        """The letter without what makes it large."""
        return msgspec.structs.replace(self, payload=b"", about=b"")

    def ids(self, cipher: Cipher | None) -> tuple[str, str]:
        """Prediction and request id, as they stand in the journal; empty where there are none, or can't be read.

        Args:
            cipher: Decrypts what is encrypted.
        """
        try:
            body = self.frame().decode(cipher)
        except (FrameError, EncryptionError):
            return "", ""  # its key is not here, or it was erased
        return getattr(body, "prediction_id", ""), getattr(body, "request_id", "")


def drop(connection: sqlite3.Connection, destination: str, life: str, dropped: Mapping[str, int]) -> None:
    """Count records of a life as dropped, by reason, within a transaction of the ledger's."""
    connection.executemany(
        "INSERT INTO drops (destination, life, reason, records) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (destination, life, reason) DO UPDATE SET records = records + excluded.records",
        [(destination, life, reason, records) for reason, records in dropped.items() if records != 0],
    )


class DeadLetters:
    """The dead letters of a ledger. Any thread may use it.

    Args:
        transaction: Opens a transaction of the ledger.
    """

    def __init__(self, transaction: Callable[[], AbstractContextManager[sqlite3.Connection]]) -> None:
        self._transaction = transaction

    @staticmethod
    def insert(connection: sqlite3.Connection, destination: str, letter: DeadLetter) -> None:
        """Keep a letter, within a transaction of the ledger's."""
        values = (
            *(destination, letter.life, letter.sequence, letter.ordinal, letter.kind, letter.schema, letter.key_id),
            *(letter.records, letter.reason, letter.message, letter.time_ns, letter.about, letter.payload),
            *(letter.digest, letter.state),
        )
        connection.execute(
            "INSERT INTO dead_letters (destination, life, sequence, ordinal, kind, schema, key_id, records, reason, "
            "message, time_ns, about, payload, digest, state) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            values,
        )

    def numbers(self, destination: str | None = None, *, requested: bool | None = None) -> Sequence[int]:
        """The ids of letters, oldest first.

        Args:
            destination: Only this destination's.
            requested: Only those that are to be delivered again, or only the others.
        """
        with self._transaction() as connection:
            rows = connection.execute(
                "SELECT id FROM dead_letters "
                "WHERE (?1 IS NULL OR destination = ?1) AND (?2 IS NULL OR requested = ?2) ORDER BY id",
                (destination, requested),
            ).fetchall()
        return [number for (number,) in rows]

    def each(self, destination: str | None = None, *, requested: bool | None = None) -> Iterator[DeadLetter]:
        """The letters, oldest first, one in memory at a time; arguments as in ``numbers``."""
        names = _COLUMNS.split(", ")
        for number in self.numbers(destination, requested=requested):
            with self._transaction() as connection:
                statement = f"SELECT {_COLUMNS} FROM dead_letters WHERE id = ?"  # noqa: S608  # a constant
                row = connection.execute(statement, (number,)).fetchone()
            if row is not None:  # else it went meanwhile
                yield msgspec.convert(dict(zip(names, row, strict=True)), DeadLetter, strict=False)

    def request(self, numbers: Sequence[int] | None = None) -> int:
        """Mark letters to be delivered again.

        Args:
            numbers: Their ids; ``None`` for all.

        Returns:
            How many there were.
        """
        with self._transaction() as connection:
            if numbers is None:
                return connection.execute("UPDATE dead_letters SET requested = 1").rowcount
            statement = "UPDATE dead_letters SET requested = 1 WHERE id = ?"
            return sum(connection.execute(statement, (number,)).rowcount for number in numbers)

    def delivered(self, letter: DeadLetter) -> None:
        """Note that a letter has arrived after all: it moves from dead-lettered to stored, and goes."""
        with self._transaction() as connection:
            gone = connection.execute("DELETE FROM dead_letters WHERE id = ?", (letter.id,)).rowcount
            connection.execute(
                "UPDATE cursors SET stored = stored + ?1, recovered = recovered + ?1 "
                "WHERE destination = ?2 AND life = ?3",
                (letter.records * gone, letter.destination, letter.life),
            )

    def discard(self, numbers: Sequence[int]) -> int:
        """Give letters up for good: they move from dead-lettered to dropped, and go.

        Args:
            numbers: Their ids.

        Returns:
            How many there were.
        """
        done = 0
        with self._transaction() as connection:
            for number in numbers:
                row = connection.execute(
                    "DELETE FROM dead_letters WHERE id = ? RETURNING destination, life, records", (number,)
                ).fetchone()
                if row is None:
                    continue
                done += 1
                destination, life, records = row
                connection.execute(
                    "UPDATE cursors SET recovered = recovered + ? WHERE destination = ? AND life = ?",
                    (records, destination, life),
                )
                drop(connection, destination, life, {DISCARDED: records})
        return done

    def refused_again(self, letter: DeadLetter, message: str, time_ns: int) -> None:
        """Note that a letter was refused again; it stays, and waits for the next request."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE dead_letters SET requested = 0, message = ?, time_ns = ? WHERE id = ?",
                (message, time_ns, letter.id),
            )

    def replace_payload(self, letter: DeadLetter, payload: bytes, key_id: int) -> None:
        """Give a letter another payload: encrypted with another key, or with something taken out of it."""
        with self._transaction() as connection:
            connection.execute(
                "UPDATE dead_letters SET payload = ?, key_id = ? WHERE id = ?", (payload, key_id, letter.id)
            )
