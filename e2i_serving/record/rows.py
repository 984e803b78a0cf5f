"""The row form of records: what the relay hands to a store."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import msgspec

from e2i_serving.record.life import Life
from e2i_serving.record.prediction import PredictionRecord, StreamEnd

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
    """One journal frame as the relay reads it: what was recorded, by whom, and in which order."""

    life: Life
    sequence: int
    body: PredictionRecord | StreamEnd


@dataclass(slots=True)
class RowBatch:
    """Rows that belong together and are written in one transaction. Every row holds every column of its table.

    Attributes:
        predictions: One row a request.
        items: One row an item; key (prediction_id, item_index).
        entities: One row an entity key of an item; key (name, value, prediction_id, item_index).
        stream_ends: One row a stream that ended, with the columns of the prediction it completes.
    """

    predictions: list[Row] = field(default_factory=list)
    items: list[Row] = field(default_factory=list)
    entities: list[Row] = field(default_factory=list)
    stream_ends: list[Row] = field(default_factory=list)
