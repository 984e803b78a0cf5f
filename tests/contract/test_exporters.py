"""What every exporter keeps to, whatever it sends to."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from e2i_serving.exceptions import RefusedError, StoreError
from e2i_serving.exporters.json_lines import JsonLinesExporter
from e2i_serving.exporters.opik import OpikExporter
from e2i_serving.exporters.otlp_logs import OtlpLogsExporter
from e2i_serving.exporters.webhook import WebhookExporter
from e2i_serving.record import (
    Constant,
    Deployment,
    Entry,
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
from e2i_serving.testing import ExportReceiver, Fault, OpikReceiver, RecordingExporter
from e2i_serving.typing import Exporter

LIFE = Life(
    "life-1", "credit", 1, 1, model=ModelInfo("scorer", "v1", feature_names=("age", "income")),
    deployment=Deployment(environment="test"),
)  # fmt: skip
SECRET = "0123456789abcdef"


def prediction_id(number: int) -> str:
    """A UUIDv7 of its own."""
    return str(uuid.UUID(int=(0x0192F7B05C1E << 80) | (7 << 76) | (2 << 62) | number))


def prediction(number: int, **changes: Any) -> Entry:
    """A prediction of two items, with values that plain JSON has no word for."""
    fields: dict[str, Any] = {
        "prediction_id": prediction_id(number),
        "time_ns": 1_790_000_000_000_000_000 + number,
        "duration": 0.25,
        "outcome": Outcome.OK,
        "status": 200,
        "endpoint": "predict",
        "trace_id": f"{number + 1:032x}",
        "span_id": f"{number + 1:016x}",
        "items": 2,
        "inputs": {"features": Matrix.of(np.array([[31.0, np.nan], [45.5, np.inf]], dtype="<f4"))},
        "outputs": {"prediction": Values(["yes", "no"]), "threshold": Constant(0.5)},
        **changes,
    }
    return Entry(LIFE, number + 1, PredictionRecord(**fields), 200)


@dataclass
class Rig:
    """An exporter, and how to see what arrived."""

    exporter: Exporter
    arrived: Callable[[], list[str]]
    fail: Callable[[], object]
    mend: Callable[[], object] = lambda: None


def _lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


@pytest.fixture(params=["recording", "opik", "jsonl", "webhook", "otlp-logs"])
def rig(request, tmp_path) -> Iterator[Rig]:
    """Each exporter, with a receiver."""
    if request.param == "recording":
        recording = RecordingExporter()
        ids = lambda: [entry.body.prediction_id for entry in recording.entries]  # noqa: E731
        yield Rig(recording, ids, lambda: setattr(recording, "down", 1))
        return
    if request.param == "jsonl":
        folder = tmp_path / "out"
        path = folder / "trail.jsonl"
        lines = JsonLinesExporter(str(path))
        yield Rig(
            lines,
            lambda: [each["prediction_id"] for each in _lines(path)],
            lambda: path.mkdir(parents=True),
            path.rmdir,
        )
        return
    receiver = OpikReceiver() if request.param == "opik" else ExportReceiver()
    with receiver:
        exporter: Exporter
        if request.param == "opik":
            exporter = OpikExporter(receiver.url, timeout_seconds=2)
            arrived = lambda: list(receiver.traces)  # noqa: E731
        elif request.param == "webhook":
            exporter = WebhookExporter(receiver.url, SECRET, timeout_seconds=2)
            arrived = lambda: [event["subject"] for each in receiver.requests for event in each.json()]  # noqa: E731
        else:
            exporter = OtlpLogsExporter(receiver.url, timeout_seconds=2)
            arrived = lambda: _logged(receiver)  # noqa: E731
        yield Rig(exporter, arrived, lambda: receiver.faults.append(Fault(500)))
        exporter.shutdown()


def _logged(receiver: ExportReceiver) -> list[str]:
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

    return [
        json.loads(record.body.string_value)["prediction_id"]
        for request in receiver.requests
        for resource in ExportLogsServiceRequest.FromString(request.body).resource_logs
        for scope in resource.scope_logs
        for record in scope.log_records
    ]


def test_what_is_exported_has_arrived_when_it_returns(rig):
    """Nothing is held back, and everything has its id."""
    rig.exporter.export([prediction(number) for number in range(5)])
    assert rig.arrived() == [prediction_id(number) for number in range(5)]
    assert rig.exporter.force_flush(1)


def test_every_kind_of_entry_is_taken(rig):
    """What an exporter has no use for, it passes over."""
    name = prediction_id(1)
    rig.exporter.export(
        [
            prediction(1, outcome=Outcome.INTERRUPTED),
            Entry(LIFE, 3, StreamEnd(name, 0.5, Outcome.CANCELLED)),
            Entry(LIFE, 4, LateResult(name, 9.0, Outcome.OK, items=1, outputs={"score": Values([0.5])})),
            Entry(LIFE, 5, OutcomeEvent(prediction_id(9), 1, name, value=True)),
        ]
    )
    assert name in rig.arrived()


def test_a_failure_raises_and_the_next_try_succeeds(rig):
    """The same entries are handed over again, as the relay does."""
    entries = [prediction(1), prediction(2)]
    rig.fail()
    with pytest.raises(StoreError) as raised:
        rig.exporter.export(entries)
    assert not isinstance(raised.value, RefusedError)
    rig.mend()
    rig.exporter.export(entries)
    assert rig.arrived() == [prediction_id(1), prediction_id(2)]


def test_what_cannot_be_read_is_left_out_of_the_entry(rig):
    """A column that is not what its type and shape say holds up nothing."""
    broken = {"features": Matrix("<f8", (2, 2), b"short"), "age": Values([1])}
    rig.exporter.export([prediction(1, inputs=broken)])
    assert rig.arrived() == [prediction_id(1)]


def test_a_check_leaves_nothing_there(rig):
    """It goes to the receiver and back; when the receiver fails, it says so."""
    rig.exporter.check()
    assert rig.arrived() == []
    rig.fail()
    with pytest.raises(StoreError, match=r"\w"):
        rig.exporter.check()
    rig.mend()


def test_after_the_shutdown_nothing_is_taken(rig):
    """It says so, and it may be shut down twice."""
    rig.exporter.shutdown()
    rig.exporter.shutdown()
    with pytest.raises(StoreError):
        rig.exporter.export([prediction(1)])
