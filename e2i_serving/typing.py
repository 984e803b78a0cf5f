"""The seams: Protocols that a part implements and the runtime wires together."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from e2i_serving.context import RequestContext
from e2i_serving.record import ChainEnd, Entry, OutcomeFilter, PredictionFilter, PredictionRecord, Row, RowBatch

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


class Feature(NamedTuple):
    """One feature of a feature service.

    Attributes:
        name: Its name; of one feature service, no two are the same.
        view: The feature view it is in.
        ttl: Seconds after which a value of it is stale; 0 for never.
        is_computed: Whether it is computed when it is asked for, so that it has no event time.
    """

    name: str
    view: str
    ttl: float = 0.0
    is_computed: bool = False

    @property
    def reference(self) -> str:
        """``view:feature``, as Feast writes it."""
        return f"{self.view}:{self.name}"


class FeatureService(NamedTuple):
    """A named set of features that a model was made for.

    Attributes:
        name: Its name.
        entities: The keys that each entity must give, in order.
        features: Its features, in order.
        request_data: Names of what a request must give beside the entities, for features that are computed.
        registry: SHA-256, in hex, of its definition.
        keeps_time: Whether the store itself ends its calls in about the time it was opened with. It is then called in
            the request's own thread while it is well, which spares the way through another.
    """

    name: str
    entities: tuple[str, ...]
    features: tuple[Feature, ...]
    request_data: tuple[str, ...] = ()
    registry: str = ""
    keeps_time: bool = False


class OnlineFeatures(NamedTuple):
    """What a feature store gave: of each entity one row, of each row one value a feature, in the service's order.

    Attributes:
        values: The values; ``None`` where there is none.
        event_ns: When each value was true, nanoseconds since the epoch; 0 for what was never stored, or is computed.
    """

    values: list[Sequence[Any]]
    event_ns: list[Sequence[int]]


class FeatureStore(Protocol):
    """Gives the latest features of entities.

    Called in threads that may block, ``get_online_features`` in several at once. Making one must not connect, as the
    supervisor makes it too: ``open`` does that, in the worker.
    """

    @property
    def name(self) -> str:
        """What it is called in metrics and records."""

    def open(self, service: str, timeout: float) -> FeatureService:
        """Connect, learn what a feature service consists of, and make its first answer as fast as the later ones.

        Args:
            service: Its name.
            timeout: Seconds after which nobody waits for an answer any more; connections may be made to keep to it.

        Raises:
            ConfigurationError: There is no such store or feature service.
        """

    def get_online_features(self, service: FeatureService, entity_rows: Sequence[Mapping[str, Any]]) -> OnlineFeatures:
        """The features of entities.

        Args:
            service: What ``open`` returned.
            entity_rows: One an entity: its keys, and the request data.

        Raises:
            FeatureError: The rows are not what the service needs (``invalid``).
            Exception: Anything else that goes wrong; it counts as ``unavailable``.
        """

    def refresh(self) -> None:
        """Look again at what its definitions are. Called now and then, in a thread beside requests."""

    def close(self) -> None:
        """Give back connections."""


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


class Exporter(Protocol):
    """Sends what happened to some other place, which is written to and never read.

    Called from one thread of the relay only: may block, for a bounded time. The same entries may come again, after
    a crash or when what it raised left open whether they arrived, so what it sends has ids that the receiver can know
    them by. Memory is bounded by the batch that it is handed.
    """

    @property
    def name(self) -> str:
        """Its name in the ledger, the books and the redaction rules; never another's."""

    def export(self, entries: Sequence[Entry]) -> None:
        """Send entries, all of them or none; when this returns, the receiver has them.

        Args:
            entries: Of one life, in order, redacted. What it has no use for, it passes over.

        Raises:
            RefusedError: The receiver will never take these entries as they are.
            StoreError: It may take them later; ``retry_after`` says when, if it is known.
        """

    def check(self) -> None:
        """Go to the receiver and back, and leave nothing there.

        Raises:
            StoreError: It can't be reached or does not let us in; says how to mend it.
        """

    def force_flush(self, timeout_seconds: float) -> bool:
        """Send what is held back, if anything is; returns whether all was sent in time."""

    def shutdown(self) -> None:
        """Give back connections and files. What is exported after it raises ``StoreError``."""


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

    def chain_end(self, life: str, *, since: int, until: int) -> ChainEnd | None:
        """The last row of a life that has a hash, of those with sequence numbers in a range; ``None`` for none.

        Asked where it is open what of a batch was stored: after a crash, or when a write failed.

        Args:
            life: The life's id.
            since: The least sequence number.
            until: The largest.

        Raises:
            StoreError: The store can't be read.
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
        """The predictions with one of these ids: ``prediction_id``, ``request_id``, ``items`` and ``service``."""
