"""A thousand ways to alter a trail, each of which must be found."""

from __future__ import annotations

import random
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from evidence_trail import TIME, Trail, bodies, record

from e2i_serving.evidence.commitments import GAPS, first_link, next_link
from e2i_serving.evidence.digests import (
    ACCESS_ROWS,
    EVENT_ROWS,
    ITEM_ROWS,
    OUTCOME_ROWS,
    PREDICTION_ROWS,
    digest_gap,
    digest_predictions,
    digest_row,
)
from e2i_serving.evidence.history import History
from e2i_serving.record import AccessEvent, Gap
from e2i_serving.runtime.erasure import erase
from e2i_serving.runtime.purging import purge
from e2i_serving.runtime.verification import read_signed_history, verify_trail
from e2i_serving.settings import load_settings
from e2i_serving.stores.engine import sqlite_url
from e2i_serving.stores.maintenance import SqlMaintenance

SEEDS = range(20)
EACH = 50
LIVES = ("life-1", "life-2", "life-4")
TABLES = ("predictions", "items", "entities", "events", "outcomes", "accesses", "gaps")
CHAINED = {
    "predictions": "sequence",
    "events": "sequence",
    "outcomes": "sequence",
    "accesses": "sequence",
    "gaps": "last",
}
READERS = {reader.table.name: reader for reader in (PREDICTION_ROWS, EVENT_ROWS, OUTCOME_ROWS, ACCESS_ROWS)}


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> tuple[Path, History]:
    """A store of three lives, purged and erased in part as it is allowed to be, and what was signed of it."""
    trail = Trail(tmp_path_factory.mktemp("original"))
    content = bodies(30)
    after = len(content)
    trail.deliver([*content, Gap(after + 1, after + 4, 2, "damaged"), record(9001)], close=True)
    trail.deliver([record(5001, items=3), AccessEvent("a9", TIME), record(5002, items=0)], "life-2")
    short = {4, 5, 6, 9, 14, 15, 21, 22}
    trail.deliver(
        [record(8000 + place, retention="short" if place in short else "standard") for place in range(1, 25)], "life-4"
    )
    settings = load_settings({"data_dir": str(trail.folder), "audit_url": trail.url}).settings
    for subject in ("customer-12-0", "customer-5001-1", "customer-8011-0"):
        assert erase(settings, trail.folder, trail.url, f"customer={subject}").rows["items"] == 1
    with SqlMaintenance(trail.url) as store:
        assert purge(settings, trail.folder, store, trail.log(), {"short": TIME + 10**9}).rows["predictions"] == len(
            short
        )
        assert purge(settings, trail.folder, store, trail.log(), {"standard": TIME + 5}).rows["predictions"] == 4
    with closing(sqlite3.connect(trail.folder / "audit.db")) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    return trail.folder / "audit.db", read_signed_history([trail.checkpoints], [trail.key_file])


class Attacker:
    """Someone who may write to the store, but not to the signed log."""

    def __init__(self, connection: sqlite3.Connection, chance: random.Random) -> None:
        self.connection = connection
        self.chance = chance

    def row(self, table: str) -> dict[str, Any]:
        """Any row of a table, with its rowid where it has one."""
        cursor = self.connection.execute(f"SELECT * FROM {table} ORDER BY 1, 2")
        rows = cursor.fetchall()
        return dict(zip([name for name, *_ in cursor.description], self.chance.choice(rows), strict=True))

    def key(self, table: str) -> tuple[str, ...]:
        """The names of a table's key."""
        found = self.connection.execute(f"SELECT name FROM pragma_table_info('{table}') WHERE pk > 0 ORDER BY pk")
        return tuple(name for (name,) in found)

    def update(self, table: str, row: dict[str, Any], **values: Any) -> None:
        """Change columns of a row."""
        assignments = ", ".join(f'"{name}" = ?' for name in values)
        where = " AND ".join(f'"{name}" = ?' for name in self.key(table))
        place = [row[name] for name in self.key(table)]
        done = self.connection.execute(f"UPDATE {table} SET {assignments} WHERE {where}", [*values.values(), *place])
        assert done.rowcount == 1

    def insert(self, table: str, row: dict[str, Any]) -> None:
        """Add a row."""
        names = ", ".join(f'"{name}"' for name in row)
        self.connection.execute(
            f"INSERT INTO {table} ({names}) VALUES ({', '.join('?' * len(row))})", list(row.values())
        )

    def edit(self) -> str:
        """Change one column of one row."""
        table = self.chance.choice(TABLES)
        row = self.row(table)
        name = self.chance.choice(list(row))
        value = row[name]
        if value is None:
            new: Any = self.chance.choice(["x", 1, "{}"])
        elif self.chance.random() < 0.2:
            new = None
        elif isinstance(value, str):
            new = self.chance.choice([value + "x", value[:-1], value[::-1] + "!", value.upper() + " "])
        else:
            new = self.chance.choice([value + 1, value - 1, -value - 1, value + 0.5])
        if new == value:
            raise sqlite3.IntegrityError  # too small a change for a number of this size
        self.update(table, row, **{name: new})
        return f"{table}.{name} of {row} to {new!r}"

    def delete(self) -> str:
        """Take a row away."""
        table = self.chance.choice(TABLES)
        row = self.row(table)
        where = " AND ".join(f'"{name}" = ?' for name in self.key(table))
        self.connection.execute(f"DELETE FROM {table} WHERE {where}", [row[name] for name in self.key(table)])
        return f"{table} {row}"

    def make_up(self) -> str:
        """Add a row like another one."""
        table = self.chance.choice(TABLES)
        row = self.row(table)
        number = self.chance.choice([0, 3, 40, 1000])
        if table == "predictions":
            row["prediction_id"] = f"made-up-{number}"
            row["sequence"] += number
        elif table in ("items", "entities"):
            row["item_index"] += 1 + number
        elif table == "gaps":
            row["first"] = row["last"] = row["last"] + 1 + number
        else:
            row["sequence"] += 1000 + number
            row["access_id" if table == "accesses" else "hash"] = "made-up"
        if table in CHAINED and self.chance.random() < 0.3:
            row["life"] = "life-3"
        self.insert(table, row)
        return f"{table} {row}"

    def swap(self) -> str:
        """Exchange the places of two rows of a table."""
        table, names = self.chance.choice(
            [
                *(("predictions", ("sequence",)), ("predictions", ("sequence", "hash")), ("items", ("inputs", "salt"))),
                *(("events", ("prediction_id",)), ("outcomes", ("value", "salt")), ("items", ("entity",))),
            ]
        )
        one, other = self.row(table), self.row(table)
        if all(one[name] == other[name] for name in names):
            raise sqlite3.IntegrityError
        self.update(table, one, **{name: other[name] for name in names})
        self.update(table, other, **{name: one[name] for name in names})
        return f"{table} {names} of {one} and {other}"

    def cut(self) -> str:
        """Take away the end of a life."""
        life = self.chance.choice(LIVES)
        (last,) = self.connection.execute("SELECT max(sequence) FROM predictions WHERE life = ?", [life]).fetchone()
        after = self.chance.randrange(last)
        self._take(life, after + 1, 2**62)
        return f"{life} after {after}"

    def cover(self) -> str:
        """Put a gap in the place of rows, and make all the links behind it anew."""
        row = self.row("predictions")
        life, first = row["life"], row["sequence"]
        last = first + self.chance.randrange(3)
        self._take(life, first, last)
        link = next_link(first_link(life), last, bytes(32)).hex()
        reason = self.chance.choice(["damaged", "purged", "dead-lettered"])
        gap = {"life": life, "first": first, "last": last, "records": 1, "reason": reason, "hash": link}
        gap["removal"] = self.chance.choice([self.row_of_a_purge()["removal"], "r1"]) if reason == "purged" else None
        self.insert("gaps", gap)
        return f"{gap}"

    def fill(self) -> str:
        """Put a prediction that was made up in the place of purged rows, as though it had been refused first."""
        gap = self.row_of_a_purge()
        row = self.row("predictions")
        (items,) = self.connection.execute(
            "SELECT count(*) FROM items WHERE prediction_id = ?", [row["prediction_id"]]
        ).fetchone()
        if items != 1:
            raise sqlite3.IntegrityError
        item = dict(self._first("items", "prediction_id", row["prediction_id"]))
        row |= {"prediction_id": "made-up", "life": gap["life"], "sequence": gap["last"], "hash": gap["hash"]}
        item |= {"prediction_id": "made-up", "entity": None, "outputs": '{"reason":"made up"}'}
        self.insert("predictions", row)
        self.insert("items", item)
        digest = self._digest("predictions", gap["life"], gap["last"])
        own = {"digest": digest.hex(), "reason": self.chance.choice(["dead-lettered", "purged"])}
        self.update("gaps", gap, **own, removal=self.chance.choice([gap["removal"], None]))
        return f"{gap} as {own}"

    def strip(self) -> str:
        """Take the links from a life's first rows, as though a release without chains had stored them."""
        life = self.chance.choice(LIVES)
        (before,) = self.connection.execute("SELECT max(last) FROM gaps WHERE life = ?", [life]).fetchone()
        last = self.chance.randrange(1, 1 + (before or 3))
        changed = [
            self.connection.execute(
                f'UPDATE {table} SET hash = NULL WHERE life = ? AND "{place}" <= ? AND hash IS NOT NULL', (life, last)
            ).rowcount
            for table, place in CHAINED.items()
            if table != "gaps" or self.chance.random() < 0.5
        ]
        if not sum(changed):
            raise sqlite3.IntegrityError
        self.connection.execute("UPDATE predictions SET status = 599, time_ns = 1 WHERE hash IS NULL")
        return f"{life} up to {last}"

    def remake(self) -> str:
        """Alter a row, and make the links from there on anew, up to a gap that nobody can follow a chain across."""
        table, name, value = self.chance.choice(
            [("predictions", "status", 599), ("predictions", "duration", 99.0), ("outcomes", "name", "x")]
        )
        row = self.row(table)
        self.update(table, row, **{name: value})
        life, link = row["life"], None
        places = sorted((place, of) for of in CHAINED for place in self._places(of, life))
        for place, of in places:
            if place < row["sequence"]:
                link = bytes.fromhex(self._hash(of, life, place))
                continue
            (removal,) = self.connection.execute(
                "SELECT max(removal) FROM gaps WHERE life = ? AND last = ?", (life, place)
            ).fetchone()
            if removal is not None:
                break
            link = next_link(link or first_link(life), place, self._digest(of, life, place))
            self.connection.execute(
                f'UPDATE {of} SET hash = ? WHERE life = ? AND "{CHAINED[of]}" = ?', (link.hex(), life, place)
            )
        return f"{table} {name} of {row}"

    def row_of_a_purge(self) -> dict[str, Any]:
        """Any gap that a purge left."""
        gaps = [self.row("gaps") for _ in range(50)]
        return next(gap for gap in gaps if gap["removal"] is not None)

    def _take(self, life: str, first: int, last: int) -> None:
        for table, place in CHAINED.items():
            self.connection.execute(
                f'DELETE FROM {table} WHERE life = ? AND "{place}" BETWEEN ? AND ?', (life, first, last)
            )
        for table in ("items", "entities"):
            self.connection.execute(
                f"DELETE FROM {table} WHERE prediction_id NOT IN (SELECT prediction_id FROM predictions)"
            )

    def _places(self, table: str, life: str) -> list[int]:
        found = self.connection.execute(f'SELECT "{CHAINED[table]}" FROM {table} WHERE life = ?', [life])
        return [place for (place,) in found]

    def _hash(self, table: str, life: str, place: int) -> str:
        found = self.connection.execute(
            f'SELECT hash FROM {table} WHERE life = ? AND "{CHAINED[table]}" = ?', (life, place)
        )
        return found.fetchone()[0]

    def _first(self, table: str, column: str, value: Any) -> sqlite3.Row:
        cursor = self.connection.cursor()
        cursor.row_factory = sqlite3.Row
        return cursor.execute(f"SELECT * FROM {table} WHERE {column} = ?", [value]).fetchone()

    def _digest(self, table: str, life: str, place: int) -> bytes:
        """The digest of a row as it stands now."""
        reader = READERS.get(table)
        names = ", ".join(f'"{name}"' for name in (reader.columns if reader else GAPS.plain))
        row = self.connection.execute(
            f'SELECT {names} FROM {table} WHERE life = ? AND "{CHAINED[table]}" = ?', (life, place)
        ).fetchone()
        if reader is None:
            return digest_gap(row).digest
        if table != "predictions":
            return digest_row(reader, row, {}).digest
        items = self.connection.execute(
            f"SELECT {', '.join(ITEM_ROWS.columns)} FROM items WHERE prediction_id = ? ORDER BY item_index",
            [row[reader.columns.index("prediction_id")]],
        )
        ((digested, _),) = digest_predictions([row], iter(items.fetchall()), {})
        return digested.digest


WAYS: tuple[Callable[[Attacker], str], ...] = (
    *(Attacker.edit, Attacker.edit, Attacker.delete, Attacker.make_up),
    *(Attacker.swap, Attacker.cut, Attacker.cover, Attacker.fill, Attacker.strip, Attacker.remake),
)


@pytest.mark.parametrize("span_rows", [1, 2, 5, 2000])
def test_an_untouched_trail_is_verified(original, monkeypatch, span_rows):
    """Nothing is wrong where nothing was done but purging and erasing, in whatever parts it is verified."""
    monkeypatch.setattr("e2i_serving.runtime.verification.SPAN_ROWS", span_rows)
    path, history = original
    report = verify_trail(sqlite_url(path), history)
    assert report.passed, report.problems
    assert (report.chains, report.unanchored, report.unchained) == (3, 0, 0)
    assert (report.erased, report.purged) == (8, 13)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_alteration_is_found(original, tmp_path, seed):
    """Whatever is edited, deleted, inserted, exchanged or cut off before the last checkpoint, verification finds it."""
    path, history = original
    chance = random.Random(seed)
    copy = tmp_path / "audit.db"
    for _ in range(EACH):
        done = ""
        while not done:
            shutil.copyfile(path, copy)
            way = chance.choice(WAYS)
            with closing(sqlite3.connect(copy)) as connection:
                try:
                    done = f"{way.__name__} {way(Attacker(connection, chance))}"
                except sqlite3.IntegrityError:
                    continue  # the database itself refuses it
                connection.commit()
        report = verify_trail(sqlite_url(copy), history)
        assert not report.passed, done


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE predictions SET endpoint = CAST(x'ff00ff' AS TEXT) WHERE prediction_id = 'p00008'",
        "UPDATE items SET inputs = CAST(x'ff' AS TEXT) WHERE prediction_id = 'p00008'",
        "UPDATE items SET entity = CAST(x'ff' AS TEXT) WHERE prediction_id = 'p00008'",
        "UPDATE predictions SET prediction_id = x'ff' WHERE prediction_id = 'p00008'",
        "UPDATE predictions SET items = 'many' WHERE prediction_id = 'p00008'",
        "UPDATE events SET sequence = 'last' WHERE sequence = (SELECT max(sequence) FROM events)",
        "UPDATE events SET life = x'ff'",
        "UPDATE gaps SET first = 'none'",
        "UPDATE predictions SET erased = '[]'",
        "UPDATE predictions SET salt = 1",
        "UPDATE predictions SET hash = x'ff' WHERE prediction_id = 'p00007'",
    ],
)
def test_what_no_column_takes_is_found(original, tmp_path, statement):
    """SQLite keeps anything in any column; what was never written that way is found, and stops nothing."""
    path, history = original
    copy = tmp_path / "audit.db"
    shutil.copyfile(path, copy)
    with closing(sqlite3.connect(copy)) as connection:
        connection.execute(statement)
        connection.commit()
    assert not verify_trail(sqlite_url(copy), history).passed


def test_a_trail_of_many_rows_is_verified_by_several_processes(tmp_path, monkeypatch):
    """Apart or together, the same is found."""
    monkeypatch.setattr("e2i_serving.runtime.verification._ROWS_WORTH_A_PROCESS", 10)
    monkeypatch.setattr("e2i_serving.runtime.verification.SPAN_ROWS", 7)
    trail = Trail(tmp_path)
    trail.deliver(bodies(30))
    trail.deliver(bodies(0) + [record(900 + number) for number in range(10)], "life-2")
    assert trail.verify(processes=2).passed
    with closing(sqlite3.connect(tmp_path / "audit.db")) as connection:
        connection.execute("UPDATE predictions SET status = 500 WHERE prediction_id IN ('p00007', 'p00905')")
        connection.execute("DELETE FROM entities WHERE prediction_id = 'p00020'")
        connection.commit()
    apart, together = trail.verify(processes=2), trail.verify()
    assert apart.problems == together.problems
    assert [problem.prediction_id for problem in apart.problems] == ["p00007", "p00020", "p00020", "p00020", "p00905"]
