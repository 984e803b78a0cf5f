"""What the relay delivers to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from e2i_serving.record import Entry


class Destination(Protocol):
    """Takes what the lives of an instance journaled.

    Called from one thread of its own: may block, and holds up no other destination by it. After a crash, or when
    what it raised left that open, entries are handed over again, so it must know one that it has already.
    """

    @property
    def name(self) -> str:
        """Its name in the ledger and in the books."""

    def deliver(self, entries: Sequence[Entry], state: bytes) -> bytes:
        """Take entries for good, all of them or none.

        Args:
            entries: Of one life, in order. At least one.
            state: What it returned for the entries before; empty at a life's beginning.

        Returns:
            What it is to be given with the next ones. Kept with the position, on the disk.

        Raises:
            RefusedError: It will never take these entries as they are.
            StoreError: It took none; they may be handed over again. Any other exception means the same.
        """

    def digest(self, entry: Entry) -> bytes:
        """What stands for an entry that was refused in what is proved of the trail; empty for nothing."""

    def redeliver(self, entry: Entry, state: bytes, digest: bytes) -> None:
        """Take an entry that was refused before, out of its order.

        Args:
            entry: The entry.
            state: What ``deliver`` returned for the gap that has its place.
            digest: Its digest at that time.

        Raises:
            RefusedError: It is refused again.
            StoreError: It was not taken; it may be handed over again.
        """

    def closed(self, life: str) -> None:
        """Learn that a life is over and all of it was delivered. May be told again after a crash."""

    def tick(self) -> None:
        """Do what is due by time. Called several times a second, between deliveries."""

    def close(self) -> None:
        """Give back connections and files."""
