"""A destination for tests of what delivers to one."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence

from e2i_serving.exceptions import RefusedError, StoreError
from e2i_serving.record import Entry, Gap


class RecordingDestination:
    """A ``Destination`` that keeps what it is handed, and that can be told to fail, to refuse or to hang.

    Its state counts the entries it took, so that a test sees whether it is handed on rightly.

    Args:
        name: Its name in the ledger.

    Attributes:
        entries: What it took, in order.
        batches: How many entries it was handed at a time, refused and failed ones included.
        down: How many of the next deliveries fail with ``StoreError``.
        refuses: Which entries it refuses for good.
        open: Cleared, it hangs in a delivery until it is set again.
        ended: The lives that it was told are over.
    """

    def __init__(self, name: str = "recording") -> None:
        self.name = name
        self.entries: list[Entry] = []
        self.batches: list[int] = []
        self.down = 0
        self.refuses: Callable[[Entry], bool] = lambda _entry: False
        self.open = threading.Event()
        self.open.set()
        self.ended: list[str] = []

    def deliver(self, entries: Sequence[Entry], state: bytes) -> bytes:
        """Take entries; see ``Destination.deliver``."""
        self.batches.append(len(entries))
        self.open.wait()
        self._take(entries)
        return str(int(state or b"0") + len(entries)).encode()

    def digest(self, entry: Entry) -> bytes:
        """A digest that tells entries apart."""
        return f"digest-{entry.sequence}".encode()

    def redeliver(self, entry: Entry, state: bytes, digest: bytes) -> None:  # noqa: ARG002  # as the Protocol has it
        """Take an entry out of its order; see ``Destination.redeliver``."""
        self._take([entry])

    def closed(self, life: str) -> None:
        """Note that a life is over."""
        self.ended.append(life)

    def tick(self) -> None:
        """Nothing is due by time."""

    def close(self) -> None:
        """Keep everything: a closed destination can still be looked at."""

    @property
    def ids(self) -> list[str]:
        """Prediction ids of what it took, in order; gaps as ``first-last:reason``."""
        return [
            f"{body.first}-{body.last}:{body.reason}" if isinstance(body, Gap) else getattr(body, "prediction_id", "")
            for body in (entry.body for entry in self.entries)
        ]

    def _take(self, entries: Sequence[Entry]) -> None:
        if self.down:
            self.down -= 1
            raise StoreError(f"{self.name} is down.")
        if any(self.refuses(entry) for entry in entries):
            raise RefusedError(f"{self.name} refuses.")
        self.entries += entries
