"""The audit store as a destination: rows, sealed into the chain of their life."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from e2i_serving.evidence import entry_digest, seal
from e2i_serving.exceptions import E2IServingError, RefusedError
from e2i_serving.record import Entry, Gap, PredictionRecord, RowBatch
from e2i_serving.relay.dead_letters import DEAD_LETTERED
from e2i_serving.relay.explode import explode
from e2i_serving.relay.payloads import LargePayloads
from e2i_serving.relay.redacting import DestinationRedaction, RedactorFor
from e2i_serving.typing import AuditStore

AUDIT_STORE: Final = "audit-store"
"""Name of the destination that every instance has."""


class ChainObserver(Protocol):
    """Learns how far the chains have come, in the thread that delivers; ``evidence.Checkpointer`` is one."""

    def begin(self, life: str) -> None:
        """A life's first batch is about to be stored."""

    def advanced(self, life: str, sequence: int, link: bytes, records: int) -> None:
        """A batch was stored."""

    def closed(self, life: str) -> None:
        """A life is over and all of it is stored."""

    def tick(self) -> None:
        """Do what is due by time."""

    def close(self) -> None:
        """Do what must not be left undone."""


class AuditDestination:
    """Delivers to an audit store. Its state is the link of a life's chain.

    Where it is open what of the entries is stored already, the store is asked, and the chain goes on from what it has:
    to make the rows anew would give others if the settings have changed meanwhile.

    Args:
        store: The store.
        redactor_for: Makes the redactor of what a model's life journaled, if this destination has rules of its own.
        payloads: Takes out payloads that are too large; ``None`` to keep all.
        checkpoints: Learns how far the chains have come.

    Attributes:
        store: The store.
    """

    name = AUDIT_STORE

    def __init__(
        self,
        store: AuditStore,
        *,
        redactor_for: RedactorFor | None = None,
        payloads: LargePayloads | None = None,
        checkpoints: ChainObserver | None = None,
    ) -> None:
        self.store = store
        self._redaction = DestinationRedaction(redactor_for)
        self._payloads = payloads
        self._checkpoints = checkpoints
        self._links: dict[str, bytes] = {}
        """The last link of each life behind which nothing can be stored."""

    def deliver(self, entries: Sequence[Entry], state: bytes) -> bytes:
        """Store entries of one life; see ``Destination.deliver``."""
        life = entries[0].life.life
        if self._checkpoints is not None and not state:
            self._checkpoints.begin(life)
        last, link = entries[-1].sequence, state
        if self._links.get(life) != state:
            entries, link = self._not_stored(entries, state)
        batch = self._rows(entries, keep=True) if entries else RowBatch()
        link = seal(batch, life, link)
        self._links.pop(life, None)
        if entries:
            self.store.write(batch)
            self._links[life] = link
        if self._checkpoints is not None:
            self._checkpoints.advanced(life, last, link, len(batch.predictions))
        return link

    def digest(self, entry: Entry) -> bytes:
        """The digest that an entry has in the chain; empty when no row can be made of it."""
        try:
            return entry_digest(self._rows([entry], keep=False))
        except E2IServingError:
            return b""

    def redeliver(self, entry: Entry, state: bytes, digest: bytes) -> None:
        """Store an entry behind the gap that has its place; see ``Destination.redeliver``."""
        batch = self._rows([entry], keep=True)
        if entry_digest(batch) == digest:
            # Otherwise it is another row than the one the chain knows of, and must not pass for it.
            for row in (*batch.predictions, *batch.events, *batch.outcomes, *batch.accesses):
                row["hash"] = state.hex()
        self.store.write(batch)

    def closed(self, life: str) -> None:
        """Let the life's chain be closed."""
        self._links.pop(life, None)
        self._redaction.forget(life)
        if self._checkpoints is not None:
            self._checkpoints.closed(life)

    def tick(self) -> None:
        """Write a checkpoint if one is due."""
        if self._checkpoints is not None:
            self._checkpoints.tick()

    def close(self) -> None:
        """Write the last checkpoint and give back the store."""
        try:
            if self._checkpoints is not None:
                self._checkpoints.close()
        finally:
            self.store.close()

    def _not_stored(self, entries: Sequence[Entry], state: bytes) -> tuple[Sequence[Entry], bytes]:
        """The entries that are not stored yet, and the link that they go on from."""
        end = self.store.chain_end(entries[0].life.life, since=entries[0].sequence, until=entries[-1].sequence)
        if end is None:
            return entries, state
        link = bytes.fromhex(end.hash)
        for entry in entries:
            if entry.sequence == end.sequence and end.reason == DEAD_LETTERED and not isinstance(entry.body, Gap):
                # It was refused, and the relay died before it was kept aside: it may be taken now.
                self.redeliver(entry, link, bytes.fromhex(end.digest))
        return [entry for entry in entries if entry.sequence > end.sequence], link

    def _rows(self, entries: Sequence[Entry], *, keep: bool) -> RowBatch:
        """The rows of entries, with their large payloads written to files if they are to be kept."""
        digests: dict[str, str] = {}
        try:
            entries = self._redaction.redacted(entries)
            if self._payloads is not None:
                small: list[Entry] = []
                for entry in entries:
                    taken, digest = self._payloads.take_out(entry, keep=keep)
                    small.append(taken)
                    if digest and isinstance(taken.body, PredictionRecord):
                        digests[taken.body.prediction_id] = digest
                entries = small
            batch = explode(entries)
        except (E2IServingError, OSError, MemoryError):
            raise
        except Exception as error:
            # The same record would raise the same again: it must not hold up the others for ever.
            raise RefusedError(f"No rows can be made of it: {type(error).__name__}") from error
        if digests:
            for row in batch.predictions:
                row["payload_digest"] = digests.get(row["prediction_id"])
        return batch
