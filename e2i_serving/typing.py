"""The seams: Protocols that a part implements and the runtime wires together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Protocol

from e2i_serving.context import RequestContext
from e2i_serving.record import OutcomeFilter, PredictionFilter, PredictionRecord, Row, RowBatch

Headers = Sequence[tuple[bytes, bytes]]
"""Raw ASGI headers: lower-case names, undecoded values, in the order received."""


class Propagator(Protocol):
    """Reads and writes one family of context headers.

    Called on the event loop for each request: must not block, must not raise whatever a header says.
    """

    @property
    def fields(self) -> tuple[bytes, ...]:
        """The lower-case header names it reads."""

    def extract(self, headers: Mapping[bytes, bytes], into: dict[str, Any]) -> None:
        """Put what the headers say into ``into``, keyed by ``RequestContext``'s field names.

        Args:
            headers: The request's headers of interest, by lower-case name.
            into: What propagators of a higher precedence found; entries there are kept.
        """

    def inject(self, context: RequestContext) -> Sequence[tuple[bytes, bytes]]:
        """Headers that carry the context to the caller or onward."""


class Observer(Protocol):
    """Looks at finished predictions.

    Called on the event loop of the worker, before the answer's first byte leaves: must not block.
    What it raises is caught, counted and logged by the guard, and never reaches the caller.
    """

    def on_end(self, record: PredictionRecord) -> None:
        """Look at a finished prediction. The record must not be kept beyond the call's needs."""


class Cipher(Protocol):
    """Encrypts what lies on disk, with keys that are told apart by number. Any thread may call it."""

    @property
    def key_id(self) -> int:
        """Number of the key that ``encrypt`` uses, from 1."""

    def encrypt(self, context: str, data: bytes | bytearray | memoryview) -> bytes:
        """Encrypt, and protect from alteration.

        Args:
            context: What it belongs to, such as a life's id; what was encrypted for one can't be read as another's.
            data: The plain bytes.

        Returns:
            Nonce, encrypted bytes and tag.
        """

    def decrypt(self, key_id: int, context: str, data: bytes) -> bytes:
        """Read what ``encrypt`` gave.

        Raises:
            EncryptionError: The key is not known, or the data is not what was encrypted for this context.
        """


class AuditStore(Protocol):
    """Where records are kept for good.

    Called from one thread of the relay only: may block. A write is all or nothing; a row whose key is
    there already is left as it was, so that a batch can be handed over again after a crash.
    """

    def write(self, batch: RowBatch) -> int:
        """Store a batch in one transaction.

        Args:
            batch: Rows whose columns are those of the store's tables.

        Returns:
            How many predictions were new.

        Raises:
            RefusedError: Nothing of the batch was stored, and never will be as it is.
            StoreError: Nothing of the batch was stored; it may be handed over again.
        """

    def close(self) -> None:
        """Give back connections and files."""


class AuditQuery(Protocol):
    """Reads what was kept. Any number of readers, while a relay writes."""

    def predictions(
        self, where: PredictionFilter, *, limit: int | None = None, newest_first: bool = True
    ) -> Iterator[Row]:
        """Predictions that meet a filter, by time of arrival, without their items.

        Where an event says how a prediction's answer ended, the row says so too, and so do filters and durations.

        Raises:
            StoreError: The store can't be read.
            QueryError: The filter can't be answered.
        """

    def items(self, prediction_ids: Sequence[str]) -> dict[str, list[Row]]:
        """The items of predictions, by prediction id, in the order of their index."""

    def count(self, where: PredictionFilter) -> int:
        """How many predictions meet a filter."""

    def durations(self, where: PredictionFilter) -> dict[tuple[str, str], list[float]]:
        """Durations in seconds, sorted, by (model, version), of the predictions that meet a filter."""

    def late_results(self, prediction_ids: Sequence[str]) -> dict[str, list[Row]]:
        """What threads came to after their requests had been answered, by prediction id, in the order journaled."""

    def outcomes(self, where: OutcomeFilter, *, limit: int | None = None) -> Iterator[Row]:
        """Outcomes that meet a filter, the last recorded first; of several with one id, the first recorded."""

    def accesses(
        self, *, since_ns: int | None = None, until_ns: int | None = None, limit: int | None = None
    ) -> Iterator[Row]:
        """Who looked at the trail, the latest first."""

    def identities(self, prediction_ids: Sequence[str], request_ids: Sequence[str]) -> list[Row]:
        """The predictions with one of these ids: ``prediction_id``, ``request_id`` and ``items``."""
