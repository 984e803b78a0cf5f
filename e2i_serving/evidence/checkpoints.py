"""Checkpoints: from time to time, a signed entry that says how far each life's chain has come."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from hashlib import sha256
from typing import Final

import msgspec

from e2i_serving.evidence.log import Chain, EvidenceLog, LogEntry, log_files, read_lines
from e2i_serving.exceptions import EvidenceError

logger = logging.getLogger("e2i_serving.relay")

RETRY_SECONDS: Final = 5.0
"""How long a log that can't be written is left alone."""

BEGIN: Final = "begin"
CHECKPOINT: Final = "checkpoint"


class Checkpointer:
    """Follows the chains of an instance and writes checkpoints. For one thread.

    Args:
        log: Where to.
        instance: The instance's name; what it knew before a restart is read from the log by it.
        seconds: Longest time between checkpoints while rows are stored.
        records: Most predictions stored between checkpoints.

    Raises:
        EvidenceError: The log can't be read.
    """

    def __init__(self, log: EvidenceLog, instance: str, *, seconds: float, records: int) -> None:
        self._log = log
        self._instance = instance
        self._seconds = seconds
        self._records = records
        self._chains: dict[str, Chain] = {}
        self._lives = 0
        self._ended = ""
        self._new_records = 0
        self._changed_at: float | None = None
        self._next_try = 0.0
        self._said = False
        self._recall()

    def begin(self, life: str) -> None:
        """Write that a life's first row is about to be stored, so that no other life can be made up.

        Raises:
            EvidenceError: It can't be written; nothing of the life must be stored.
        """
        if life in self._chains:
            return
        self._log.append(BEGIN, by=self._instance, life=life)
        self._chains[life] = Chain(0, "")
        self._lives += 1

    def advanced(self, life: str, sequence: int, link: bytes, records: int) -> None:
        """Take note of rows that were stored.

        Args:
            life: Whose rows they are.
            sequence: Sequence number of the last one.
            link: The link there.
            records: How many predictions were among them.
        """
        if life not in self._chains:
            self._lives += 1
        self._chains[life] = Chain(sequence, link.hex())
        self._new_records += records
        self._note_change()
        if self._new_records >= self._records:
            self.tick()

    def recover(self, positions: Iterable[tuple[str, int, bytes, bool]]) -> None:
        """Take note of what was stored before a restart and stands in no checkpoint.

        Args:
            positions: For each life the sequence number and the link of its last stored row, and whether it is over.
        """
        for life, sequence, link, closed in positions:
            chain = self._chains.get(life)
            if chain is not None and link and chain.sequence < sequence:
                self.advanced(life, sequence, link, 0)
            if closed:
                self.closed(life)

    def closed(self, life: str) -> None:
        """Take note that nothing follows in a life's chain."""
        chain = self._chains.get(life)
        if chain is not None and not chain.closed:
            self._chains[life] = msgspec.structs.replace(chain, closed=True)
            self._note_change()

    def tick(self) -> None:
        """Write a checkpoint if one is due. It never raises: what can't be written is tried again."""
        if self._changed_at is None:
            return
        now = time.monotonic()
        due = now - self._changed_at >= self._seconds or self._new_records >= self._records
        if due and now >= self._next_try:
            try:
                self._write()
            except EvidenceError as error:
                self._next_try = now + RETRY_SECONDS
                if not self._said:
                    self._said = True
                    logger.warning("Checkpoints wait: %s", error)

    def close(self) -> None:
        """Write a last checkpoint, if anything changed since the one before.

        Raises:
            EvidenceError: It can't be written.
        """
        if self._changed_at is not None:
            self._write()

    def _write(self) -> None:
        ended = ended_with(self._ended, self._chains)
        self._log.append(
            CHECKPOINT,
            by=self._instance,
            chains=self._chains,
            lives=self._lives,
            root=root_of(ended, self._chains),
            ended=ended,
        )
        self._ended = ended
        self._chains = {life: chain for life, chain in self._chains.items() if not chain.closed}
        self._new_records = 0
        self._changed_at = None
        self._said = False

    def _note_change(self) -> None:
        if self._changed_at is None:
            self._changed_at = time.monotonic()

    def _recall(self) -> None:
        """Read what this instance knew when it wrote last."""
        begun: list[str] = []
        try:
            for path in reversed(log_files(self._log.folder)):
                entries = [line.entry for line in read_lines(path) if line.entry is not None]
                for entry in reversed([entry for entry in entries if entry.by == self._instance]):
                    if entry.kind == BEGIN:
                        begun.append(entry.life)
                    elif entry.kind == CHECKPOINT:
                        self._resume(entry)
                        self._know(begun)
                        return
        except OSError as error:
            raise EvidenceError(f"The checkpoints in {self._log.folder} can't be read: {error}.") from error
        self._know(begun)

    def _resume(self, entry: LogEntry) -> None:
        self._chains = {life: chain for life, chain in entry.chains.items() if not chain.closed}
        self._lives = entry.lives
        self._ended = entry.ended

    def _know(self, begun: list[str]) -> None:
        for life in reversed(begun):
            if life not in self._chains:
                self._chains[life] = Chain(0, "")
                self._lives += 1


def root_of(ended: str, chains: Mapping[str, Chain]) -> str:
    """The digest over all chains ever known.

    Args:
        ended: The digest over the closed ones.
        chains: The others, and any that are closed and in ``ended`` already.
    """
    root = ended
    for life, chain in sorted(chains.items()):
        if not chain.closed:
            root = _add(root, life, chain)
    return root


def ended_with(ended: str, chains: Mapping[str, Chain]) -> str:
    """The digest over closed chains, with those that a checkpoint closes."""
    for life, chain in sorted(chains.items()):
        if chain.closed:
            ended = _add(ended, life, chain)
    return ended


def _add(digest: str, life: str, chain: Chain) -> str:
    return sha256(f"{digest} {life} {chain.sequence} {chain.link}".encode()).hexdigest()
