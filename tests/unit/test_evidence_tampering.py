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

from e2i_serving.evidence.commitments import first_link, next_link
from e2i_serving.evidence.history import History
from e2i_serving.record import AccessEvent, Gap
from e2i_serving.runtime.verification import read_signed_history, verify_trail
from e2i_serving.stores.engine import sqlite_url

SEEDS = range(20)
EACH = 50
TABLES = ("predictions", "items", "entities", "events", "outcomes", "accesses", "gaps")
CHAINED = {
    "predictions": "sequence",
    "events": "sequence",
    "outcomes": "sequence",
    "accesses": "sequence",
    "gaps": "last",
}


@pytest.fixture(scope="module")
def original(tmp_path_factory) -> tuple[Path, History]:
    """A store of two lives that nobody has touched, and what was signed of it."""
    trail = Trail(tmp_path_factory.mktemp("original"))
    content = bodies(30)
    after = len(content)
    trail.deliver([*content, Gap(after + 1, after + 4, 2, "damaged"), record(9001)], close=True)
    trail.deliver([record(5001, items=3), AccessEvent("a9", TIME), record(5002, items=0)], "life-2")
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
        name = self.chance.choice([name for name in row if (table, name) != ("gaps", "digest") or row[name]])
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
        life = self.chance.choice(["life-1", "life-2"])
        (last,) = self.connection.execute("SELECT max(sequence) FROM predictions WHERE life = ?", [life]).fetchone()
        after = self.chance.randrange(last)
        for table, place in CHAINED.items():
            self.connection.execute(f'DELETE FROM {table} WHERE life = ? AND "{place}" > ?', (life, after))
        self.connection.execute("DELETE FROM items WHERE prediction_id NOT IN (SELECT prediction_id FROM predictions)")
        self.connection.execute(
            "DELETE FROM entities WHERE prediction_id NOT IN (SELECT prediction_id FROM predictions)"
        )
        return f"{life} after {after}"

    def cover(self) -> str:
        """Put a gap in the place of rows, and make all the links behind it anew."""
        row = self.row("predictions")
        life, first = row["life"], row["sequence"]
        last = first + self.chance.randrange(3)
        for table, place in CHAINED.items():
            self.connection.execute(
                f'DELETE FROM {table} WHERE life = ? AND "{place}" BETWEEN ? AND ?', (life, first, last)
            )
        self.connection.execute("DELETE FROM items WHERE prediction_id NOT IN (SELECT prediction_id FROM predictions)")
        self.connection.execute(
            "DELETE FROM entities WHERE prediction_id NOT IN (SELECT prediction_id FROM predictions)"
        )
        link = next_link(first_link(life), last, bytes(32)).hex()
        reason = self.chance.choice(["damaged", "purged", "dead-lettered"])
        gap = {"life": life, "first": first, "last": last, "records": 1, "reason": reason, "hash": link}
        gap["removal"] = "r1" if reason == "purged" else None
        self.insert("gaps", gap)
        return f"{gap}"


WAYS: tuple[Callable[[Attacker], str], ...] = (
    *(Attacker.edit, Attacker.edit, Attacker.delete, Attacker.make_up),
    *(Attacker.swap, Attacker.cut, Attacker.cover),
)


def test_an_untouched_trail_is_verified(original):
    """Nothing is wrong where nothing was done."""
    path, history = original
    report = verify_trail(sqlite_url(path), history)
    assert report.passed, report.problems
    assert (report.chains, report.unanchored, report.unchained) == (2, 0, 0)


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
        "UPDATE predictions SET endpoint = CAST(x'ff00ff' AS TEXT) WHERE prediction_id = 'p00004'",
        "UPDATE items SET inputs = CAST(x'ff' AS TEXT) WHERE prediction_id = 'p00004'",
        "UPDATE items SET entity = CAST(x'ff' AS TEXT) WHERE prediction_id = 'p00004'",
        "UPDATE predictions SET prediction_id = x'ff' WHERE prediction_id = 'p00004'",
        "UPDATE predictions SET items = 'many' WHERE prediction_id = 'p00004'",
        "UPDATE events SET sequence = 'last' WHERE sequence = (SELECT max(sequence) FROM events)",
        "UPDATE events SET life = x'ff'",
        "UPDATE gaps SET first = 'none'",
        "UPDATE predictions SET erased = '[]'",
        "UPDATE predictions SET salt = 1",
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
