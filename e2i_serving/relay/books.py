"""The books: does everything that was accepted stand somewhere?

For every destination: accepted = stored + pending + dead-lettered + dropped. What was accepted and what is pending
is told by the worker's own numbering in the journal; the rest stands in the ledger. What is damaged there counts as
pending until a destination gets to it, and as dropped from then on.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from e2i_serving.exceptions import FrameError
from e2i_serving.journal import JournalReader, LifeFolder, Position, countable_records, is_unreadable, list_lives
from e2i_serving.relay.audit_destination import AUDIT_STORE
from e2i_serving.relay.ledger import Ledger

_BATCH = 4096
_BATCH_BYTES = 8 * 1024 * 1024
_TRIES = 5


@dataclass(slots=True)
class Book:
    """The account of one destination, in prediction records.

    Attributes:
        destination: The destination's name.
        accepted: Records journaled before their answer left, ever.
        stored: Of these, delivered.
        pending: Of these, still in the journal.
        dead_lettered: Of these, refused by the destination and kept aside.
        dropped: Of these, given up, by reason.
    """

    destination: str
    accepted: int = 0
    stored: int = 0
    pending: int = 0
    dead_lettered: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    @property
    def balanced(self) -> bool:
        """Whether all that was accepted is accounted for."""
        return self.accepted == self.stored + self.pending + self.dead_lettered + self.dropped.total()


def read_books(data_dir: Path) -> list[Book]:
    """Read the books of a data directory, whether or not its workers and relay run.

    Returns:
        A book for every destination, the audit store's at least.
    """
    books = _read(data_dir)
    for _ in range(_TRIES):
        # A relay at work moves records from one column to the next while we read; an imbalance that lasts is one.
        if all(book.balanced for book in books):
            break
        books = _read(data_dir)
    return books


def _read(data_dir: Path) -> list[Book]:
    ledger = Ledger(data_dir, read_only=True)
    try:
        active = ledger.active_destinations()
        return [
            _read_book(data_dir, ledger, destination, is_active=destination == AUDIT_STORE or destination in active)
            for destination in sorted({AUDIT_STORE, *ledger.destinations()})
        ]
    finally:
        ledger.close()


def _read_book(data_dir: Path, ledger: Ledger, destination: str, *, is_active: bool) -> Book:
    book = Book(destination)
    known = {totals.life: totals for totals in ledger.totals(destination)}
    folders = {folder.life: folder for folder in list_lives(data_dir / "journal")}
    for totals in known.values():
        book.stored += totals.stored
        book.dead_lettered += totals.dead_lettered
        book.dropped.update(totals.dropped)
    for life in known.keys() | folders.keys():
        row = known.get(life)
        if not is_active:
            # What it had not dealt with when it was taken away is not for it any more.
            book.accepted += row.position.ordinal - row.skipped + row.given_up if row else 0
            continue
        if row is not None and (row.closed or life not in folders):
            # What was closed before a further destination came was never for it.
            book.accepted += row.records - row.skipped if row.begun or destination == AUDIT_STORE else 0
            continue
        position = row.position if row else Position()
        accepted = max(_last_ordinal(folders[life], position), row.records if row else 0)
        book.accepted += accepted - (row.skipped if row else 0)
        book.pending += accepted - position.ordinal - (row.given_up if row else 0)
    return book


def _last_ordinal(folder: LifeFolder, position: Position) -> int:
    """How many records a life has journaled, found from a position on."""
    reader = JournalReader(folder, position)
    try:
        while reader.read(_BATCH, ended=True, max_bytes=_BATCH_BYTES):
            pass
    except FrameError:
        if not is_unreadable(folder):
            raise
        return max(position.ordinal, countable_records(folder))  # until a relay sets it aside
    return reader.position.ordinal
