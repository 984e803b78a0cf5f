"""The audited event and its parts: plain frozen data that every other layer reads."""

from e2i_serving.record.columns import Column, Constant, Matrix, Values, column_length, column_values
from e2i_serving.record.events import (
    WHOLE_REQUEST,
    AccessEvent,
    Body,
    Gap,
    LateResult,
    OutcomeEvent,
    StreamEnd,
)
from e2i_serving.record.life import Deployment, Life, ModelInfo
from e2i_serving.record.prediction import SCHEMA_VERSION, Outcome, PredictionRecord
from e2i_serving.record.provenance import FeatureProvenance, ViewReading
from e2i_serving.record.query import OutcomeFilter, PredictionFilter
from e2i_serving.record.rows import ChainEnd, Entry, Row, RowBatch

__all__ = [
    "SCHEMA_VERSION",
    "WHOLE_REQUEST",
    "AccessEvent",
    "Body",
    "ChainEnd",
    "Column",
    "Constant",
    "Deployment",
    "Entry",
    "FeatureProvenance",
    "Gap",
    "LateResult",
    "Life",
    "Matrix",
    "ModelInfo",
    "Outcome",
    "OutcomeEvent",
    "OutcomeFilter",
    "PredictionFilter",
    "PredictionRecord",
    "Row",
    "RowBatch",
    "StreamEnd",
    "Values",
    "ViewReading",
    "column_length",
    "column_values",
]
