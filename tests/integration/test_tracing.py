"""Spans and error events arrive at real servers that nobody here wrote.

They want environments of their own, so these tests run only where ``E2I_TEST_RECEIVERS`` names a folder that has
them, called ``mlflow`` and ``bugsink`` after the one package that is installed in each.
"""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

RECEIVERS = os.environ.get("E2I_TEST_RECEIVERS", "")
pytestmark = pytest.mark.skipif(not RECEIVERS, reason="E2I_TEST_RECEIVERS is not set")

CALLS = [("sync", "work", 200), ("nested", "work", 200), ("coroutine", "invalid", 400), ("thread", "fail", 500)]

READ_SPANS = """
import json, sys
from mlflow import MlflowClient
found = MlflowClient(sys.argv[1]).search_traces(locations=["0"], max_results=100)
print(json.dumps([
    {"trace_id": span.trace_id, "span_id": span.span_id, "parent_id": span.parent_id, "name": span.name,
     "attributes": span.attributes}
    for trace in found for span in trace.data.spans
]))
"""
MAKE_PROJECT = """
from bsmain.models import AuthToken
from projects.models import Project
print("made", Project.objects.create(name="onward").dsn, AuthToken.create_full_access().token)
"""


def program(environment: str, name: str) -> str:
    """A program of one of the environments."""
    return str(Path(RECEIVERS, environment, "bin", name).absolute())


@contextmanager
def running(command, folder, url, eventually):
    """A server, from when it answers until the end of the block."""
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log, start_new_session=True)

    def ready() -> bool:
        assert process.poll() is None, (folder / "log").read_text()[-2000:]
        try:
            return httpx.get(url, timeout=5).status_code < 500
        except httpx.TransportError:
            return False

    try:
        eventually(ready, deadline=120, what=f"{url} to answer")
        yield
    finally:
        os.killpg(process.pid, 15)
        process.wait(30)


def ask(server):
    """Send each call, and return the answers."""
    answers = []
    for method, do, status in CALLS:
        answer = server.post(f"/{method}", json={"do": do})
        assert answer.status_code == status
        answers.append(answer)
    return answers


def test_complete_trees_arrive_at_mlflow(serve, tmp_path, free_port, eventually):
    """Every request's spans are there, its own, its phases', the called service's, each below its parent."""
    url = f"http://127.0.0.1:{free_port}"
    options = ["--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db", "--host", "127.0.0.1", "--workers", "1"]
    command = [program("mlflow", "mlflow"), "server", *options, "--port", str(free_port)]
    settings = {
        "E2I_SERVING_TRACE_EXPORTER": "otlp-http",
        "E2I_SERVING_TRACE_SAMPLE_RATE": "1",
        "E2I_SERVING_INSTRUMENT": '["httpx", "threads"]',
        "OTEL_EXPORTER_OTLP_ENDPOINT": url,
        "OTEL_EXPORTER_OTLP_HEADERS": "x-mlflow-experiment-id=0",
    }
    with running(command, tmp_path, f"{url}/health", eventually):
        with serve("onward:Onward", **settings) as server:
            answers = ask(server)

        def read():
            printed = subprocess.run(
                [program("mlflow", "python"), "-c", READ_SPANS, url], capture_output=True, text=True, check=True
            )
            return json.loads(printed.stdout.splitlines()[-1])

        spans = eventually(lambda: (found := read()) and len(found) > 4 * len(CALLS) and found, deadline=60)
    for answer, (method, _, _) in zip(answers, CALLS, strict=True):
        _, trace_id, span_id, _ = answer.headers["traceparent"].split("-")
        tree = {span["span_id"]: span for span in spans if trace_id in span["trace_id"]}
        own = tree[span_id]
        assert own["name"] == f"POST /{method}"
        assert own["attributes"]["e2i.request_id"] == answer.headers["x-request-id"]
        assert {span["parent_id"] for span in tree.values()} - set(tree) == {None}
        assert [each for each, span in tree.items() if span["parent_id"] is None] == [span_id]
        assert {"look up", "decode"} <= {span["name"] for span in tree.values()}
    nested = {span["name"] for span in spans if answers[1].headers["traceparent"].split("-")[1] in span["trace_id"]}
    assert "POST /below" in nested


def test_error_events_arrive_at_bugsink(serve, tmp_path, free_port, eventually):
    """The one request that failed by the service's fault is one event there, with its ids."""
    configure = [program("bugsink", "bugsink-create-conf"), "--template=local", "--host=127.0.0.1"]
    manage = [program("bugsink", "bugsink-manage")]
    for command in (
        [*configure, f"--port={free_port}"],
        [*manage, "migrate"],
        [*manage, "migrate", "--database=snappea"],
    ):
        subprocess.run(command, cwd=tmp_path, capture_output=True, check=True, timeout=120)
    made = subprocess.run(
        [*manage, "shell", "-c", MAKE_PROJECT], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=120
    )
    dsn, token = made.stdout.split("made ")[1].split()
    url = f"http://127.0.0.1:{free_port}"
    command = [program("bugsink", "gunicorn"), "--bind", f"127.0.0.1:{free_port}", "bugsink.wsgi"]
    with running(command, tmp_path, f"{url}/health/ready", eventually):
        with serve("onward:Onward", SENTRY_DSN=dsn) as server:
            answers = ask(server)

        def read(path):
            answer = httpx.get(f"{url}/api/canonical/0/{path}", headers={"Authorization": f"Bearer {token}"})
            answer.raise_for_status()
            return answer.json()

        (issue,) = eventually(lambda: read("issues/?project=1")["results"], deadline=60)
        (event,) = read(f"events/?issue={issue['id']}")["results"]
        data = read(f"events/{event['id']}/")["data"]
    failed = answers[-1]
    assert data["exception"]["values"][-1]["value"] == "the model broke"
    assert data["tags"]["request_id"] == failed.headers["x-request-id"]
    assert data["tags"]["prediction_id"] == failed.headers["x-prediction-id"]
    assert data["contexts"]["trace"]["span_id"] == failed.headers["traceparent"].split("-")[2]
