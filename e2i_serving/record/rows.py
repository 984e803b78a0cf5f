"""The row form of records: what the relay hands to a store."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from e2i_serving.record.events import Body, Gap
from e2i_serving.record.life import Life

Row = dict[str, Any]
"""One row by column name. Columns of JSON hold JSON text already."""

ITEM_OUTPUT_COLUMNS: tuple[str, ...] = (
    "prediction",
    "score",
    "decision",
    "threshold",
    "lower",
    "upper",
    "level",
    "treatment",
    "propensity",
    "outcome_control",
    "outcome_treated",
    "effect",
    "policy",
    "exploration",
)
"""Names in ``PredictionRecord.outputs`` that have a typed column of their own in an item row.
``prediction`` is JSON (a class, a number); ``decision``, ``treatment`` and ``policy`` are text,
``exploration`` a boolean, the others numbers. All other outputs stand in the row's ``outputs``."""


class Entry(msgspec.Struct, frozen=True):
    """One journal frame as the relay reads it: what was recorded, by whom, and in which order.

    A ``Gap`` stands for frames that can't be read; its sequence is that of the last one. ``size`` is how many bytes
    the body takes in the journal; 0 when that is not known.
    """

    life: Life
    sequence: int
    body: Body | Gap
    size: int = 0


class ChainEnd(NamedTuple):
    """The last row of a life's chain that a store has.

    Attributes:
        sequence: Its sequence number; of a gap, that of the last frame.
        hash: Its link, in hex.
        reason: Why it is a gap; empty when it is none.
        digest: A gap's digest, in hex; empty when it has none.
    """

    sequence: int
    hash: str
    reason: str = ""
    digest: str = ""


@dataclass(slots=True)
class RowBatch:
    """Rows that belong together and are written in one transaction. Every row holds every column of its table.

    Attributes:
        predictions: One row a request.
        items: One row an item; key (prediction_id, item_index).
        entities: One row an entity key of an item; key (name, value, prediction_id, item_index).
        events: One row an end or a late result; key (life, sequence).
        outcomes: One row a truth or a score; key (life, sequence).
        accesses: One row a look at the trail; key access_id.
        gaps: One row a run of frames that have no row; key (life, last).
    """

    predictions: list[Row] = field(default_factory=list)
    items: list[Row] = field(default_factory=list)
    entities: list[Row] = field(default_factory=list)
    events: list[Row] = field(default_factory=list)
    outcomes: list[Row] = field(default_factory=list)
    accesses: list[Row] = field(default_factory=list)
    gaps: list[Row] = field(default_factory=list)
