"""The ledger's tables, and how a ledger of an earlier release becomes one of this."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from e2i_serving.exceptions import JournalError

LEDGER_NAME: Final = "ledger.db"
VERSION: Final = 4
"""``PRAGMA user_version`` of a ledger of this release; 0 in the first one's, which did not set it."""

_LIVES_AND_DROPS: Final = """
CREATE TABLE IF NOT EXISTS lives (
    life TEXT PRIMARY KEY,
    service TEXT NOT NULL,
    started_ns INTEGER NOT NULL,
    records INTEGER NOT NULL DEFAULT 0,
    torn INTEGER NOT NULL DEFAULT 0,
    closed INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS drops (
    destination TEXT NOT NULL,
    life TEXT NOT NULL,
    reason TEXT NOT NULL,
    records INTEGER NOT NULL,
    PRIMARY KEY (destination, life, reason)
) WITHOUT ROWID;
"""
_CURSORS: Final = """
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
"""
_SINCE_2: Final = """
ALTER TABLE cursors ADD COLUMN recovered INTEGER NOT NULL DEFAULT 0;
ALTER TABLE cursors ADD COLUMN state BLOB NOT NULL DEFAULT x'';
CREATE TABLE dead_letters (
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    destination TEXT NOT NULL,
    life TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    ordinal INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    schema INTEGER NOT NULL,
    key_id INTEGER NOT NULL,
    records INTEGER NOT NULL,
    reason TEXT NOT NULL,
    message TEXT NOT NULL,
    time_ns INTEGER NOT NULL,
    about BLOB NOT NULL,
    payload BLOB NOT NULL,
    digest BLOB NOT NULL,
    state BLOB NOT NULL,
    requested INTEGER NOT NULL DEFAULT 0,
    UNIQUE (destination, life, sequence)
);
CREATE TABLE given_up (
    destination TEXT NOT NULL,
    life TEXT NOT NULL,
    segment INTEGER NOT NULL,
    first INTEGER NOT NULL,
    last INTEGER NOT NULL,
    records INTEGER NOT NULL,
    last_ordinal INTEGER NOT NULL,
    PRIMARY KEY (destination, life, segment)
) WITHOUT ROWID;
"""
_SINCE_3: Final = """
ALTER TABLE cursors ADD COLUMN skipped INTEGER NOT NULL DEFAULT 0;
CREATE TABLE destinations (
    name TEXT PRIMARY KEY,
    active INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO destinations SELECT DISTINCT destination, 1 FROM cursors;
"""
_SINCE_4: Final = """
CREATE TABLE intents (
    destination TEXT NOT NULL,
    life TEXT NOT NULL,
    sequence INTEGER NOT NULL,
    link BLOB NOT NULL,
    PRIMARY KEY (destination, life, sequence, link)
) WITHOUT ROWID;
"""
_STEPS: Final = ((2, f"{_LIVES_AND_DROPS}{_CURSORS}{_SINCE_2}"), (3, _SINCE_3), (4, _SINCE_4))
"""What makes a ledger of a version of the one before, in order."""


def open_ledger(data_dir: Path) -> sqlite3.Connection:
    """Open a ledger for writing, made or upgraded if need be; any thread may use it, one at a time.

    Raises:
        JournalError: A newer release made it.
    """
    connection = sqlite3.connect(data_dir / LEDGER_NAME, isolation_level=None, timeout=5, check_same_thread=False)
    try:
        connection.execute("PRAGMA journal_mode=WAL")
        # Segments are deleted on the ledger's word, so its word must be on the disk.
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA secure_delete=ON")  # a dead letter that goes leaves nothing of it
        _upgrade(connection)
    except BaseException:
        connection.close()
        raise
    return connection


def open_to_read(data_dir: Path) -> sqlite3.Connection:
    """A ledger for reading; one that is not there, or is being made right now, reads as empty.

    Raises:
        JournalError: A newer release made it.
    """
    path = data_dir / LEDGER_NAME
    if not path.exists():
        return _in_memory()
    where = f"{path.absolute().as_uri()}?mode=ro"
    connection = sqlite3.connect(where, uri=True, isolation_level=None, timeout=5, check_same_thread=False)
    try:
        if _version(connection) == VERSION:
            return connection
        memory = _in_memory(connection)
    except BaseException:
        connection.close()
        raise
    connection.close()
    return memory


def _in_memory(source: sqlite3.Connection | None = None) -> sqlite3.Connection:
    connection = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    if source is not None:
        source.backup(connection)
    _upgrade(connection)
    return connection


def _upgrade(connection: sqlite3.Connection) -> None:
    if _version(connection) == VERSION:
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        found = _version(connection)  # asked again: another process may have been faster
        if found < VERSION:
            steps = "".join(statements for version, statements in _STEPS if found < version)
            for statement in steps.split(";"):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {VERSION}")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _version(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise JournalError(
            f"The ledger is of version {version}, made by a newer release; this one reads up to {VERSION}. "
            "Use the newer release."
        )
    return version
