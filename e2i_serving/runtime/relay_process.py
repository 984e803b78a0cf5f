"""The relay as a process: started by a worker, or run as a sidecar by ``e2i-serving relay``."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, NoReturn

from e2i_serving.encryption import cipher_of
from e2i_serving.evidence import open_checkpointer
from e2i_serving.exceptions import ConfigurationError, E2IServingError
from e2i_serving.journal import list_lives
from e2i_serving.observers.metrics import fold
from e2i_serving.redaction import redactor_of
from e2i_serving.relay import Delivery, Destination, LargePayloads, Ledger, Relay, RelayLock
from e2i_serving.relay.audit_destination import AUDIT_STORE, AuditDestination
from e2i_serving.relay.delivery import BATCH_BYTES
from e2i_serving.relay.loop import LOOK_SECONDS
from e2i_serving.runtime.definition import make_private
from e2i_serving.runtime.exporting import audit_url, export_destinations
from e2i_serving.runtime.logs import configure_logs
from e2i_serving.runtime.metrics_export import metrics_export_of
from e2i_serving.runtime.relay_report import open_report
from e2i_serving.runtime.relay_tracing import relay_tracing_of
from e2i_serving.settings import Settings, kept_for_relay, load_settings
from e2i_serving.typing import Cipher

if TYPE_CHECKING:
    from e2i_serving.stores.calls import OnCall

logger = logging.getLogger("e2i_serving.relay")


class KeptSettings:
    """What workers keep of their settings: a server that starts with others needs a relay that has them, too.

    Args:
        data_dir: The data directory. What is there now counts as known.

    Attributes:
        are_others: Whether a relay ended because there are others now.
    """

    def __init__(self, data_dir: Path) -> None:
        self.are_others = False
        self._data_dir = data_dir
        self._first = kept_for_relay(data_dir)

    @property
    def are_there(self) -> bool:
        """Whether a service had written any down."""
        return self._first is not None

    def look(self) -> bool:
        """Whether there are others now. Those that were deleted, a worker is about to put back."""
        now = kept_for_relay(self._data_dir)
        self.are_others = now is not None and now != self._first
        return self.are_others


def run_relay(
    settings: Settings,
    data_dir: Path,
    *,
    once: bool = False,
    linger: bool = False,
    kept: KeptSettings | None = None,
) -> bool:
    """Run the relay of a data directory in this process.

    Args:
        settings: The settings.
        data_dir: The instance's data directory.
        once: Return as soon as nothing is left to deliver.
        linger: Return when no worker has been alive for ``relay_linger_seconds``. Otherwise, with ``kept``, a service
            that has yet to start is waited for, so that nothing is delivered by other settings than its own.
        kept: Looked at all the time: return when there are others. Read before ``settings`` were.

    Returns:
        False if another relay runs already, which then does the work.

    Raises:
        ConfigurationError: A setting is wrong: the audit store's URL or driver, or the encryption key's file.
        EvidenceError: The signing key or the checkpoints can't be used.
        JournalError: A newer release made the ledger.
    """
    make_private(data_dir)
    asked = None if once else _Asked(settings.relay_shutdown_seconds)
    with RelayLock(data_dir) as lock:
        if not lock.acquire():
            return False
        needed = partial(_is_needed, lock, kept, asked)
        if asked is not None and kept is not None and not linger and not _await_service(data_dir, kept, asked, needed):
            return True
        cipher = cipher_of(settings)
        with closing(_ledger(settings, data_dir)) as ledger, closing(relay_tracing_of(settings)) as tracing:
            destination = audit_destination(settings, data_dir, ledger, cipher, on_call=tracing.on_call)
            # What is on its way can't be given up, so it must be a small part of the journal.
            batch_bytes = min(BATCH_BYTES, settings.journal_bytes // 8)
            size = settings.relay_batch_size
            destinations: list[Destination] = [
                tracing.traced(destination),
                *export_destinations(settings, data_dir),
            ]
            ledger.enlist([each.name for each in destinations], AUDIT_STORE)
            deliveries = [
                Delivery(each, ledger, batch_size=size, batch_bytes=batch_bytes, cipher=cipher) for each in destinations
            ]
            report = open_report(data_dir, deliveries, ledger, cipher)

            def keep_house() -> None:
                fold(data_dir / "metrics")
                report.update()

            relay = Relay(
                data_dir,
                deliveries,
                ledger,
                poll_seconds=settings.relay_poll_seconds,
                linger_seconds=settings.relay_linger_seconds if linger else None,
                housekeeping=keep_house,
                drop_above_bytes=settings.journal_bytes if settings.overflow == "drop-oldest" else None,
                is_needed=needed,
            )
            if asked is not None:
                asked.tell(relay)
            sent = None if once else metrics_export_of(settings, data_dir, ledger.began_ns() or time.time_ns())
            try:
                relay.run(once=once)
            finally:
                if sent is not None:
                    sent.close()
                if lock.is_gone():
                    destination.store.close()  # a last checkpoint would make the directory anew
                else:
                    relay.close()
                    report.update()
                report.close()
    return True


def _ledger(settings: Settings, data_dir: Path) -> Ledger:
    return Ledger(data_dir, dead_letter_bytes=settings.dead_letter_bytes)


def audit_destination(
    settings: Settings, data_dir: Path, ledger: Ledger, cipher: Cipher | None, *, on_call: OnCall | None = None
) -> AuditDestination:
    """The audit store that the settings name, as the relay delivers to it.

    Args:
        settings: The settings.
        data_dir: The instance's data directory.
        ledger: Tells how far the chains had come when the last relay ended, and keeps what is about to be stored.
        cipher: Encrypts payload files.
        on_call: Is told each call of the database.

    Raises:
        ConfigurationError: The audit store's URL is wrong, or its driver is not installed.
        EvidenceError: The signing key or the checkpoints can't be used.
    """
    from e2i_serving.stores.sql import SqlAuditStore  # noqa: PLC0415  # losers of the election need no database

    store = SqlAuditStore(audit_url(settings, data_dir), on_call=on_call)
    checkpoints = open_checkpointer(settings, data_dir)
    checkpoints.recover(ledger.chains(AUDIT_STORE))
    return AuditDestination(
        store,
        redactor_for=partial(redactor_of, settings, destination=AUDIT_STORE),
        payloads=LargePayloads(data_dir, settings.payload_bytes, settings.large_payloads, cipher),
        checkpoints=checkpoints,
        intents=ledger,
    )


class _Asked:
    """Tells a relay what signals ask for, also those that come before there is one.

    Args:
        within_seconds: How long a relay may go on that is asked to stop.
    """

    def __init__(self, within_seconds: float) -> None:
        self.times = 0
        self._within_seconds = within_seconds
        self._relay: Relay | None = None
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._stop)

    def tell(self, relay: Relay) -> None:
        """Tell this relay from now on."""
        self._relay = relay
        if self.times:
            relay.stop(self._within_seconds)

    def _stop(self, _number: int, _frame: FrameType | None) -> None:
        self.times += 1
        if self._relay is not None:
            # Asked twice, it ends after the batch at hand; what it leaves stays in the journal.
            self._relay.stop(0.0 if self.times > 1 else self._within_seconds)


def _await_service(data_dir: Path, kept: KeptSettings, asked: _Asked, needed: Callable[[], bool]) -> bool:
    """Wait until there is something to deliver, by settings that are known; false when that won't be here."""
    if not kept.are_there:
        logger.info("No service has begun on %s yet. The relay waits for one, to go by its settings.", data_dir)
    while not (kept.are_there or list_lives(data_dir / "journal")):
        if asked.times or not needed():
            return False
        time.sleep(LOOK_SECONDS)
    # Looked at once more: a worker writes its settings down before it makes a journal.
    return needed()


def _is_needed(lock: RelayLock, kept: KeptSettings | None, asked: _Asked | None) -> bool:
    if lock.is_gone():
        logger.error("The data directory was removed. The relay ends; workers start another one.")
        return False
    if kept is not None and not (asked is not None and asked.times) and kept.look():
        logger.info("A server began with other settings. The relay ends, and one begins that has them.")
        return False
    return True


def begin_anew() -> NoReturn:
    """Run this process's command once more, in its place: nothing of what it did is left but on the disk."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])  # noqa: S606  # this very command


def start_logs(settings: Settings | None = None) -> None:
    """Set up this process's log lines.

    Args:
        settings: Say the form and the level; ``None`` before they are known.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s [%(levelname)s] [relay] %(message)s")
    if settings is not None:
        # Where records go to standard output, no line must stand between them.
        configure_logs(settings, stream=sys.stderr if settings.jsonl_path == "-" else None)


def main() -> int:
    """Run as a worker's child: settings from the environment, ends when it is no longer needed."""
    start_logs()
    try:
        settings = load_settings().settings
        start_logs(settings)
        if settings.data_dir is None:
            raise ConfigurationError("Set E2I_SERVING_DATA_DIR to the data directory whose journal is to be relayed.")
        run_relay(settings, settings.data_dir, linger=True, kept=KeptSettings(settings.data_dir))
    except E2IServingError as error:
        logger.error("The relay can't run: %s", error)  # noqa: TRY400  # one line that says the mend
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
