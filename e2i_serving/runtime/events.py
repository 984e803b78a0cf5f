"""How outcomes and accesses get into the trail: through a journal, like predictions, by the same relay.

Whoever records them lives a short life of its own in the data directory's journal. So they survive the kill of
any process, stand in a chain, and are delivered once.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Final

import e2i_serving
from e2i_serving.encryption import cipher_of
from e2i_serving.exceptions import JournalError, JournalFull
from e2i_serving.journal import JournalRoom, JournalWriter
from e2i_serving.journal.lives import new_life_id
from e2i_serving.record import AccessEvent, Deployment, Life, ModelInfo, OutcomeEvent
from e2i_serving.redaction import redactor_of
from e2i_serving.relay import RelayLock
from e2i_serving.runtime.definition import make_private
from e2i_serving.settings import Settings, environment_of, instance_name

SERVICE: Final = "e2i-serving"
"""The service that such a life is of: none, but this package itself."""

SEGMENT_BYTES: Final = 1024 * 1024
EVENTS_SHARE: Final = 0.5
"""The part of ``journal_bytes`` up to which outcomes are taken, so that an import does not push out predictions."""
_POLL_SECONDS: Final = 0.05
_RELAY_ONCE: Final = "from e2i_serving.cli import main; main()"


class EventJournal:
    """Appends outcomes and accesses to the journal of a data directory. Any thread may append.

    Nothing is made before the first event.

    Args:
        data_dir: The data directory.
        settings: What they are redacted and encrypted by.
        share: The part of the instance's journal that may be taken, by whomever, and there is still room for them; the
            rest is left to workers.
        room_seconds: How long to wait for the relay to make room; where none runs, one is run for that long.
    """

    def __init__(
        self, data_dir: Path, settings: Settings, *, share: float = EVENTS_SHARE, room_seconds: float = 0.0
    ) -> None:
        self.data_dir = data_dir
        self._room = JournalRoom(data_dir / "journal", int(settings.journal_bytes * share))
        self._room_seconds = room_seconds
        self._settings = settings
        self._redactor = redactor_of(settings, ModelInfo())
        self._writer: JournalWriter | None = None
        self._lock = threading.Lock()

    @property
    def life(self) -> str:
        """The life's id; empty before the first event."""
        return self._writer.life.life if self._writer is not None else ""

    def append(self, event: OutcomeEvent | AccessEvent) -> None:
        """Append one event; when this returns, the kill of any process can't lose it.

        Raises:
            JournalError: It could not be written, or there is no room for it.
        """
        if self._redactor is not None:
            redact = self._redactor.outcome if isinstance(event, OutcomeEvent) else self._redactor.access
            event = redact(event)  # type: ignore[arg-type]  # each takes its own kind
        try:
            with self._lock:
                if self._writer is None:
                    self._await_room()
                    self._writer = self._open()
                try:
                    self._writer.append(event)
                except JournalFull:
                    self._writer.room = self._await_room()
                    self._writer.append(event)
        except (OSError, OverflowError) as error:
            raise JournalError(f"Nothing can be recorded in {self.data_dir}: {error}.") from error

    def close(self) -> None:
        """End the life: what it holds is on the disk."""
        if self._writer is not None:
            self._writer.close()

    def has_relay(self) -> bool:
        """Whether a relay of the data directory runs."""
        return RelayLock(self.data_dir).holder() is not None

    def deliver(self, within_seconds: float) -> bool:
        """Wait until the store has what was appended; where no relay runs, run one for that long.

        Call it after ``close``.

        Args:
            within_seconds: Longest to wait.

        Returns:
            Whether all was delivered; what was not stays in the journal for the next relay.
        """
        if self._writer is None:
            return True
        folder = self.data_dir / "journal" / self.life
        deadline = time.monotonic() + within_seconds
        relay: subprocess.Popen[bytes] | None = None
        try:
            while folder.exists():
                if relay is not None and relay.poll() is not None:
                    if relay.returncode and not self.has_relay():
                        return False  # another one would fail likewise
                    relay = None
                if relay is None and not self.has_relay():
                    relay = start_relay_once(self._settings, self.data_dir)
                if time.monotonic() >= deadline:
                    return False
                time.sleep(_POLL_SECONDS)
        finally:
            if relay is not None:
                end_relay(relay, max(0.0, deadline - time.monotonic()))
        return True

    def _await_room(self) -> int:
        """How many bytes there is room for, once that is a segment at least; waits for the relay if need be.

        Raises:
            JournalError: There is none in time.
        """
        deadline = time.monotonic() + self._room_seconds
        relay: subprocess.Popen[bytes] | None = None
        try:
            while (left := self._room.left()) < SEGMENT_BYTES:
                if time.monotonic() >= deadline:
                    raise JournalError(
                        f"Nothing more can be recorded in {self.data_dir} for now: what is not delivered takes the "
                        "part of journal_bytes that outcomes and accesses may take. See that the relay runs and "
                        "reaches the store, then go on; an import can be run again from its beginning."
                    )
                if relay is None and not self.has_relay():
                    relay = start_relay_once(self._settings, self.data_dir)
                elif relay is not None and relay.poll() is not None:
                    relay = None
                time.sleep(_POLL_SECONDS)
        finally:
            if relay is not None:
                end_relay(relay, max(0.0, deadline - time.monotonic()))
        return left

    def _open(self) -> JournalWriter:
        make_private(self.data_dir)
        settings = self._settings
        where = Deployment(
            environment=settings.environment,
            namespace=settings.namespace,
            pod=settings.pod or instance_name(settings),
            revision=settings.revision,
            arm=settings.arm,
        )
        life = Life(
            life=new_life_id(),
            service=SERVICE,
            started_ns=time.time_ns(),
            pid=os.getpid(),
            release=e2i_serving.__version__,
            deployment=where,
        )
        writer = JournalWriter(
            self.data_dir / "journal",
            life,
            segment_bytes=SEGMENT_BYTES,
            record_bytes=settings.record_bytes,
            power_loss=True,  # closing it waits for the disk
            cipher=cipher_of(settings),
        )
        writer.room = self._room.left()
        return writer


def start_relay_once(settings: Settings, data_dir: Path) -> subprocess.Popen[bytes]:
    """Start a relay that ends when nothing is left to deliver.

    Args:
        settings: What it is to go by.
        data_dir: The data directory.
    """
    settings = settings.model_copy(update={"data_dir": data_dir})
    return subprocess.Popen(  # noqa: S603  # a fixed command
        [sys.executable, "-c", _RELAY_ONCE, "relay", "--once", "--data-dir", str(data_dir)],
        env={**os.environ, **environment_of(settings)},  # noqa: TID251  # handed on, not read
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def end_relay(relay: subprocess.Popen[bytes], within_seconds: float) -> None:
    """Let a relay end that has done its work, and stop one that has not."""
    try:
        relay.wait(max(within_seconds, 1.0))
    except subprocess.TimeoutExpired:
        relay.kill()  # what it was about, the next relay does again
        relay.wait()
