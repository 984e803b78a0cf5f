"""Every exporter at once behind a served model: all arrives, each under one id, and the books say so."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from typer.testing import CliRunner

from e2i_serving.cli.application import app
from e2i_serving.relay import read_books
from e2i_serving.runtime.outcomes import OutcomeRecorder
from e2i_serving.testing import ExportReceiver, Fault, OpikReceiver

COMMAND = Path(sys.executable).with_name("e2i-serving")
ROW = [0.5, 1.0, -0.5, 0.25]
SECRET = "a secret of its own"
CALLER = {
    "opik_trace_id": "0192f7b0-5c1e-7d4a-9f1e-2b7c6c1e8a11",
    "opik_parent_span_id": "0192f7b0-5c1e-7d4a-9f1e-2b7c6c1e8a12",
}
EXPORTERS = {"opik", "jsonl", "webhook", "otlp-logs"}


@pytest.fixture
def receivers():
    """Where Opik, the webhook and the collector are."""
    with OpikReceiver() as opik, ExportReceiver() as hooked, ExportReceiver() as logged:
        yield opik, hooked, logged


def doctor(server, settings):
    """What the doctor says of the service, in its environment, and its exit code."""
    done = subprocess.run(
        [COMMAND, "doctor", "probe:Probe"],
        cwd=Path(__file__).with_name("services"),
        env={**os.environ, **settings, "E2I_SERVING_DATA_DIR": str(server.data_dir)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout


def logged_ids(logged):
    """How often each prediction's record arrived as a log record."""
    from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest

    bodies = (
        json.loads(record.body.string_value)
        for request in list(logged.requests)
        for resource in ExportLogsServiceRequest.FromString(request.body).resource_logs
        for scope in resource.scope_logs
        for record in scope.log_records
    )
    return Counter(body["prediction_id"] for body in bodies if body["kind"] == "prediction")


def hooked_events(hooked):
    """The events that arrived at the webhook."""
    return [event for each in list(hooked.requests) for event in each.json()]


def assert_delivered(server, receivers, lines, once, child):
    """Each prediction arrived everywhere, once; the books say so; all in Opik is in one project."""
    opik, hooked, logged = receivers
    assert opik.received == once
    assert Counter(each["prediction_id"] for each in lines) == once
    assert (
        Counter(each["subject"] for each in hooked_events(hooked) if each["type"] == "e2i_serving.prediction") == once
    )
    assert logged_ids(logged) == once
    outcomes = Counter(
        tag for trace in opik.traces.values() for tag in trace["tags"] if tag in {"ok", "invalid", "error"}
    )
    assert outcomes == {"ok": 21, "invalid": 20, "error": 20}
    assert {trace["project_name"] for trace in opik.traces.values()} == {"Probe"}
    assert {score["project_name"] for score in opik.scores.values()} == {"Probe"}
    (span,) = opik.spans.values()
    assert (span["trace_id"], span["parent_span_id"]) == tuple(CALLER.values())
    assert (span["metadata"]["prediction_id"], span["project_name"]) == (child, "Probe")
    books = {book.destination: book for book in read_books(server.data_dir)}
    assert books.keys() == {"audit-store", *EXPORTERS}
    for book in books.values():
        assert (book.accepted, book.stored, book.pending, book.dead_lettered) == (61, 61, 0, 0)
        assert book.balanced


def test_all_exporters_at_once(serve, model_home, receivers, tmp_path, eventually):
    """Predictions, outcomes and a caller's child arrive; the doctor sees each destination, well and ill."""
    opik, hooked, logged = receivers
    lines = tmp_path / "trail.jsonl"
    settings = {
        "BENTOML_HOME": str(model_home),
        "E2I_SERVING_OPIK_ENABLED": "true",
        "OPIK_URL_OVERRIDE": opik.url,
        "OPIK_API_KEY": "key",
        "E2I_SERVING_JSONL_PATH": str(lines),
        "E2I_SERVING_WEBHOOK_URL": hooked.url,
        "E2I_SERVING_WEBHOOK_SECRET": SECRET,
        "E2I_SERVING_OTLP_LOGS_ENABLED": "true",
        "E2I_SERVING_OTLP_LOGS_ENDPOINT": f"{logged.url}/v1/logs",
    }

    def ask(number):
        body = {0: {"instances": [ROW, ROW]}, 1: {"instances": [[1]]}}.get(
            number % 3, {"instances": [ROW], "attributes": {"do": "fail"}}
        )
        return server.predict({"X-Request-ID": f"r{number}"}, **body).headers["x-prediction-id"]

    with serve("probe:Probe", **settings) as server:
        with ThreadPoolExecutor(4) as pool:
            ids = list(pool.map(ask, range(60)))
        child = server.predict({"X-Request-ID": "child", **CALLER}, instances=[ROW]).headers["x-prediction-id"]
        once = Counter([*ids, child])

        def kinds(kind):
            return [each for line in lines.read_text().splitlines() if (each := json.loads(line))["kind"] == kind]

        eventually(lambda: opik.received.keys() >= once.keys(), what="all traces")
        eventually(lambda: lines.exists() and len(kinds("prediction")) >= len(once), what="all lines")
        eventually(lambda: len(hooked_events(hooked)) >= len(once), what="all events")
        eventually(lambda: logged_ids(logged).keys() >= once.keys(), what="all log records")

        for arguments in ([ids[0], "--item", "1"], ["--request-id", "r3", "--item", "0"]):
            of = ["outcomes", "add", *arguments, "--value", "true", "--data-dir", str(server.data_dir)]
            assert CliRunner().invoke(app, of).exit_code == 0
        with OutcomeRecorder.open(server.data_dir, allow_unknown=True) as recorder:
            recorder.record(request_id="child", name="quality", score=0.5, item=0)
        scores = {(ids[0], "truth[1]"), (ids[3], "truth[0]"), (child, "quality")}
        eventually(lambda: opik.scores.keys() >= scores, what="the feedback scores")
        eventually(lambda: len(kinds("outcome")) == 3, what="the outcomes' lines")
        eventually(lambda: all(book.pending == 0 for book in read_books(server.data_dir)), what="the books")

        shown = CliRunner().invoke(app, ["audit", "show", child, "--opik", "--data-dir", str(server.data_dir)])
        assert shown.exit_code == 0
        assert f"trace_id={child}" in shown.stdout

        code, said = doctor(server, settings)
        for name in ("audit-store", *EXPORTERS):
            assert f"ok     destinations: {name}\n" in said
        hooked.judge = logged.judge = opik.judge = lambda _request: Fault(401)
        code, said = doctor(server, settings)
        assert code == 1
        wrong = [line for line in said.splitlines() if line.startswith("WRONG")]
        assert len(wrong) == 3
        for name in ("opik", "webhook", "otlp-logs"):
            assert any(f"[destinations] {name}: " in line and "401" in line for line in wrong)
        assert "ok     destinations: jsonl\n" in said

    assert_delivered(server, receivers, kinds("prediction"), once, child)
