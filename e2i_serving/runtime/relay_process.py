"""The relay as a process: started by a worker, or run as a sidecar by ``e2i-serving relay``."""

from __future__ import annotations

import logging
import signal
import sys
from functools import partial
from pathlib import Path
from types import FrameType

from e2i_serving.exceptions import ConfigurationError, E2IServingError
from e2i_serving.observers.metrics import fold
from e2i_serving.relay import Delivery, Ledger, Relay, RelayLock
from e2i_serving.relay.books import AUDIT_STORE
from e2i_serving.relay.explode import explode
from e2i_serving.runtime.definition import make_private
from e2i_serving.settings import Settings, load_settings

logger = logging.getLogger("e2i_serving.relay")


def audit_url(settings: Settings, data_dir: Path) -> str:
    """The audit store's URL: the one set, or the file in the data directory."""
    from e2i_serving.stores.engine import sqlite_url  # noqa: PLC0415  # losers of the election need no database

    return settings.audit_url or sqlite_url(data_dir / "audit.db")


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
        ConfigurationError: The audit store's URL is wrong, or its driver is not installed.
    """
    make_private(data_dir)
    with RelayLock(data_dir) as lock:
        if not lock.acquire():
            return False
        from e2i_serving.stores.sql import SqlAuditStore  # noqa: PLC0415  # as above

        ledger = Ledger(data_dir)
        store = SqlAuditStore(audit_url(settings, data_dir))
        delivery = Delivery(
            AUDIT_STORE,
            lambda entries: store.write(explode(entries)),
            ledger,
            batch_size=settings.relay_batch_size,
        )
        relay = Relay(
            data_dir,
            [delivery],
            ledger,
            poll_seconds=settings.relay_poll_seconds,
            linger_seconds=settings.relay_linger_seconds if linger else None,
            housekeeping=partial(fold, data_dir / "metrics"),
        )
        if not once:
            _stop_on_signals(relay, settings.relay_shutdown_seconds)
        try:
            relay.run(once=once)
        finally:
            store.close()
            ledger.close()
    return True


def _stop_on_signals(relay: Relay, within_seconds: float) -> None:
    asked: list[int] = []

    def stop(number: int, _frame: FrameType | None) -> None:
        # Asked twice, it ends after the batch at hand; what it leaves stays in the journal.
        relay.stop(0.0 if asked else within_seconds)
        asked.append(number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


def main() -> int:
    """Run as a worker's child: settings from the environment, ends when it is no longer needed."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s [%(levelname)s] [relay] %(message)s")
    try:
        settings = load_settings().settings
        if settings.data_dir is None:
            raise ConfigurationError("Set E2I_SERVING_DATA_DIR to the data directory whose journal is to be relayed.")
        run_relay(settings, settings.data_dir, linger=True)
    except E2IServingError as error:
        logger.error("The relay can't run: %s", error)  # noqa: TRY400  # one line that says the mend
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
