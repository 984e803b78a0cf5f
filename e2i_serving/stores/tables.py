"""The tables of an audit store, the same on SQLite and PostgreSQL."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    MetaData,
    PrimaryKeyConstraint,
    Table,
    Text,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.types import TypeEngine

from e2i_serving.record.rows import ITEM_OUTPUT_COLUMNS


class JsonText(JSON):
    """JSON that is handed over as text and read back as objects."""

    cache_ok = True

    def __init__(self) -> None:
        """Let ``None`` be NULL, never JSON's null."""
        super().__init__(none_as_null=True)


@compiles(JsonText, "sqlite")
def _sqlite_json(_type: JsonText, _compiler: Any, **_: Any) -> str:
    return "TEXT"  # a column declared JSON has numeric affinity there: the text 1.0 would become the number 1


def _columns(kind: type[TypeEngine[Any]], *names: str, nullable: bool = True) -> list[Column[Any]]:
    return [Column(name, kind(), nullable=nullable) for name in names]


_ITEM_TYPES: Final[dict[str, type[TypeEngine[Any]]]] = {
    "prediction": JsonText,
    "decision": Text,
    "treatment": Text,
    "policy": Text,
    "exploration": Boolean,
}

metadata: Final = MetaData()

predictions: Final = Table(
    "predictions",
    metadata,
    Column("prediction_id", Text, primary_key=True),
    *_columns(BigInteger, "time_ns", nullable=False),
    *_columns(Double, "duration", nullable=False),
    *_columns(Text, "outcome", nullable=False),
    *_columns(Integer, "status", nullable=False),
    *_columns(Text, "service", "endpoint", "route", "method", "request_id", "trace_id", "span_id", "parent_span_id"),
    *_columns(Text, "parent_request_id"),
    *_columns(Boolean, "sampled", nullable=False),
    *_columns(Text, "principal", "principal_source"),
    *_columns(JsonText, "phases"),
    *_columns(Text, "model", "model_version", "model_digest", "code_digest", "task", "bento", "bento_version"),
    *_columns(Text, "environment", "namespace", "pod", "revision", "arm", "error_type", "error_message"),
    *_columns(JsonText, "labels", "attributes"),
    *_columns(BigInteger, "items", nullable=False),
    *_columns(BigInteger, "request_bytes", "response_bytes"),
    *_columns(Double, "sampling_fraction", nullable=False),
    *_columns(JsonText, "redactions"),
    *_columns(Text, "release"),
    *_columns(Integer, "schema_version", nullable=False),
    *_columns(Text, "life", nullable=False),
    *_columns(BigInteger, "sequence", nullable=False),
    *_columns(Text, "retention", "payload_digest", "salt"),
    *_columns(JsonText, "erased"),
    *_columns(Text, "hash"),
    *_columns(JsonText, "feature_provenance", "lineage"),
    Index("ix_predictions_life_sequence", "life", "sequence"),
    Index("ix_predictions_request_id", "request_id"),
    Index("ix_predictions_trace_id", "trace_id"),
    Index("ix_predictions_model_time", "model", "time_ns"),
    Index("ix_predictions_time", "time_ns"),
)
"""One row a request; ``time_ns`` in nanoseconds since the epoch, ``duration`` in seconds."""

items: Final = Table(
    "items",
    metadata,
    *_columns(Text, "prediction_id", nullable=False),
    *_columns(BigInteger, "item_index", "time_ns", nullable=False),
    *_columns(Text, "model", "model_version"),
    *_columns(JsonText, "entity", "inputs", "outputs"),
    *(Column(name, _ITEM_TYPES.get(name, Double)()) for name in ITEM_OUTPUT_COLUMNS),
    *_columns(Text, "salt"),
    *_columns(JsonText, "erased"),
    PrimaryKeyConstraint("prediction_id", "item_index"),
)
"""One row an item of a request."""

entities: Final = Table(
    "entities",
    metadata,
    *_columns(Text, "name", "value", "prediction_id", nullable=False),
    *_columns(BigInteger, "item_index", "time_ns", nullable=False),
    *_columns(Text, "model"),
    PrimaryKeyConstraint("name", "value", "prediction_id", "item_index"),
    Index("ix_entities_value", "value"),
    sqlite_with_rowid=False,
)
"""One row an entity key of an item, by which everything decided about someone is found."""

events: Final = Table(
    "events",
    metadata,
    *_columns(Text, "life", nullable=False),
    *_columns(BigInteger, "sequence", nullable=False),
    *_columns(Text, "prediction_id", "kind", nullable=False),
    *_columns(Double, "duration", nullable=False),
    *_columns(Text, "outcome", nullable=False),
    *_columns(Integer, "status"),
    *_columns(BigInteger, "response_bytes"),
    *_columns(Text, "error_type", "error_message"),
    *_columns(JsonText, "outputs", "redactions"),
    *_columns(Text, "salt"),
    *_columns(JsonText, "erased"),
    *_columns(Text, "hash"),
    PrimaryKeyConstraint("life", "sequence"),
    Index("ix_events_prediction_id", "prediction_id"),
)
"""One row for how an answer ended after its row was made (kind ``end``), or what a thread came to later (``late``)."""

outcomes: Final = Table(
    "outcomes",
    metadata,
    *_columns(Text, "outcome_id", nullable=False),
    *_columns(BigInteger, "time_ns", nullable=False),
    *_columns(Text, "prediction_id"),
    *_columns(BigInteger, "item_index", nullable=False),
    *_columns(Text, "request_id"),
    *_columns(Text, "name", nullable=False),
    *_columns(JsonText, "value"),
    *_columns(Double, "score"),
    *_columns(Text, "source", "comment"),
    *_columns(BigInteger, "observed_ns"),
    *_columns(Text, "life", nullable=False),
    *_columns(BigInteger, "sequence", nullable=False),
    *_columns(Text, "salt"),
    *_columns(JsonText, "erased"),
    *_columns(Text, "hash"),
    PrimaryKeyConstraint("life", "sequence"),
    Index("ix_outcomes_outcome_id", "outcome_id"),
    Index("ix_outcomes_prediction_id", "prediction_id"),
    Index("ix_outcomes_request_id", "request_id"),
)
"""One row a truth or a score; ``item_index`` is -1 for the request as a whole. Two rows with the same ``outcome_id``
say the same, recorded twice: the key is not the id, or the second one would be missing in its chain."""

accesses: Final = Table(
    "accesses",
    metadata,
    Column("access_id", Text, primary_key=True),
    *_columns(BigInteger, "time_ns", nullable=False),
    *_columns(Text, "principal", "source", "way", "action"),
    *_columns(JsonText, "conditions"),
    *_columns(BigInteger, "predictions", nullable=False),
    *_columns(Text, "life", nullable=False),
    *_columns(BigInteger, "sequence", nullable=False),
    *_columns(Text, "salt"),
    *_columns(JsonText, "erased"),
    *_columns(Text, "hash"),
    Index("ix_accesses_time", "time_ns"),
    Index("ix_accesses_life_sequence", "life", "sequence"),
)
"""One row a look at the trail."""

gaps: Final = Table(
    "gaps",
    metadata,
    *_columns(Text, "life", nullable=False),
    *_columns(BigInteger, "first", "last", "records", nullable=False),
    *_columns(Text, "reason", nullable=False),
    *_columns(Text, "digest", "removal", "hash"),
    PrimaryKeyConstraint("life", "last"),
)
"""One row a run of frames that have no row; ``removal`` names the signed entry of a purge."""

holds: Final = Table(
    "holds",
    metadata,
    Column("hold_id", Text, primary_key=True),
    *_columns(BigInteger, "time_ns", nullable=False),
    *_columns(Text, "entity", "model", "reason", "principal"),
    *_columns(BigInteger, "since_ns", "until_ns", "released_ns"),
    *_columns(Text, "released_by"),
)
"""One row a legal hold; what it covers is neither erased nor purged until it is released."""
