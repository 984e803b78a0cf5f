"""The audit store as a destination: rows, sealed into the chain of their life."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from typing import Any, Final, Protocol

from e2i_serving.evidence import entry_digest, seal
from e2i_serving.exceptions import E2IServingError, RefusedError
from e2i_serving.record import ChainEnd, Entry, Gap, PredictionRecord, RowBatch
from e2i_serving.relay.dead_letters import DEAD_LETTERED
from e2i_serving.relay.explode import explode
from e2i_serving.relay.payloads import LargePayloads
from e2i_serving.relay.redacting import DestinationRedaction, RedactorFor
from e2i_serving.typing import AuditStore

logger = logging.getLogger("e2i_serving.relay")

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


class Intents(Protocol):
    """Keeps what is about to be stored out of reach of who can write to the store; ``Ledger`` is one."""

    def intend(self, destination: str, life: str, links: Sequence[tuple[int, bytes]]) -> None:
        """Note the links of rows, by sequence number, before they are stored."""

    def intended(self, destination: str, life: str, first: int, last: int) -> Sequence[tuple[int, bytes]]:
        """The links that were noted for sequence numbers in a range, and the numbers; several where it was tried so."""


class AuditDestination:
    """Delivers to an audit store. Its state is the link of a life's chain.

    Where it is open what of the entries is stored already, the store is asked, and the chain goes on from what it has:
    to make the rows anew would give others if the settings have changed meanwhile. Only a link counts that was to be
    stored, or that comes out again: who can write to the store could otherwise put rows of their own there, to be
    signed in the place of what was journaled.

    Args:
        store: The store.
        redactor_for: Makes the redactor of what a model's life journaled, if this destination has rules of its own.
        payloads: Takes out payloads that are too large; ``None`` to keep all.
        checkpoints: Learns how far the chains have come.
        intents: Keeps what is about to be stored; ``None`` to go by what comes out again.

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
        intents: Intents | None = None,
    ) -> None:
        self.store = store
        self._redaction = DestinationRedaction(redactor_for)
        self._payloads = payloads
        self._checkpoints = checkpoints
        self._intents = intents
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
            if self._intents is not None:
                self._intents.intend(self.name, life, list(_links(batch)))
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
        end = self._own_end(entries, state)
        if end is None:
            return entries, state
        link = bytes.fromhex(end.hash)
        for entry in entries:
            if entry.sequence == end.sequence and end.reason == DEAD_LETTERED and not isinstance(entry.body, Gap):
                # It was refused, and the relay died before it was kept aside: it may be taken now.
                self.redeliver(entry, link, _from_hex(end.digest))
        return [entry for entry in entries if entry.sequence > end.sequence], link

    def _own_end(self, entries: Sequence[Entry], state: bytes) -> ChainEnd | None:
        """The last stored row of these entries whose link is one that this relay, or one before it, made."""
        life, first, last = entries[0].life.life, entries[0].sequence, entries[-1].sequence
        end = self.store.chain_end(life, since=first, until=last)
        if end is None:
            return None
        noted = self._intents.intended(self.name, life, first, last) if self._intents is not None else ()
        own = {(sequence, link.hex()) for sequence, link in noted}
        if (end.sequence, end.hash) in own or self._comes_out(end, entries, state):
            return end
        logger.error(
            "The audit store has rows of life %s that no relay made, up to number %d. What is journaled is stored "
            "beside them; audit verify names them.",
            *(life, end.sequence),
        )
        while end is not None and (end.sequence, end.hash) not in own:
            until = max((sequence for sequence, _ in own if sequence < end.sequence), default=0)
            end = self.store.chain_end(life, since=first, until=until) if until else None
        return end

    def _comes_out(self, end: ChainEnd, entries: Sequence[Entry], state: bytes) -> bool:
        """Whether the chain that is made of the entries has the same link there."""
        stored = [entry for entry in entries if entry.sequence <= end.sequence]
        if stored[-1].sequence != end.sequence:
            return False
        return seal(self._rows(stored, keep=False), stored[0].life.life, state).hex() == end.hash

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


def _links(batch: RowBatch) -> Iterator[tuple[int, bytes]]:
    """The sequence number and the link of each row that has one."""
    for row in (*batch.predictions, *batch.events, *batch.outcomes, *batch.accesses):
        yield row["sequence"], bytes.fromhex(row["hash"])
    for row in batch.gaps:
        yield row["last"], bytes.fromhex(row["hash"])


def _from_hex(text: Any) -> bytes:
    """What a column of hex digits says; empty when it holds anything else."""
    try:
        return bytes.fromhex(text)
    except (TypeError, ValueError):
        return b""
