"""The relay dies anywhere, as often as it likes: every record arrives exactly once, and the chain is the same."""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from e2i_serving.evidence import open_checkpointer, seal
from e2i_serving.exceptions import RefusedError
from e2i_serving.journal import JournalWriter, LifeFolder, list_lives
from e2i_serving.record import (
    ChainEnd,
    Column,
    Entry,
    Gap,
    Life,
    Outcome,
    PredictionRecord,
    RowBatch,
    StreamEnd,
    Values,
)
from e2i_serving.relay import Delivery, LargePayloads, Ledger, Relay, read_books
from e2i_serving.relay.audit_destination import AuditDestination
from e2i_serving.relay.explode import explode
from e2i_serving.runtime.verification import read_signed_history, verify_trail
from e2i_serving.settings import Settings
from e2i_serving.stores.engine import sqlite_url
from e2i_serving.stores.sql import SqlAuditStore

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

    def chain_end(self, life: str, *, since: int, until: int) -> ChainEnd | None:
        rows = [
            (row["last"] if name == "gaps" else row["sequence"], row)
            for name, found in self.rows.items()
            for row in found.values()
        ]
        within = [each for each in rows if since <= each[0] <= until]
        last, row = max(within, key=lambda each: each[0], default=(0, {}))
        return ChainEnd(last, row["hash"], row.get("reason", ""), row.get("digest") or "") if row else None

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
            destination = AuditDestination(store, intents=ledger)
            delivery = Delivery(destination, ledger, batch_size=batch_sizes[turns % len(batch_sizes)])
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


class Dying(SqlAuditStore):
    """A store whose relay dies when a batch is stored, before the ledger knows."""

    dies = True

    def write(self, batch: RowBatch) -> int:
        new = super().write(batch)
        if self.dies:
            raise DiedError
        return new


@pytest.mark.parametrize("last_size", [1000, 7])
def test_a_chain_goes_on_from_what_is_stored_when_the_settings_have_changed(tmp_path, caplog, last_size):
    """Of a batch that was stored and not noted, the rows are not made anew by other settings: those stored count."""
    url = sqlite_url(tmp_path / "audit.db")
    fill(tmp_path / "journal", set())
    for limit, dies, batch_size in ((64, True, 10), (10**6, True, 25), (64, False, last_size)):
        payloads = LargePayloads(tmp_path, limit, "cut")
        with closing(Ledger(tmp_path)) as ledger, closing(Dying(url)) as store:
            store.dies = dies
            checkpoints = open_checkpointer(Settings(), tmp_path)
            destination = AuditDestination(store, payloads=payloads, checkpoints=checkpoints, intents=ledger)
            delivery = Delivery(destination, ledger, batch_size=batch_size)
            if dies:
                with pytest.raises(DiedError):
                    delivery.round([(folder, True) for folder in list_lives(tmp_path / "journal")])
            else:
                while delivery.round([(folder, True) for folder in list_lives(tmp_path / "journal")]):
                    pass
            checkpoints.close()
    report = verify_trail(url, read_signed_history([tmp_path / "checkpoints"]))
    assert report.problems == []
    (book,) = read_books(tmp_path)
    assert (book.accepted, book.stored, book.pending) == (35, 35, 0)
    with closing(sqlite3.connect(tmp_path / "audit.db")) as connection:
        cut = "SELECT count(*) FROM predictions WHERE redactions LIKE '%payload-cut%' AND sequence BETWEEN ? AND ?"
        found = [connection.execute(cut, places).fetchone()[0] for places in ((1, 10), (11, 25), (26, 40))]
    assert "that no relay made" not in caplog.text
    assert found == [9, 0, 13], "The first one stored is kept, whatever the settings say later."


@pytest.mark.parametrize("is_mended", [False, True])
def test_a_letter_that_was_refused_before_its_relay_died_is_lost_to_nobody(tmp_path, is_mended):
    """Its gap is stored and it is not kept aside: it is stored behind the gap if it is taken now, else kept aside."""
    store = Table()
    store.poison = {"p0"}
    store.dies = ["after"]
    fill(tmp_path / "journal", set())
    with closing(Ledger(tmp_path)) as ledger, pytest.raises(DiedError):
        Delivery(AuditDestination(store, intents=ledger), ledger, batch_size=1).round(
            [(folder, True) for folder in list_lives(tmp_path / "journal")]
        )
    assert len(store.rows["gaps"]) == 1
    if is_mended:
        store.poison = set()
    deliver(tmp_path, store, [10])
    (book,) = read_books(tmp_path)
    assert (book.stored, book.dead_lettered, book.balanced) == (35, 0, True) if is_mended else (34, 1, True)
    assert book.stored == len(store.rows["predictions"])
    assert len(store.rows["gaps"]) == 1


@pytest.mark.parametrize(
    "altered",
    [
        "",
        "UPDATE predictions SET hash = 'no link' WHERE sequence = 13",
        "UPDATE gaps SET hash = 'no link', digest = 'nor this'",
        "UPDATE gaps SET hash = x'ff', digest = x'ff'",
    ],
)
@pytest.mark.parametrize("dies", [False, True])
def test_rows_that_somebody_chained_to_the_stored_ones_are_not_gone_on_from(tmp_path, caplog, dies, altered):
    """They take the place of nothing that is journaled, whether or not a relay died before, and verify names them."""
    url = sqlite_url(tmp_path / "audit.db")
    fill(tmp_path / "journal", set())
    (folder,) = list_lives(tmp_path / "journal")
    for is_first in (True, False):
        with closing(Ledger(tmp_path)) as ledger, closing(Dying(url)) as store:
            store.dies = is_first and dies
            checkpoints = open_checkpointer(Settings(), tmp_path)
            destination = AuditDestination(store, checkpoints=checkpoints, intents=ledger)
            delivery = Delivery(destination, ledger, batch_size=10 if is_first else 25)
            with suppress(DiedError):
                while delivery.advance(folder, ended=True) and not is_first:
                    pass
            assert not delivery.failing
            checkpoints.close()
        if is_first:
            _forge(url, 10)
            with closing(sqlite3.connect(tmp_path / "audit.db")) as connection, connection:
                connection.execute(altered)
    report = verify_trail(url, read_signed_history([tmp_path / "checkpoints"]))
    assert {11, 12} <= {problem.sequence for problem in report.problems}
    with closing(sqlite3.connect(tmp_path / "audit.db")) as connection:
        stored = {name for (name,) in connection.execute("SELECT prediction_id FROM predictions")}
    assert {f"p{number}" for number in range(FRAMES) if number % 7 != 6} <= stored
    assert "that no relay made, up to number 14" in caplog.text


def _forge(url: str, end: int) -> None:
    """Chain rows to what is stored, as anyone can who writes to the store."""
    who = [PredictionRecord(f"forged-{number}", number, 0.1, Outcome.OK, 200, salt=bytes(16)) for number in range(3)]
    entries = [Entry(LIFE, end + 1 + at, body) for at, body in enumerate(who)]
    batch = explode([*entries, Entry(LIFE, end + 4, Gap(end + 4, end + 4, 1, "dead-lettered", b"d"))])
    with closing(SqlAuditStore(url)) as store:
        stored = store.chain_end(LIFE.life, since=1, until=FRAMES)
        assert stored is not None
        assert stored.sequence == end
        seal(batch, LIFE.life, bytes.fromhex(stored.hash))
        store.write(batch)


def test_what_was_to_be_stored_is_forgotten_once_it_is_noted_as_delivered(tmp_path):
    """The ledger keeps the links of what is on its way, and no others."""
    fill(tmp_path / "journal", set())
    (folder,) = list_lives(tmp_path / "journal")
    store = Table()
    store.dies = ["after", ""]
    with closing(Ledger(tmp_path)) as ledger:
        delivery = Delivery(AuditDestination(store, intents=ledger), ledger, batch_size=20)
        delivery.advance(folder, ended=True)
        assert ledger.intended(delivery.name, LIFE.life, 1, FRAMES) == []
        with pytest.raises(DiedError):
            delivery.advance(folder, ended=True)
        assert [sequence for sequence, _ in ledger.intended(delivery.name, LIFE.life, 1, FRAMES)] == [*range(21, 41)]
