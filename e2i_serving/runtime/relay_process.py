"""The relay as a process: started by a worker, or run as a sidecar by ``e2i-serving relay``."""

from __future__ import annotations

import logging
import signal
import sys
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from e2i_serving.encryption import cipher_of
from e2i_serving.evidence import open_checkpointer
from e2i_serving.exceptions import ConfigurationError, E2IServingError
from e2i_serving.observers.metrics import fold
from e2i_serving.redaction import redactor_of
from e2i_serving.relay import Delivery, Destination, LargePayloads, Ledger, Relay, RelayLock
from e2i_serving.relay.audit_destination import AUDIT_STORE, AuditDestination
from e2i_serving.relay.delivery import BATCH_BYTES
from e2i_serving.runtime.definition import make_private
from e2i_serving.runtime.exporting import audit_url, export_destinations
from e2i_serving.runtime.logs import configure_logs
from e2i_serving.runtime.metrics_export import metrics_export_of
from e2i_serving.runtime.relay_report import open_report
from e2i_serving.runtime.relay_tracing import relay_tracing_of
from e2i_serving.settings import KEPT_NAME, Settings, load_settings
from e2i_serving.typing import Cipher

if TYPE_CHECKING:
    from e2i_serving.stores.calls import OnCall

logger = logging.getLogger("e2i_serving.relay")


def run_relay(settings: Settings, data_dir: Path, *, once: bool = False, linger: bool = False) -> bool:
    """Run the relay of a data directory in this process.

    Args:
        settings: The settings.
        data_dir: The instance's data directory.
        once: Return as soon as nothing is left to deliver.
        linger: Return when no worker has been alive for ``relay_linger_seconds``.

    Returns:
        False if another relay runs already, which then does the work.

    Raises:
        ConfigurationError: A setting is wrong: the audit store's URL or driver, or the encryption key's file.
        EvidenceError: The signing key or the checkpoints can't be used.
        JournalError: A newer release made the ledger.
    """
    make_private(data_dir)
    with RelayLock(data_dir) as lock:
        if not lock.acquire():
            return False
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
                is_needed=partial(_is_needed, lock, _Kept(data_dir) if linger else None),
            )
            if not once:
                _stop_on_signals(relay, settings.relay_shutdown_seconds)
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
        ledger: Tells how far the chains had come when the last relay ended.
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
    )


class _Kept:
    """What workers keep of their settings: a server that starts with others needs a relay that has them, too."""

    def __init__(self, data_dir: Path) -> None:
        self._path = data_dir / KEPT_NAME
        self._first = self._content()

    def is_same(self) -> bool:
        """Whether it is what it was at first."""
        return self._content() == self._first

    def _content(self) -> bytes:
        try:
            return self._path.read_bytes()
        except OSError:
            return b""


def _is_needed(lock: RelayLock, kept: _Kept | None) -> bool:
    if lock.is_gone():
        logger.error("The data directory was removed. The relay ends; workers start another one.")
        return False
    if kept is not None and not kept.is_same():
        logger.info("A server began with other settings. The relay ends; workers start one that has them.")
        return False
    return True


def _stop_on_signals(relay: Relay, within_seconds: float) -> None:
    asked: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        # Asked twice, it ends after the batch at hand; what it leaves stays in the journal.
        relay.stop(0.0 if asked else within_seconds)
        asked.append(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


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
        run_relay(settings, settings.data_dir, linger=True)
    except E2IServingError as error:
        logger.error("The relay can't run: %s", error)  # noqa: TRY400  # one line that says the mend
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
