"""Whatever becomes of a request, a row says so."""

from __future__ import annotations

import json
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

ROW = [0.5, 1.0, -0.5, 0.25]
TRACE = "0af7651916cd43dd8448eb211c80319c"


@pytest.fixture
def row_of(probe, eventually):
    """The one row of a request id, once the relay has stored it."""

    def find(request_id: str):
        with probe.trail() as trail:
            found = eventually(lambda: trail.find(request_id), what=f"the row of {request_id}")
        assert len(found) == 1
        return found[0]

    return find


@pytest.mark.smoke
def test_a_prediction_is_answered_and_on_record(probe, row_of):
    """A prediction's row holds its ids, model, inputs, outputs, labels, entity and timing."""
    answer = probe.predict(
        {"X-Request-ID": "ok-1", "traceparent": f"00-{TRACE}-b7ad6b7169203331-01"},
        instances=[ROW, ROW],
        entities=[{"patient": "p1"}, {"patient": "p2"}],
        labels={"brand": "alpha", "region": "north", "unknown": "x"},
    )
    assert answer.status_code == 200
    body = answer.json()
    assert body["predictions"] == ["high", "high"]
    assert body["model_name"] == "probe"
    assert answer.headers["x-request-id"] == "ok-1"
    assert answer.headers["x-prediction-id"] == body["prediction_id"]
    assert answer.headers["traceparent"].split("-")[1] == TRACE
    assert {"predict", "total"} <= {each.split(";")[0].strip() for each in answer.headers["server-timing"].split(",")}

    row = row_of("ok-1")
    assert row["prediction_id"] == body["prediction_id"]
    assert (row["outcome"], row["status"], row["items"]) == ("ok", 200, 2)
    assert (row["model"], row["model_version"]) == ("probe", body["model_version"])
    assert row["trace_id"] == TRACE
    assert row["parent_span_id"] == "b7ad6b7169203331"
    assert row["labels"] == {"brand": "alpha", "region": "north"}
    assert row["attributes"] == {"undeclared_labels": {"unknown": "x"}}
    assert len(row["model_digest"]) == 64
    assert set(row["phases"]) == {"decode", "queue", "features", "preprocess", "predict", "postprocess", "encode"}
    first, second = row["item_rows"]
    assert first["inputs"] == dict(zip("abcd", ROW, strict=True))
    assert (first["prediction"], first["entity"], second["entity"]) == ("high", {"patient": "p1"}, {"patient": "p2"})
    assert first["score"] == pytest.approx(body["scores"][0])
    assert first["outputs"]["probabilities"]["high"] == pytest.approx(body["probabilities"][0][1])


@pytest.mark.parametrize(
    ("name", "body", "status", "outcome", "error_type"),
    [
        ("invalid-json", b'{"instances": [[1,', 400, "invalid", "ValidationError"),
        ("invalid-width", b'{"instances": [[1, 2]]}', 400, "invalid", "ValidationError"),
        ("not-found", b'{"instances": [[1,2,3,4]], "attributes": {"do": "missing"}}', 404, "invalid", "NotFound"),
        ("error", b'{"instances": [[1,2,3,4]], "attributes": {"do": "fail"}}', 500, "error", "RuntimeError"),
        (
            "timeout",
            b'{"instances": [[1,2,3,4]], "attributes": {"do": "sleep", "seconds": 3}}',
            504,
            "timeout",
            "timeout",
        ),
    ],
)
def test_a_failure_is_a_row(probe, row_of, name, body, status, outcome, error_type):
    """A request that fails is answered as BentoML answers it, with our headers, and leaves one row that says why."""
    answer = probe.post("/predict", content=body, headers={"content-type": "application/json", "X-Request-ID": name})
    assert answer.status_code == status
    assert answer.headers["x-request-id"] == name
    row = row_of(name)
    assert (row["status"], row["outcome"]) == (status, outcome)
    assert row["error_type"].rpartition(".")[2] == error_type


def test_a_client_that_goes_away_leaves_a_cancelled_row(probe, row_of):
    """A request whose client hangs up before the answer is recorded as cancelled."""
    with pytest.raises(httpx.TimeoutException):
        httpx.post(
            probe.url + "/predict",
            json={"instances": [ROW], "attributes": {"do": "sleep", "seconds": 1}},
            headers={"X-Request-ID": "gone"},
            timeout=0.3,
        )
    assert row_of("gone")["outcome"] == "cancelled"


def test_overload_is_a_rejected_row(serve, eventually):
    """Requests above max_concurrency get 429, and each has a row."""
    slow = {"instances": [ROW], "attributes": {"do": "sleep", "seconds": 2}}
    with serve("probe:Narrow") as server:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: server.predict(**slow).status_code, range(8)))
        rejected = answers.count(429)
        assert rejected
        with server.trail() as trail:
            eventually(lambda: trail.count(outcome="rejected") == rejected, what="a row for each")
            assert {row["status"] for row in trail.query(outcome="rejected", items=False)} == {429}


def test_users_own_methods_are_observed_with_their_own_types(probe, row_of):
    """Methods with arrays, plain types and annotations are on record like the bases' own."""
    answer = probe.post("/total", json={"x": [[1, 2], [3, 4]]}, headers={"X-Request-ID": "own-array"})
    assert answer.json() == [3, 7]
    row = row_of("own-array")
    assert (row["endpoint"], row["items"]) == ("total", 2)
    assert [item["inputs"] for item in row["item_rows"]] == [{"x": [1, 2]}, {"x": [3, 4]}]
    assert [item["prediction"] for item in row["item_rows"]] == [3, 7]

    answer = probe.post("/greet", json={"name": "Ada", "times": 2}, headers={"X-Request-ID": "own-plain"})
    assert answer.status_code == 200
    row = row_of("own-plain")
    assert row["item_rows"][0]["inputs"] == {"name": "Ada", "times": 2}
    assert row["item_rows"][0]["prediction"] == answer.json()
    assert row["labels"] == {"brand": "greeting"}
    assert row["attributes"] == {"politeness": 2}


def test_a_batched_method_keeps_each_callers_own_ids(probe, row_of):
    """Under adaptive batching every caller's row has its own inputs and its own answer."""

    def ask(number: int) -> list[list[int]]:
        headers = {"X-Request-ID": f"batched-{number}"}
        answer: list[list[int]] = probe.post("/doubled", json={"x": [[number, 1]]}, headers=headers).json()
        return answer

    with ThreadPoolExecutor(12) as pool:
        answers = list(pool.map(ask, range(24)))
    for number, answer in enumerate(answers):
        row = row_of(f"batched-{number}")
        assert row["item_rows"][0]["inputs"] == {"x": [number, 1]}
        assert [row["item_rows"][0]["prediction"]] == answer == [[2 * number, 2]]


@pytest.mark.parametrize(("fail_at", "outcome"), [(-1, "ok"), (3, "error")])
def test_a_stream_is_on_record_from_start_to_end(probe, row_of, eventually, fail_at, outcome):
    """A stream's row says how it ended, also when it broke after its first byte."""
    request_id = f"stream-{outcome}"
    answer = probe.post("/count", json={"upto": 5, "fail_at": fail_at}, headers={"X-Request-ID": request_id})
    assert answer.text.split()[:3] == ["0", "1", "2"]
    eventually(lambda: row_of(request_id)["outcome"] == outcome, what=f"the stream's row to say {outcome}")


def test_an_unknown_route_is_counted_and_not_recorded(probe, eventually):
    """Raw paths of strangers reach neither the metrics nor the trail."""
    for number in range(5):
        assert httpx.get(f"{probe.url}/no-such-{number}").status_code == 404
    text = httpx.get(probe.url + "/metrics").text
    assert "no-such" not in text
    assert 'e2i_http_requests_total{route="__unmatched__",status="404"} 5' in text
    with probe.trail() as trail:
        assert not [row for row in trail.query(items=False) if row["route"] == "__unmatched__"]


def test_a_hostile_request_id_is_replaced(probe):
    """An id that could break a log line or a header is not echoed."""
    answer = probe.predict({"X-Request-ID": "a" * 500}, instances=[ROW])
    assert answer.headers["x-request-id"] == answer.headers["x-prediction-id"]


def test_a_task_is_on_record_when_it_ran(probe, row_of):
    """Its row has the ids of the request that handed it in, and says how it ended."""
    for x, outcome in ((2.0, "ok"), (-1.0, "error")):
        headers = {"X-Request-ID": f"task-{outcome}"}
        handed_in = probe.post("/tripled/submit", json={"x": x}, headers=headers)
        assert handed_in.json()["status"] == "in_progress"
        row = row_of(f"task-{outcome}")
        assert (row["endpoint"], row["route"], row["outcome"]) == ("tripled", "/tripled", outcome)
        _, trace_id, span_id, _ = handed_in.headers["traceparent"].split("-")
        assert (row["trace_id"], row["parent_span_id"]) == (trace_id, span_id)
        assert [item["prediction"] for item in row["item_rows"]] == [6.0 if outcome == "ok" else None]


def test_a_task_that_runs_again_is_on_record_again(probe, row_of, eventually):
    """A retry is a run of its own, under the ids of the request that asked for it."""
    task = probe.post("/tripled/submit", json={"x": 2.0}, headers={"X-Request-ID": "first-run"}).json()["task_id"]
    status = f"{probe.url}/tripled/status?task_id={task}"
    eventually(lambda: httpx.get(status).json()["status"] != "in_progress", what="the task")
    again = probe.post(f"/tripled/retry?task_id={task}", headers={"X-Request-ID": "second-run"})
    assert again.status_code == 200
    for request_id in ("first-run", "second-run"):
        row = row_of(request_id)
        assert (row["endpoint"], row["outcome"]) == ("tripled", "ok")


def test_the_command_finds_a_row_by_the_header(probe):
    """``e2i-serving audit show``, at once, prints what the request id of an answer stands for."""
    request_id = probe.predict(instances=[ROW], labels={"brand": "shown"}).headers["x-request-id"]
    command = [Path(sys.executable).with_name("e2i-serving"), "audit", "show", request_id, "--format", "json"]
    done = subprocess.run(
        [*command, "--data-dir", str(probe.data_dir)], capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr
    shown = json.loads(done.stdout)
    assert shown["request_id"] == request_id
    assert shown["labels"] == {"brand": "shown"}
