"""The relay as it is run: put together from the settings, on a real store."""

from __future__ import annotations

import base64
import logging
import os
import shutil
import subprocess
import sys
import threading
from contextlib import closing

import pytest

from e2i_serving.encryption import cipher_of
from e2i_serving.journal import JournalWriter
from e2i_serving.observers.metrics import collect
from e2i_serving.observers.metrics.families import DELIVERED
from e2i_serving.record import PredictionFilter
from e2i_serving.relay import RelayLock, read_books, read_payload
from e2i_serving.relay.audit_destination import AUDIT_STORE
from e2i_serving.runtime.relay_process import run_relay
from e2i_serving.settings import Settings
from e2i_serving.stores.engine import sqlite_url
from e2i_serving.stores.query import SqlAuditQuery


@pytest.fixture
def rows(tmp_path):
    """Reads the predictions that are stored, by id."""

    def read():
        with closing(SqlAuditQuery(sqlite_url(tmp_path / "audit.db"))) as query:
            return {row["prediction_id"]: row for row in query.predictions(PredictionFilter())}

    return read


def test_rows_are_chained_and_large_payloads_kept_encrypted(tmp_path, journal, rows):
    """From an encrypted journal to a store with links, a payload file and a checkpoint, none of it in clear."""
    keys = tmp_path / "keys"
    keys.write_text(f"1 {base64.b64encode(bytes(range(32))).decode()}\n")
    keys.chmod(0o600)
    settings = Settings(encryption_key_file=keys, payload_bytes=2048)
    cipher = cipher_of(settings)
    options = {"segment_bytes": 65536, "record_bytes": 65536, "cipher": cipher}
    with closing(JournalWriter(tmp_path / "journal", journal.life(), **options)) as writer:
        writer.append(journal.record(1))
        writer.append(journal.record(2, 5000))
    assert run_relay(settings, tmp_path, once=True)
    found = rows()
    assert len(found["p1"]["hash"]) == len(found["p2"]["hash"]) == 64
    assert found["p1"]["payload_digest"] is None
    payload = read_payload(tmp_path, found["p2"]["payload_digest"], cipher)
    assert payload is not None
    assert payload.rows() == [({"text": "x" * 5000}, {})]
    assert list((tmp_path / "checkpoints").iterdir())
    for path in (tmp_path / "payloads").rglob("*"):
        assert not path.is_file() or b"xxxxxxxx" not in path.read_bytes()


def test_what_relays_delivered_is_counted_on(tmp_path, journal):
    """Each relay shows what all before it delivered, and what it did itself; so it stays when it is gone."""
    for number in (1, 2):
        with closing(journal.open_writer(tmp_path / "journal", f"life-{number}")) as writer:
            writer.append(journal.record(number))
        assert run_relay(Settings(), tmp_path, once=True)
        assert collect(tmp_path / "metrics")[DELIVERED.name, (AUDIT_STORE,)] == [number]


def test_further_rules_of_the_audit_store_are_followed(tmp_path, journal, rows):
    """What the worker kept, a destination's own rules may still take out."""
    rules = {"audit-store": ({"path": "request_id", "action": "mask"},)}
    with closing(journal.open_writer(tmp_path / "journal")) as writer:
        writer.append(journal.record(1))
    assert run_relay(Settings(redaction_destinations=rules), tmp_path, once=True)
    assert rows()["p1"]["request_id"] == "***"


def test_a_relay_whose_data_directory_is_removed_ends(tmp_path, journal, eventually):
    """As a process, it notices by itself, makes nothing anew, and leaves its place to the next one."""
    data_dir = tmp_path / "data"
    environment = {**os.environ, "E2I_SERVING_DATA_DIR": str(data_dir)}
    with closing(journal.open_writer(data_dir / "journal")) as writer:
        writer.append(journal.record(1))
        process = subprocess.Popen(
            [sys.executable, "-m", "e2i_serving.runtime.relay_process"], env=environment, cwd=tmp_path
        )
        try:
            eventually(lambda: RelayLock(data_dir).holder() == process.pid, what="the relay")
            eventually((data_dir / "audit.db").exists, what="the store")
            data_dir.rename(tmp_path / "gone")
            shutil.rmtree(tmp_path / "gone")
            assert process.wait(30) == 0
        finally:
            process.kill()
            process.wait(30)
        assert not data_dir.exists()


def test_a_relay_makes_room_when_it_is_asked_to(tmp_path, journal, eventually, monkeypatch):
    """With `drop-oldest` a store that is down costs the oldest records, not the disk."""
    from e2i_serving.relay import loop

    monkeypatch.setattr(loop, "ROOM_SECONDS", 0.05)
    settings = Settings(
        overflow="drop-oldest",
        journal_bytes=4 * 1024 * 1024,
        audit_url=sqlite_url(tmp_path / "missing" / "audit.db"),
        relay_poll_seconds=0.01,
        relay_shutdown_seconds=0,
    )
    with closing(journal.open_writer(tmp_path / "journal")) as writer:
        for number in range(1000):
            writer.append(journal.record(number, 8000))
    logging.getLogger("e2i_serving.relay").setLevel(logging.CRITICAL)
    try:
        thread = threading.Thread(
            target=run_relay, args=(settings.model_copy(update={"data_dir": tmp_path}), tmp_path), kwargs={"once": True}
        )
        thread.start()

        def dropped() -> int:
            (book,) = read_books(tmp_path)
            assert book.accepted == 1000
            return book.dropped["overflow"]

        eventually(dropped, what="room")
        (tmp_path / "missing").mkdir()
        thread.join(60)
        assert not thread.is_alive()
    finally:
        logging.getLogger("e2i_serving.relay").setLevel(logging.NOTSET)
    (book,) = read_books(tmp_path)
    assert book.balanced
    assert (book.stored + book.dropped["overflow"], book.pending) == (1000, 0)
    assert 0 < book.dropped["overflow"] < 1000
