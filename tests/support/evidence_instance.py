"""A data directory with a living worker's journal, for tests of what an erasure and a purge leave."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

from e2i_serving.evidence.opening import open_log
from e2i_serving.journal import JournalWriter
from e2i_serving.record import Life
from e2i_serving.runtime.holds import verify_stored_holds
from e2i_serving.runtime.purging import cutoffs, purge
from e2i_serving.runtime.relay_process import run_relay
from e2i_serving.runtime.verification import read_signed_history, verify_trail
from e2i_serving.settings import Settings, load_settings
from e2i_serving.stores.engine import sqlite_url
from e2i_serving.stores.maintenance import SqlMaintenance


class Instance:
    """A data directory with a living worker's journal and what its relay delivered."""

    def __init__(self, data_dir: Path, **settings: Any) -> None:
        self.data_dir = data_dir
        self.settings: Settings = load_settings({"data_dir": str(data_dir), "payload_bytes": 4096, **settings}).settings
        self.url = sqlite_url(data_dir / "audit.db")
        self.writer = JournalWriter(
            data_dir / "journal",
            Life("life-1", "credit", 1, os.getpid()),
            segment_bytes=1024 * 1024,
            record_bytes=10**6,
        )

    def journal(self, *content: Any) -> None:
        """Journal what a worker would."""
        for body in content:
            self.writer.append(body)

    def deliver(self) -> None:
        """Let a relay deliver all there is."""
        assert run_relay(self.settings, self.data_dir, once=True)

    def verify(self) -> Any:
        """Verify the store and its holds."""
        history = read_signed_history([self.data_dir / "checkpoints"])
        report = verify_trail(self.url, history)
        for problem in verify_stored_holds(self.url, history.holds):
            report.note(problem)
        return report

    def files_with(self, text: str) -> list[str]:
        """The files in which a text stands, as it is or in UTF-16."""
        return [
            str(path.relative_to(self.data_dir))
            for path in sorted(self.data_dir.rglob("*"))
            if path.is_file() and any(text.encode(code) in path.read_bytes() for code in ("utf-8", "utf-16-le"))
        ]

    def rows(self, statement: str) -> list[Any]:
        """What the store says."""
        with closing(sqlite3.connect(self.data_dir / "audit.db")) as connection:
            return connection.execute(statement).fetchall()

    def purge(self, *, dry_run: bool = False, older_than: str | None = None, retention_class: str | None = None) -> Any:
        """Purge the store."""
        log = None if dry_run else open_log(self.settings, self.data_dir)
        until = cutoffs(self.settings, older_than, retention_class)
        with SqlMaintenance(self.url) as store:
            return purge(self.settings, self.data_dir, store, log, until)
