"""Journalling as part of serving: what happens to a record that can't be written."""

from __future__ import annotations

import errno

from e2i_serving.guard import FailureGuard
from e2i_serving.journal import JournalWriter, without_payload
from e2i_serving.record import PredictionRecord, StreamEnd

NOT_ENCODABLE = "not-encodable"
_REASONS = {errno.ENOSPC: "disk-full", errno.EDQUOT: "disk-full", errno.EROFS: "read-only", errno.EIO: "disk-error"}


class Journaling:
    """Appends records and says for each why it could not, if it could not.

    Args:
        writer: The journal.
        guard: Takes what goes wrong.
    """

    def __init__(self, writer: JournalWriter, guard: FailureGuard) -> None:
        self._writer = writer
        self._guard = guard

    def append(self, body: PredictionRecord | StreamEnd) -> str | None:
        """Append; returns ``None`` if the body is journaled now, else the reason why not."""
        try:
            try:
                self._writer.append(body)
            except (TypeError, ValueError, OverflowError, RecursionError):
                # What the service attached can't be encoded: that it happened is still put on record.
                if not isinstance(body, PredictionRecord):
                    raise
                self._writer.append(without_payload(body, NOT_ENCODABLE))
        except OSError as error:
            self._guard.caught("journal", error)
            return _REASONS.get(error.errno or 0, "write-failed")
        except Exception as error:  # noqa: BLE001  # promise 4: observability never harms
            self._guard.caught("journal", error)
            return NOT_ENCODABLE
        return None

    async def sync(self) -> str | None:
        """Wait for the disk where durability asks for it; returns as ``append`` does."""
        try:
            await self._writer.sync()
        except OSError as error:
            self._guard.caught("journal sync", error)
            return "sync-failed"
        return None
