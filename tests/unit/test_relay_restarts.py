"""The relay dies anywhere, as often as it likes: every record arrives exactly once, and the chain is the same."""

from __future__ import annotations

import tempfile
from contextlib import closing
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from e2i_serving.exceptions import RefusedError
from e2i_serving.journal import JournalWriter, LifeFolder, list_lives
from e2i_serving.record import Column, Life, Outcome, PredictionRecord, RowBatch, StreamEnd, Values
from e2i_serving.relay import Delivery, Ledger, Relay, read_books
from e2i_serving.relay.audit_destination import AuditDestination

LIFE = Life("life-1", "credit", 1, 1)
FRAMES = 40
KEYS = {"predictions": ("prediction_id",), "events": ("life", "sequence"), "gaps": ("life", "last")}


class DiedError(BaseException):
    """Stands for the end of the process between two instructions."""


class Table:
    """A store of rows by key that takes the first of each, dies where it is told, and refuses some."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[Any, Any]] = {name: {} for name in KEYS}
        self.dies: list[str] = []
        self.poison: set[str] = set()

    def write(self, batch: RowBatch) -> int:
        if any(row["prediction_id"] in self.poison for row in batch.predictions):
            raise RefusedError("not that one")
        death = self.dies.pop() if self.dies else ""
        if death == "before":
            raise DiedError
        for name, key in KEYS.items():
            for row in getattr(batch, name):
                self.rows[name].setdefault(tuple(row[part] for part in key), dict(row))
        if death == "after":
            raise DiedError
        return len(batch.predictions)

    def close(self) -> None:
        pass


def fill(journal: Path, damaged: set[int]) -> None:
    """A dead life of records and ends, some of them damaged."""
    with closing(JournalWriter(journal, LIFE, segment_bytes=8192, record_bytes=65536)) as writer:
        for number in range(FRAMES):
            if number % 7 == 6:
                writer.append(StreamEnd(f"p{number - 1}", 0.5, Outcome.OK, salt=bytes(16)))
            else:
                inputs: dict[str, Column] = {"text": Values([f"frame-{number:03d} " * 40])}
                writer.append(PredictionRecord(f"p{number}", number, 0.1, Outcome.OK, 200, items=1, inputs=inputs))
    (folder,) = list_lives(journal)
    for number in damaged:
        _spoil(folder, f"frame-{number:03d} ".encode())


def _spoil(folder: LifeFolder, what: bytes) -> None:
    for segment in folder.segments():
        content = bytearray(folder.segment(segment).read_bytes())
        if (at := content.find(what)) >= 0:
            content[at] ^= 0xFF
            folder.segment(segment).write_bytes(content)


def deliver(data_dir: Path, store: Table, batch_sizes: list[int]) -> None:
    """Run relays, each in the place of one that died, until everything is delivered."""
    turns = 0
    while list_lives(data_dir / "journal"):
        with closing(Ledger(data_dir)) as ledger:
            delivery = Delivery(AuditDestination(store), ledger, batch_size=batch_sizes[turns % len(batch_sizes)])
            relay = Relay(
                data_dir, [delivery], ledger, poll_seconds=0.01, linger_seconds=None, housekeeping=lambda: None
            )
            try:
                while relay.round():
                    pass
            except DiedError:
                pass
        turns += 1


@settings(max_examples=40)
@given(
    dies=st.lists(st.sampled_from(["", "before", "after"]), max_size=12),
    batch_sizes=st.lists(st.integers(1, 17), min_size=1, max_size=4),
    poison=st.sets(st.integers(0, FRAMES - 1), max_size=3),
    damaged=st.sets(st.integers(0, FRAMES - 1), max_size=3),
)
def test_every_record_exactly_once_and_one_chain(
    dies: list[str], batch_sizes: list[int], poison: set[int], damaged: set[int]
) -> None:
    """Wherever relays die and however they cut their batches, the rows are those of one that never died."""
    found: list[dict[str, Any]] = []
    for deaths, sizes in (([], [1000]), (dies, batch_sizes)):
        with tempfile.TemporaryDirectory() as name:
            data_dir, store = Path(name), Table()
            store.poison = {f"p{number}" for number in poison}
            store.dies = list(deaths)
            fill(data_dir / "journal", damaged)
            deliver(data_dir, store, sizes)
            found.append(store.rows)
            (book,) = read_books(data_dir)
            assert book.balanced
            assert book.pending == 0
            assert book.stored == len(store.rows["predictions"])
    assert found[0] == found[1]
