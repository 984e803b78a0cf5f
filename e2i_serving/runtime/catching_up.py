"""Waits until destinations have what is journaled: before an erasure, and for who asks for what was just served."""

from __future__ import annotations

import logging
import subprocess
import time
from collections.abc import Collection
from contextlib import closing
from pathlib import Path
from typing import Final

from e2i_serving.exceptions import E2IServingError
from e2i_serving.journal import JournalReader, is_unreadable, list_lives
from e2i_serving.relay import Ledger, RelayLock
from e2i_serving.relay.audit_destination import AUDIT_STORE
from e2i_serving.runtime.events import end_relay, start_relay_once
from e2i_serving.settings import Settings

logger = logging.getLogger("e2i_serving.audit")

READER_SECONDS: Final = 5.0
"""How long someone waits who asks for a prediction that the store does not have."""

_FRAMES: Final = 1024
_FRAME_BYTES: Final = 8 * 1024 * 1024
_POLL_SECONDS: Final = 0.05


def catch_up(
    data_dir: Path,
    within_seconds: float,
    *,
    destinations: Collection[str] = (),
    settings: Settings | None = None,
) -> int:
    """Wait until destinations have what is in the journal now.

    Args:
        data_dir: The data directory.
        within_seconds: Longest to wait.
        destinations: Which; none: all that the last relay had.
        settings: What a relay is run by where none runs; without, nothing is waited for then.

    Returns:
        How many workers' journals are not delivered yet.

    Raises:
        E2IServingError: A journal can't be read.
    """
    deadline = time.monotonic() + within_seconds
    behind = _pending(data_dir, destinations, deadline)
    relay: subprocess.Popen[bytes] | None = None
    try:
        while behind and time.monotonic() < deadline:
            if relay is not None and relay.poll() is not None:
                relay = None  # it lost the lock to another, or could do nothing: look again
            if relay is None and RelayLock(data_dir).holder() is None:
                if settings is None:
                    break
                relay = start_relay_once(settings, data_dir)
            time.sleep(_POLL_SECONDS)
            behind = _still_pending(data_dir, behind, destinations)
    finally:
        if relay is not None:
            end_relay(relay, max(0.0, deadline - time.monotonic()))
    return len(behind)


def receivers(ledger: Ledger) -> set[str]:
    """The destinations that take what is journaled; one that was taken away begins anew if it comes back."""
    return {AUDIT_STORE, *ledger.active_destinations()}


def await_store(data_dir: Path) -> None:
    """Wait for what a running relay is about to bring to the audit store, for someone who reads it."""
    try:
        if RelayLock(data_dir).holder() is not None:  # else nothing is brought, however much there is
            catch_up(data_dir, READER_SECONDS, destinations=(AUDIT_STORE,))
    except (E2IServingError, OSError) as error:
        # What is stored can be read all the same.
        logger.warning("What is on its way to the audit store can't be told: %s", error)


def _pending(data_dir: Path, wanted: Collection[str], deadline: float) -> dict[str, int]:
    """For each life with frames that a destination has yet to take, the number of the last one there is now.

    Behind the deadline no more of a life is read than tells that there are any.
    """
    ends: dict[str, int] = {}
    with closing(Ledger(data_dir, read_only=True)) as ledger:
        destinations = wanted or receivers(ledger)
        for folder in list_lives(data_dir / "journal"):
            behind = min(ledger.position(destination, folder.life) for destination in destinations)
            reader = JournalReader(folder, behind)
            last = behind.sequence
            try:
                while frames := reader.read(_FRAMES, ended=False, max_bytes=_FRAME_BYTES):
                    last = frames[-1].sequence
                    if time.monotonic() >= deadline:
                        break
            except (E2IServingError, OSError):
                if folder.path.exists():
                    if not is_unreadable(folder) or folder.alive():
                        raise
                    last += 1  # a relay has yet to set it aside
            if last > behind.sequence:
                ends[folder.life] = last
    return ends


def _still_pending(data_dir: Path, behind: dict[str, int], wanted: Collection[str]) -> dict[str, int]:
    with closing(Ledger(data_dir, read_only=True)) as ledger:
        destinations = wanted or receivers(ledger)
        return {
            life: last
            for life, last in behind.items()
            if (data_dir / "journal" / life).exists()
            and any(ledger.position(name, life).sequence < last for name in destinations)
        }
