"""Entries of the journal for the tests of the exporter to Opik, and an exporter for the length of a with-block."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from e2i_serving.exporters.opik import OpikExporter
from e2i_serving.record import (
    Constant,
    Deployment,
    Entry,
    Life,
    Matrix,
    ModelInfo,
    Outcome,
    OutcomeEvent,
    PredictionRecord,
    Values,
)

LIFE = Life(
    "life-1",
    "credit",
    1,
    1,
    model=ModelInfo("scorer", "v1", feature_names=("age", "income"), classes=("no", "yes")),
    deployment=Deployment(environment="production", arm="b"),
)
START_NS = 1_790_000_000_123_456_789


def prediction_id(number: int) -> str:
    """A UUIDv7 of its own, whose last digits are spread out."""
    tail = number * 0x9E3779B97F4A7C15 % 2**62
    return str(uuid.UUID(int=(START_NS // 10**6 << 80) | (7 << 76) | (2 << 62) | tail))


def prediction(number: int = 1, *, size: int = 300, items: int = 1, **changes: Any) -> Entry:
    """A prediction's entry."""
    features = np.array([[31.0 + number, np.nan]] * items, dtype="<f4")
    fields: dict[str, Any] = {
        "prediction_id": prediction_id(number),
        "time_ns": START_NS,
        "duration": 0.25,
        "outcome": Outcome.OK,
        "status": 200,
        "endpoint": "predict",
        "request_id": f"r{number}",
        "trace_id": f"{number + 1:032x}",
        "phases": {"decode": 0.05, "features": 0.1, "predict": 0.1},
        "labels": {"brand": "north"},
        "items": items,
        "entities": {"customer": Values([f"c{index}" for index in range(items)])},
        "inputs": {"features": Matrix.of(features)},
        "outputs": {"prediction": Values(["yes"] * items), "threshold": Constant(float("inf"))},
        **changes,
    }
    return Entry(LIFE, number + 1, PredictionRecord(**fields), size)


def outcome(number: int = 1, sequence: int = 900, **changes: Any) -> Entry:
    """An outcome's entry."""
    fields = {"outcome_id": prediction_id(sequence), "time_ns": 1, "prediction_id": prediction_id(number), **changes}
    return Entry(LIFE, sequence, OutcomeEvent(**fields))


@contextmanager
def opened_exporter(url: str, **options: Any) -> Iterator[OpikExporter]:
    """An exporter, shut down afterwards."""
    exporter = OpikExporter(url, **{"timeout_seconds": 2, **options})
    try:
        yield exporter
    finally:
        exporter.shutdown()
