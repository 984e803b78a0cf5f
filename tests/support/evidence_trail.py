"""A trail as the relay makes it, for tests of what it proves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path

import numpy as np

from e2i_serving.evidence import Checkpointer
from e2i_serving.evidence.log import EvidenceLog
from e2i_serving.evidence.report import Report
from e2i_serving.evidence.signing import open_signing_key
from e2i_serving.record import (
    AccessEvent,
    Body,
    Entry,
    Gap,
    LateResult,
    Life,
    Matrix,
    ModelInfo,
    Outcome,
    OutcomeEvent,
    PredictionRecord,
    StreamEnd,
    Values,
)
from e2i_serving.relay.audit_destination import AuditDestination
from e2i_serving.runtime.verification import read_signed_history, verify_trail
from e2i_serving.stores.engine import sqlite_url
from e2i_serving.stores.sql import SqlAuditStore

TIME = 1_700_000_000_000_000_000


def record(number: int, *, items: int = 1, **changes: object) -> PredictionRecord:
    """A prediction with all that a row may hold."""
    fields: dict[str, object] = {
        "prediction_id": f"p{number:05d}",
        "time_ns": TIME + number,
        "duration": 0.25 + number,
        "outcome": Outcome.OK,
        "status": 200,
        "endpoint": "predict",
        "request_id": f"request-{number}",
        "principal": "someone",
        "phases": {"predict": 0.1},
        "labels": {"brand": "north"},
        "attributes": {"note": f"note {number}", "of": None},
        "items": items,
        "entities": {"customer": Values([f"customer-{number}-{index}" for index in range(items)])},
        "inputs": {"features": Matrix.of(np.arange(items * 2, dtype=float).reshape(items, 2))},
        "outputs": {
            "prediction": Values(["yes"] * items),
            "score": Values([-0.0] * items),
            "exploration": Values([True] * items),
            "reason": Values(["because ü"] * items),
        },
        "request_bytes": 10,
        "salt": f"salt of {number:08d}".encode(),
        "retention": "standard",
        **changes,
    }
    return PredictionRecord(**fields)  # type: ignore[arg-type]


def bodies(count: int) -> list[Body]:
    """What a life journals: predictions, now and then with their end, a late result, an outcome or an access."""
    made: list[Body] = []
    for number in range(1, count + 1):
        salt = f"event {number:010d}".encode()
        made.append(record(number, items=1 + number % 3))
        if number % 4 == 0:
            made.append(StreamEnd(f"p{number:05d}", 2.0, Outcome.OK, 100, salt=salt))
        if number % 5 == 0:
            late = {"score": Values([0.5])}
            made.append(LateResult(f"p{number:05d}", 9.0, Outcome.OK, items=1, outputs=late, salt=salt))
        if number % 6 == 0:
            made.append(
                OutcomeEvent(f"o{number}", TIME, f"p{number:05d}", 0, value={"paid": True}, source="ledger", salt=salt)
            )
        if number % 7 == 0:
            made.append(AccessEvent(f"a{number}", TIME, "auditor", conditions={"model": "m"}, predictions=3, salt=salt))
    return made


class Trail:
    """A store, a signed log, and what delivers to both.

    Args:
        folder: Where to keep them.
        url: The store; unset, a file in the folder.
    """

    def __init__(self, folder: Path, url: str = "") -> None:
        self.folder = folder
        self.url = url or sqlite_url(folder / "audit.db")
        self.checkpoints = folder / "checkpoints"
        self.key_file = folder / "signing.key"
        self.states: dict[str, tuple[int, bytes]] = {}

    def log(self) -> EvidenceLog:
        """The log, as another process opens it."""
        return EvidenceLog(self.checkpoints, open_signing_key(self.key_file))

    def checkpointer(self, **options: float) -> Checkpointer:
        """What writes checkpoints, as a relay that starts opens it."""
        return Checkpointer(self.log(), "here", **{"seconds": 3600, "records": 1_000_000, **options})  # type: ignore[arg-type]

    def deliver(
        self,
        content: Sequence[Body | Gap],
        life: str = "life-1",
        *,
        close: bool = False,
        batch: int = 7,
        **options: float,
    ) -> None:
        """Deliver what a life journaled behind what it had, and write a checkpoint."""
        sequence, state = self.states.get(life, (0, b""))
        who = Life(life, "credit", 1, 1, release="1", model=ModelInfo("scorer", "v1", feature_names=("age", "income")))
        with closing(
            AuditDestination(SqlAuditStore(self.url), checkpoints=self.checkpointer(**options))
        ) as destination:
            for entries in _batches(self._entries(who, sequence, content), batch):
                state = destination.deliver(entries, state)
                sequence = entries[-1].sequence
                destination.tick()
            if close:
                destination.closed(life)
        self.states[life] = (sequence, state)

    @staticmethod
    def _entries(life: Life, sequence: int, content: Sequence[Body | Gap]) -> Iterable[Entry]:
        for body in content:
            sequence = body.last if isinstance(body, Gap) else sequence + 1
            yield Entry(life, sequence, body)

    def verify(self, *keys: Path, processes: int = 1) -> Report:
        """Verify all of it."""
        return verify_trail(self.url, read_signed_history([self.checkpoints], keys), processes=processes)


def _batches(entries: Iterable[Entry], size: int) -> Iterable[list[Entry]]:
    batch: list[Entry] = []
    for entry in entries:
        batch.append(entry)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch
