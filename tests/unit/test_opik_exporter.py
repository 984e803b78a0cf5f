"""The exporter to Opik: what it sends."""

from __future__ import annotations

import json
import os
import uuid
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from opik_entries import LIFE, START_NS, outcome, prediction, prediction_id

from e2i_serving.exceptions import RefusedError
from e2i_serving.exporters.opik_traces import TraceStyle, derived_id, item_trace_id
from e2i_serving.record import (
    Entry,
    FeatureProvenance,
    LateResult,
    Outcome,
    StreamEnd,
    Values,
    ViewReading,
)
from e2i_serving.testing import Fault

SCHEMA_VARIABLE = "E2I_TEST_OPIK_SCHEMA"
"""Names the file with Opik's published contract, where what is sent is to be held against it."""


def test_a_prediction_is_a_trace_of_its_own_id(opik, export):
    """Objects by name, times in UTC, NaN as null, and all that says which model it was."""
    export(prediction(), api_key="key", workspace="risk", style=TraceStyle(thread="customer"))
    (request,) = opik.requests
    assert (request.method, request.path) == ("POST", "/v1/private/traces/batch")
    assert (request.headers["authorization"], request.headers["comet-workspace"]) == ("key", "risk")
    assert request.headers["content-encoding"] == "gzip"
    (trace,) = opik.traces.values()
    assert trace["id"] == prediction_id(1)
    assert trace["input"] == {"age": 32.0, "income": None}
    assert trace["output"] == {"prediction": "yes", "threshold": None}
    assert (trace["start_time"], trace["end_time"]) == ("2026-09-21T14:13:20.123456Z", "2026-09-21T14:13:20.373456Z")
    assert (trace["project_name"], trace["name"], trace["thread_id"]) == ("credit", "predict", "c0")
    assert (trace["source"], trace["environment"]) == ("sdk", "production")
    assert trace["tags"] == ["credit", "scorer", "production", "b", "ok"]
    assert trace["metadata"]["model_version"] == "v1"
    assert trace["metadata"]["entity"] == {"customer": "c0"}
    assert "error_info" not in trace


def test_a_trace_says_where_its_features_came_from(opik, export):
    """The store, its service, what each view gave, and of when that is."""
    reading = ViewReading({"hit": 2}, ("hit",), (START_NS,))
    provenance = FeatureProvenance("feast", "churn", "ab" * 32, ("orders:count",), 0.01, {"orders": reading})
    export(prediction(feature_provenance=provenance))
    (trace,) = opik.traces.values()
    told = trace["metadata"]["feature_provenance"]
    assert (told["store"], told["service"], told["registry"]) == ("feast", "churn", "ab" * 32)
    assert told["views"]["orders"] == {
        "outcomes": {"hit": 2}, "statuses": ["hit"], "event_times": ["2026-09-21T14:13:20.123456Z"]
    }  # fmt: skip


def test_what_failed_says_why(opik, export):
    """The error has the traceback that Opik insists on."""
    export(prediction(outcome=Outcome.ERROR, status=500, error_type="ValueError", error_message="no"))
    (trace,) = opik.traces.values()
    assert trace["error_info"] == {"exception_type": "ValueError", "message": "no", "traceback": "ValueError: no"}


@pytest.mark.parametrize("given", ["nonsense", "", 7, {"id": 1}])
def test_a_caller_that_is_none_is_left_out(opik, export, given):
    """What a body's attribute calls a trace may be anything, and one bad id has Opik refuse a whole batch."""
    export(prediction(1, attributes={"opik_trace_id": given, "opik_parent_span_id": given}), prediction(2))
    assert len(opik.traces) == 2
    assert not opik.spans


def test_a_request_of_many_items_is_one_trace_or_many(opik, export):
    """As a whole it lists its items; by item each has a stable id and the request as its thread."""
    export(prediction(items=3))
    (trace,) = opik.traces.values()
    assert [item["age"] for item in (each["features"] for each in trace["input"]["items"])] == [32.0] * 3
    opik.traces.clear()
    export(prediction(items=3), style=TraceStyle(per="item"))
    assert list(opik.traces) == [item_trace_id(prediction_id(1), index) for index in range(3)]
    assert {trace["thread_id"] for trace in opik.traces.values()} == {prediction_id(1)}
    assert all(uuid.UUID(each).version == 7 for each in opik.traces)


def test_a_large_payload_is_named_and_not_sent(opik, export):
    """The trace says where it is."""
    export(prediction(size=5000), style=TraceStyle(payload_bytes=4096))
    (trace,) = opik.traces.values()
    assert trace["input"] == {"kept_in": "audit trail", "prediction_id": prediction_id(1), "bytes": 5000}
    assert "output" not in trace


def test_phases_are_spans_when_asked_for(opik, export):
    """One after another, within their trace."""
    export(prediction(), spans=True)
    spans = list(opik.spans.values())
    assert [span["name"] for span in spans] == ["decode", "features", "predict"]
    assert {span["trace_id"] for span in spans} == {prediction_id(1)}
    assert spans[0]["end_time"] == spans[1]["start_time"]


def test_a_prediction_is_a_child_of_its_callers_trace(opik, export):
    """It is a span there, besides its own trace."""
    parent, above = prediction_id(77), prediction_id(78)
    export(prediction(attributes={"opik_trace_id": parent, "opik_parent_span_id": above}), prediction(2))
    (span,) = opik.spans.values()
    assert (span["trace_id"], span["parent_span_id"]) == (parent, above)
    assert span["id"] == derived_id(prediction_id(1), "child")
    assert span["metadata"]["prediction_id"] == prediction_id(1)
    assert len(opik.traces) == 2


def test_everything_of_a_prediction_is_in_one_project(opik, export):
    """The trace, its spans, its child in the caller's trace, what changes it later, and its scores."""
    begun = prediction(outcome=Outcome.INTERRUPTED, attributes={"opik_trace_id": prediction_id(77)})
    ended = Entry(LIFE, 3, StreamEnd(prediction_id(1), 2.0, Outcome.OK))
    for style, project in ((TraceStyle(), "credit"), (TraceStyle("risk"), "risk")):
        opik.requests.clear()
        export(begun, spans=True, style=style)
        export(ended, late(), outcome(value=True), style=style)
        bodies = [request.json() for request in opik.requests]
        assert [request.method for request in opik.requests] == ["POST", "POST", "POST", "PATCH", "PUT"]
        assert opik.requests[3].path == f"/v1/private/traces/{prediction_id(1)}"
        sent = [each for body in bodies for each in (*body.values(),) if isinstance(each, list)]
        names = [each["project_name"] for objects in sent for each in objects if isinstance(each, dict)]
        assert names == [project] * (1 + 4 + 1 + 1)
        assert bodies[3]["project_name"] == project


def test_a_child_ends_as_its_stream_does(opik, export):
    """Where the end is known by then."""
    begun = prediction(outcome=Outcome.INTERRUPTED, attributes={"opik_trace_id": prediction_id(77)})
    export(begun, Entry(LIFE, 3, StreamEnd(prediction_id(1), 2.0, Outcome.CANCELLED, error_type="gone")))
    (span,) = opik.spans.values()
    assert (span["end_time"], span["error_info"]["exception_type"]) == ("2026-09-21T14:13:22.123456Z", "gone")


def test_a_change_that_opik_refuses_is_refused(opik, export):
    """A trace of the same id in another project, for instance."""
    opik.faults.append(Fault(409, body=b'{"errors":["project"]}'))
    with pytest.raises(RefusedError, match="project"):
        export(Entry(LIFE, 3, StreamEnd(prediction_id(1), 2.0, Outcome.OK)))


def test_a_streams_end_is_a_part_of_its_trace(opik, export):
    """Known in time it stands in the trace; later, it changes what is there."""
    begun = prediction(outcome=Outcome.INTERRUPTED)
    ended = Entry(LIFE, 3, StreamEnd(prediction_id(1), 2.0, Outcome.CANCELLED, error_type="gone"))
    export(begun, ended)
    (at_once,) = opik.traces.values()
    assert at_once["end_time"] == "2026-09-21T14:13:22.123456Z"
    assert at_once["error_info"]["exception_type"] == "gone"
    opik.traces.clear()
    export(begun)
    export(ended)
    (later,) = opik.traces.values()
    assert later["end_time"] == "2026-09-21T14:13:22.123000Z"
    assert later["error_info"] == at_once["error_info"]
    assert later["tags_to_add"] == ["cancelled"]
    assert later["input"] == at_once["input"]


def test_outcomes_are_feedback_scores(opik, export):
    """Numbers as they are, other truths as a category; of several of a name, the last one holds."""
    export(
        outcome(value=True),
        outcome(2, 901, value="churned", source="claims", comment="late"),
        outcome(2, 902, name="quality", score=0.25),
        outcome(2, 903, name="quality", score=0.75),
        outcome(3, 904, item_index=2, value=7),
        outcome(3, 905, item_index=0, value=5),
        outcome(3, 906, value=6),
    )
    (request,) = opik.requests
    assert (request.method, request.path) == ("PUT", "/v1/private/traces/feedback-scores")
    first, second, third, *of_items = request.json()["scores"]
    assert (first["id"], first["name"], first["value"]) == (prediction_id(1), "truth", 1.0)
    assert (second["category_name"], second["value"], second["reason"]) == ("churned", 1.0, "claims: late")
    assert (third["name"], third["value"]) == ("quality", 0.75)
    assert [(each["name"], each["value"]) for each in of_items] == [
        ("truth[2]", 7.0),
        ("truth[0]", 5.0),
        ("truth", 6.0),
    ]


def test_a_score_that_opik_has_no_place_for_is_refused(export):
    """Out of range, not a number, or nothing at all."""
    for changes in ({"score": 2e9}, {"value": float("nan")}, {}):
        with pytest.raises(RefusedError):
            export(outcome(**changes))


def test_an_outcome_without_a_prediction_is_refused(opik, export):
    """Opik knows no request ids; it is not passed over in silence."""
    with pytest.raises(RefusedError, match="r1"):
        export(outcome(prediction_id="", request_id="r1", value=True))
    assert opik.requests == []


def late(number: int = 1, *, size: int = 300, **changes: Any) -> Entry:
    """The entry of what a prediction came to in the end."""
    fields: dict[str, Any] = {"outcome": Outcome.OK, "items": 1, "outputs": {"prediction": Values(["yes"])}, **changes}
    return Entry(LIFE, 700, LateResult(prediction_id(number), 5.0, **fields), size)


def test_a_late_result_is_a_span_of_its_trace(opik, export):
    """With its outputs or its error, and one for each item where items have traces."""
    export(late(), late(2, outcome=Outcome.ERROR, items=0, outputs={}, error_type="ValueError", error_message="no"))
    first, second = opik.spans.values()
    assert (first["trace_id"], first["name"], first["output"]) == (
        prediction_id(1),
        "late result",
        {"prediction": "yes"},
    )
    assert (first["start_time"], first["end_time"]) == ("2026-09-21T14:13:20.123000Z", "2026-09-21T14:13:25.123000Z")
    assert first["project_name"] == "credit"
    assert second["error_info"]["exception_type"] == "ValueError"
    assert "output" not in second
    opik.spans.clear()
    two = {"items": 2, "outputs": {"prediction": Values(["yes", "no"])}}
    export(late(**two))
    (whole,) = opik.spans.values()
    assert whole["output"] == {"items": [{"prediction": "yes"}, {"prediction": "no"}]}
    opik.spans.clear()
    export(late(**two), style=TraceStyle(per="item"))
    traces = [span["trace_id"] for span in opik.spans.values()]
    assert traces == [item_trace_id(prediction_id(1), index) for index in range(2)]
    opik.spans.clear()
    export(late(size=5000), style=TraceStyle(payload_bytes=4096))
    (large,) = opik.spans.values()
    assert large["output"] == {"kept_in": "audit trail", "prediction_id": prediction_id(1), "bytes": 5000}
    opik.spans.clear()
    export(late(), sampling_rate=0, sampling_errors=False)
    assert not opik.spans
    export(late(), sampling_rate=0)
    assert len(opik.spans) == 1, "what was answered with an error is sent whatever the rate"


def test_sampling_is_by_prediction_and_keeps_errors(opik, export):
    """An outcome goes where its prediction went."""
    entries = [prediction(number) for number in range(400)]
    failed = prediction(4000, outcome=Outcome.ERROR)
    export(*entries, failed, *(outcome(number, 5000 + number, value=1) for number in range(400)), sampling_rate=0.25)
    assert 60 < len(opik.traces) < 140
    assert failed.body.prediction_id in opik.traces
    assert {trace for trace, _ in opik.scores} == set(opik.traces) - {failed.body.prediction_id}
    opik.traces.clear()
    export(*entries, failed, sampling_rate=0, sampling_errors=False)
    assert not opik.traces


def test_batches_are_bounded_by_number_and_by_bytes(opik, export):
    """A thousand traces, or four megabytes of them."""
    export(*(prediction(number) for number in range(2500)))
    assert [len(request.json()["traces"]) for request in opik.requests] == [1000, 1000, 500]
    opik.requests.clear()
    wide = {"text": Values(["x" * 900_000])}
    export(*(prediction(number, inputs=wide) for number in range(10)))
    assert [len(request.json()["traces"]) for request in opik.requests] == [4, 4, 2]


@pytest.mark.skipif(not os.environ.get(SCHEMA_VARIABLE), reason=f"{SCHEMA_VARIABLE} names no file")
def test_every_batch_is_as_opik_publishes(opik, export):
    """Held against the schemas of its requests, with the formats of ids and times."""
    # Bounds that are "not exclusive" are written as OpenAPI 3.0 has them, which JSON Schema has no more.
    contract = json.loads(
        Path(os.environ[SCHEMA_VARIABLE]).read_text(),
        object_hook=lambda found: {
            name: value for name, value in found.items() if not (name.startswith("exclusive") and value is False)
        },
    )
    schemas = {
        "/v1/private/traces/batch": "TraceBatch_Write",
        "/v1/private/spans/batch": "SpanBatch_Write",
        "/v1/private/traces/feedback-scores": "FeedbackScoreBatch",
    }
    parent = {"opik_trace_id": prediction_id(77), "opik_parent_span_id": prediction_id(78)}
    entries = [
        prediction(1, attributes=parent),
        prediction(2, items=5),
        prediction(3, items=0, inputs={}, outputs={}, entities={}, outcome=Outcome.INVALID, status=422),
        prediction(4, outcome=Outcome.ERROR, error_type="ValueError"),
        prediction(5, size=10**7),
        outcome(1, value=True),
        outcome(2, 901, value="x", source="s"),
        Entry(LIFE, 950, StreamEnd(prediction_id(30), 2.0, Outcome.TIMEOUT)),
        late(4, outcome=Outcome.ERROR, error_type="ValueError"),
        late(6, items=2, outputs={"prediction": Values(["yes", "no"])}),
    ]
    for per in ("request", "item"):
        export(*entries, spans=True, style=TraceStyle(per=per, thread="customer"))
    seen = set()
    for request in opik.requests:
        name = schemas.get(request.path, "TraceUpdate")
        seen.add(name)
        schema = {"$ref": f"#/components/schemas/{name}", "components": contract["components"]}
        validator = jsonschema.Draft202012Validator(schema, format_checker=jsonschema.FormatChecker())
        assert [error.message for error in validator.iter_errors(request.json())] == []
    assert seen == {*schemas.values(), "TraceUpdate"}
