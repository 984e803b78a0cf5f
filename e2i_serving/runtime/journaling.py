"""Journalling as part of serving: what keeps a journal within its bounds, and what happens when it can't be written."""

from __future__ import annotations

import asyncio
import errno
import logging
import time
from contextlib import suppress
from pathlib import Path

import msgspec

from e2i_serving.encryption import cipher_of
from e2i_serving.exceptions import ConfigurationError, FailureQuotaFull, JournalError, JournalFull
from e2i_serving.guard import REPEAT_AFTER_SECONDS, FailureGuard
from e2i_serving.journal import JournalRoom, JournalWriter, new_life_id, without_payload
from e2i_serving.record import LateResult, Life, PredictionRecord, StreamEnd
from e2i_serving.runtime.definition import make_private
from e2i_serving.settings import Settings

logger = logging.getLogger("e2i_serving")

NOT_ENCODABLE = "not-encodable"
NO_JOURNAL = "no-journal"
JOURNAL_FULL = "journal-full"
FAILURE_QUOTA = "failure-quota"
_REASONS = {errno.ENOSPC: "disk-full", errno.EDQUOT: "disk-full", errno.EROFS: "read-only", errno.EIO: "disk-error"}


class Journaling:
    """Appends records and says for each why it could not, if it could not.

    Called on the event loop.

    Args:
        data_dir: The data directory.
        life: Who writes; each journal that is begun gets an id of its own.
        settings: What the journal may take.
        guard: Takes what goes wrong.

    Attributes:
        life: The life under which the journal was begun last.
        writer: The journal; ``None`` while there can't be one.
    """

    def __init__(self, data_dir: Path, life: Life, settings: Settings, guard: FailureGuard) -> None:
        self.life = life
        self.writer: JournalWriter | None = None
        self._data_dir = data_dir
        self._settings = settings
        self._guard = guard
        self._room = JournalRoom(data_dir / "journal", settings.journal_bytes)
        self._without = NO_JOURNAL
        self._lost: list[JournalWriter] = []
        """Journals that were deleted under this worker, and are not yet put back."""
        self._said: dict[str, float] = {}
        try:
            self._begin(self._room.left())
        except OSError as error:
            guard.caught("journal", error)

    def append(self, body: PredictionRecord | StreamEnd | LateResult) -> str | None:
        """Append; returns ``None`` if the body is journaled now, else the reason why not."""
        writer = self.writer
        if writer is None:
            return self._without
        try:
            try:
                writer.append(body)
            except (TypeError, ValueError, OverflowError, RecursionError):
                # What the service attached can't be encoded: that it happened is still put on record.
                if not isinstance(body, PredictionRecord):
                    raise
                writer.append(without_payload(body, NOT_ENCODABLE))
        except JournalFull as error:
            return self._full(error)
        except OSError as error:
            self._guard.caught("journal", error)
            return _REASONS.get(error.errno or 0, "write-failed")
        except Exception as error:  # noqa: BLE001  # promise 4: observability never harms
            self._guard.caught("journal", error)
            return NOT_ENCODABLE
        return None

    async def sync(self) -> str | None:
        """Wait for the disk where durability asks for it; returns as ``append`` does."""
        if self.writer is None:
            return self._without
        try:
            await self.writer.sync()
        except OSError as error:
            self._guard.caught("journal sync", error)
            return "sync-failed"
        return None

    def fault(self) -> str | None:
        """Why the next record could not be journaled, found out by trying; ``None`` if it could."""
        if self.writer is None:
            return self._without
        try:
            self.writer.probe()
        except JournalFull:
            return JOURNAL_FULL
        except OSError as error:
            return _REASONS.get(error.errno or 0, "write-failed")
        return None

    async def keep_house(self) -> None:
        """Begin a journal if there is none, put back one that was deleted, and keep it within its bounds.

        Raises:
            OSError: The disk failed; the next call goes on from there.
            JournalError: Likewise.
        """
        left = await asyncio.to_thread(self._room.left)
        if self.writer is not None and self.writer.removed():
            self._replace(self.writer, left)
        elif self.writer is None:
            self._begin(left)
        for writer in self._lost.copy():
            await asyncio.to_thread(writer.rescue)
            self._lost.remove(writer)
        writer_now = self.writer
        if writer_now is None or writer_now.removed():
            return
        segment = writer_now.segment
        kept = await asyncio.to_thread(writer_now.folder.segments)
        writer_now.room = left
        writer_now.prune(kept, before=segment)
        await asyncio.to_thread(writer_now.prepare)
        with suppress(JournalFull):
            writer_now.rotate_if_due()

    def close(self) -> None:
        """End the life."""
        for writer in (*self._lost, self.writer):
            try:
                if writer is not None:
                    writer.close()
            except (OSError, JournalError) as error:
                self._guard.caught("journal", error)

    def _replace(self, writer: JournalWriter, left: int) -> None:
        # A life of its own: whoever read of the old one may take it for ended.
        self._begin(left)
        if self.writer is not writer:
            logger.warning("The journal in %s was deleted while it was written to; it is put back.", self._data_dir)
            self._lost.append(writer)

    def _begin(self, left: int) -> None:
        settings = self._settings
        try:
            if left <= 0:
                self._without = self._full(JournalFull(f"The journal in {self._data_dir} takes all the disk it may."))
                return
            make_private(self._data_dir)
            # An id of its own for each try: a folder that was made and could not be filled belongs to none.
            life = msgspec.structs.replace(self.life, life=new_life_id())
            writer = JournalWriter(
                self._data_dir / "journal",
                life,
                segment_bytes=settings.segment_bytes,
                record_bytes=settings.record_bytes,
                segment_seconds=settings.segment_seconds,
                failure_bytes=settings.failure_bytes,
                power_loss=settings.durability == "power-loss",
                cipher=cipher_of(settings),
            )
        except (JournalError, ConfigurationError, OSError) as error:
            self._without = NO_JOURNAL
            self._guard.caught("journal", error)
            return
        writer.room = left
        self.life, self.writer = life, writer

    def _full(self, error: JournalFull) -> str:
        """Name the bound that was reached, and log it now and then."""
        reason = FAILURE_QUOTA if isinstance(error, FailureQuotaFull) else JOURNAL_FULL
        now = time.monotonic()
        if now - self._said.get(reason, -REPEAT_AFTER_SECONDS) >= REPEAT_AFTER_SECONDS:
            self._said[reason] = now
            logger.warning("Records are not journaled, and counted as %s: %s", reason, error)
        return reason
