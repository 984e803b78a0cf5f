"""What is sent to Opik, held against its own SDK.

The SDK wants an environment of its own, so these tests run only where ``E2I_TEST_RECEIVERS`` names a folder that has
it, called ``opik``.
"""

from __future__ import annotations

import json
import os
import subprocess
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from e2i_serving.exporters.opik import OpikExporter
from e2i_serving.exporters.opik_traces import TraceStyle
from e2i_serving.record import Entry, LateResult, Life, ModelInfo, Outcome, OutcomeEvent, PredictionRecord, Values
from e2i_serving.testing import OpikReceiver

RECEIVERS = os.environ.get("E2I_TEST_RECEIVERS", "")
pytestmark = pytest.mark.skipif(not RECEIVERS, reason="E2I_TEST_RECEIVERS is not set")

ID = "0192f7b0-5c1e-7d4a-9f1e-2b7c6c1e8a11"
CALLER = "0192f7b0-5c1e-7d4a-9f1e-2b7c6c1e8a12"
LIFE = Life("life-1", "credit", 1, 1, model=ModelInfo("scorer", "v1"))
ENTRIES = [
    Entry(
        LIFE,
        1,
        PredictionRecord(
            ID,
            1_790_000_000_000_000_000,
            0.25,
            Outcome.ERROR,
            500,
            "predict",
            items=1,
            error_type="ValueError",
            error_message="no",
            attributes={"opik_trace_id": CALLER},
            phases={"predict": 0.2},
            inputs={"age": Values([31])},
            outputs={"prediction": Values(["yes"])},
        ),
        100,
    ),
    Entry(LIFE, 2, OutcomeEvent(CALLER, 1, ID, value="churned", source="claims")),
    Entry(LIFE, 3, LateResult(ID, 5.0, Outcome.OK, items=1, outputs={"prediction": Values(["yes"])})),
]

_MODELS = """
import json, sys
from opik.rest_api.types import FeedbackScoreBatchItem, SpanWrite, TraceWrite
models = {"traces": TraceWrite, "spans": SpanWrite, "scores": FeedbackScoreBatchItem}
for body in json.load(sys.stdin):
    for member, objects in body.items():
        for each in objects:
            made = models[member].model_validate(each)
            assert not made.model_extra, (member, made.model_extra)
            print(member)
"""

_SDK = """
import datetime, json, sys
import opik
asked = json.load(sys.stdin)
client = opik.Opik(host=asked.pop("url"), project_name=asked.pop("project_name"))
for name in ("start_time", "end_time"):
    asked[name] = datetime.datetime.fromisoformat(asked[name].replace("Z", "+00:00"))
client.trace(**asked)
client.end()
"""


def sdk(script: str, given: Any) -> str:
    """Run a script that uses the SDK, and return what it printed."""
    python = Path(RECEIVERS, "opik", "bin", "python").absolute()
    quiet = {"OPIK_SENTRY_ENABLE": "false", "OPIK_ANALYTICS_ENABLE": "false", "PYTHONPATH": ""}
    done = subprocess.run(
        [python, "-c", script],
        input=json.dumps(given),
        env={**os.environ, **quiet},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def opik():
    """A receiver that has what the exporter sent."""
    with OpikReceiver() as receiver:
        exporter = OpikExporter(receiver.url, style=TraceStyle("risk"), spans=True)
        exporter.export(ENTRIES)
        exporter.shutdown()
        yield receiver


def test_the_sdks_own_models_take_every_request(opik):
    """Of every kind that is sent, with no member that they do not know."""
    bodies = [request.json() for request in opik.requests]
    assert set(sdk(_MODELS, bodies).split()) == {"traces", "spans", "scores"}


def test_the_sdk_sends_the_same_trace(opik):
    """The same values give the same trace, but for what the SDK adds of itself."""
    (ours,) = list(opik.traces.values())
    given = {name: value for name, value in ours.items() if name != "source"}
    sdk(_SDK, {**given, "url": opik.url + "/"})
    theirs = opik.traces[ID]
    assert theirs is not ours
    for name in ours.keys() - {"start_time", "end_time"}:
        assert theirs[name] == ours[name], name
    for name in ("start_time", "end_time"):
        assert datetime.fromisoformat(theirs[name]) == datetime.fromisoformat(ours[name])
