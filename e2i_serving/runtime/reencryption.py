"""Encrypts again, with the key that encrypts now, what an older key encrypted or none did."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Final, NamedTuple

from e2i_serving.exceptions import ConfigurationError
from e2i_serving.relay.ledger_schema import LEDGER_NAME
from e2i_serving.relay.payloads import PAYLOAD_MAGIC, open_payload, seal_payload
from e2i_serving.typing import Cipher

_WAIT_SECONDS: Final = 30


class Reencrypted(NamedTuple):
    """How many were encrypted again; all others had the key already."""

    payload_files: int
    dead_letters: int


def reencrypt(data_dir: Path, cipher: Cipher, *, progress: Callable[[], None] | None = None) -> Reencrypted:
    """Encrypt the payload files and dead letters of a data directory with the cipher's key.

    Each is replaced as a whole, so that it may be broken off and begun again, and a relay may run meanwhile.

    Args:
        data_dir: The data directory.
        cipher: Its key is the one that encrypts now.
        progress: Called after each payload file and each dead letter that was looked at.

    Raises:
        ConfigurationError: The data directory is none, or can't be read and written.
        EncryptionError: One of them can't be read: its key is missing, or it was altered.
        StoreError: A payload's file is none.
    """
    if not data_dir.is_dir():
        raise ConfigurationError(f"{data_dir} is no data directory.")
    try:
        files = sum(_told(progress, _file(path, cipher)) for path in _payload_files(data_dir))
        return Reencrypted(files, _dead_letters(data_dir / LEDGER_NAME, cipher, progress))
    except (OSError, sqlite3.Error) as error:
        raise ConfigurationError(f"{data_dir} can't be read or written: {error}.") from error


def _told(progress: Callable[[], None] | None, is_done: int) -> int:
    if progress is not None:
        progress()
    return is_done


def _payload_files(data_dir: Path) -> Iterator[Path]:
    return (path for path in sorted((data_dir / "payloads").glob("??/*")) if not path.name.startswith("."))


def _file(path: Path, cipher: Cipher) -> bool:
    content = path.read_bytes()
    if content.startswith(PAYLOAD_MAGIC + cipher.key_id.to_bytes(4, "little")):
        return False
    data = open_payload(content, cipher)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with os.fdopen(os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as file:
            file.write(seal_payload(data, cipher))
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)
    return True


def _dead_letters(ledger: Path, cipher: Cipher, progress: Callable[[], None] | None) -> int:
    if not ledger.exists():
        return 0
    with closing(sqlite3.connect(ledger, isolation_level=None, timeout=_WAIT_SECONDS)) as connection:
        if not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'dead_letters'").fetchone():
            return 0
        connection.execute("PRAGMA secure_delete=ON")  # what was plain must not stay in the file's free pages
        older = connection.execute(
            "SELECT id FROM dead_letters WHERE coalesce(key_id, 0) != ? AND length(payload) > 0", (cipher.key_id,)
        ).fetchall()
        done = sum(_told(progress, _dead_letter(connection, letter, cipher)) for (letter,) in older)
        if done:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return done


def _dead_letter(connection: sqlite3.Connection, letter: int, cipher: Cipher) -> int:
    connection.execute("BEGIN IMMEDIATE")
    try:
        row = connection.execute("SELECT life, key_id, payload FROM dead_letters WHERE id = ?", (letter,)).fetchone()
        if row is not None:
            life, key_id, payload = row
            plain = cipher.decrypt(key_id, life, payload) if key_id else payload
            connection.execute(
                "UPDATE dead_letters SET key_id = ?, payload = ? WHERE id = ?",
                (cipher.key_id, cipher.encrypt(life, plain), letter),
            )
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    return int(row is not None)
