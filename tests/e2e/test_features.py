"""A service whose features are in Feast, served by two workers: what it answers, records and counts, come what may."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from feast_instance import redis_server, require

require("feast")

REDIS_STORE = """  type: redis
  connection_string: {where}
"""
UNUSUAL = {"198": "null", "199": "stale", "200": "missing"}
TIMEOUT = 0.5
PATIENCE = 240.0
"""Seconds that workers may take to start: each imports Feast, which takes ten of a processor that has nothing else."""


@pytest.fixture(scope="module")
def prepare(project_root: Path, model_home: Path, tmp_path_factory: Any) -> Callable[..., Path]:
    """Makes a copy of the example, its features materialised and its model trained."""

    def make(online_store: str = "", **changes: str) -> Path:
        folder: Path = tmp_path_factory.mktemp("feast") / "example"
        shutil.copytree(project_root / "examples" / "feast", folder, ignore=shutil.ignore_patterns("data"))
        configuration = folder / "feature_repo" / "feature_store.yaml"
        if online_store:
            text = re.sub(r"(online_store:\n)(  .*\n)+", rf"\g<1>{online_store}", configuration.read_text())
            configuration.write_text(text)
        service = folder / "service.py"
        for attribute, value in changes.items():
            service.write_text(f"{service.read_text()}    {attribute} = {value}\n")
        environment = {**os.environ, "BENTOML_HOME": str(model_home)}
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "train.py"], cwd=folder, env=environment, capture_output=True, check=False
        )
        assert done.returncode == 0, done.stderr.decode()
        return folder

    return make


@pytest.fixture(scope="module")
def churn(prepare: Any, serve: Any) -> Iterator[Any]:
    """The example on SQLite, as it is."""
    with serve("service:FeastChurn", folder=prepare(), patience=PATIENCE) as server:
        yield server


def two_workers(server: Any, eventually: Any) -> set[int]:
    """The ids of the workers' processes: there are two, once nothing that they start looks like them."""
    found: set[int] = eventually(
        lambda: len(them := {process.pid for process in server.workers()}) == 2 and them, what="two workers"
    )
    return found


def ask(server: Any, *customers: int, request_id: str = "") -> httpx.Response:
    """Ask for customers, at one price."""
    response: httpx.Response = server.predict(
        {"x-request-id": request_id} if request_id else None,
        entities=[{"customer_id": number} for number in customers],
        instances=[{"price": 30.0}] * len(customers),
    )
    return response


def metric(server: Any, name: str) -> float:
    """The value of a series at ``/metrics``; 0 when it is not there."""
    text = httpx.get(server.url + "/metrics", timeout=10).text
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found.group(1)) if found else 0.0


def row_of(server: Any, request_id: str, eventually: Any) -> dict[str, Any]:
    """The one row of a request, once it is stored."""
    with server.trail() as trail:
        (found,) = eventually(lambda: trail.find(request_id), what=f"the row of {request_id}")
    return dict(found)


def test_a_request_of_entities_is_answered_and_explained(churn, eventually) -> None:
    """Features are fetched by entity; the row says which, from where, since when, and what became of each value."""
    two_workers(churn, eventually)
    before = time.time_ns()
    answer = ask(churn, 1, 198, 199, request_id="mixed-1")
    assert answer.status_code == 200, answer.text
    assert len(answer.json()["predictions"]) == 3
    row = row_of(churn, "mixed-1", eventually)
    provenance = row["feature_provenance"]
    assert (provenance["store"], provenance["service"]) == ("feast", "churn_v1")
    assert provenance["features"] == ["usage:calls", "usage:minutes", "rates:price_per_minute"]
    assert len(provenance["registry"]) == 64
    usage = provenance["views"]["usage"]
    assert usage["statuses"] == ["hit", "null", "stale"]
    assert usage["outcomes"] == {"hit": 3, "null": 1, "stale": 2}
    ages = [(before - event) / 1e9 for event in usage["event_ns"]]
    assert 0 < ages[0] < 3600
    assert 6 * 86400 < ages[2] < 8 * 86400
    first, second, _ = row["item_rows"]
    assert first["entity"] == {"customer_id": 1}
    assert set(first["inputs"]) == {"calls", "minutes", "price_per_minute"}
    assert first["inputs"]["price_per_minute"] == pytest.approx(30.0 / first["inputs"]["minutes"])
    assert second["inputs"]["minutes"] == 60.0
    assert row["lineage"]["feature_service"] == "churn_v1"
    assert row["lineage"]["training_data"].startswith("usage@")


def test_an_unknown_entity_is_refused_by_name(churn, eventually) -> None:
    """The policy's 422 names the feature, in the answer and in the row."""
    answer = ask(churn, 200, request_id="unknown-1")
    said = "The feature usage:calls of entity 0 is missing."
    assert (answer.status_code, answer.json()["error"]) == (422, said)
    row = row_of(churn, "unknown-1", eventually)
    assert (row["outcome"], row["error_message"]) == ("invalid", said)
    assert row["feature_provenance"]["views"]["usage"]["statuses"] == ["missing"]


def test_retrievals_are_measured(churn, eventually) -> None:
    """Latency, entities, outcomes, age, cache and errors are at ``/metrics``, of both workers together."""
    labels = 'store="feast",service="churn_v1"'
    before = metric(churn, f"e2i_feature_retrieval_duration_seconds_count{{{labels}}}")
    entities = metric(churn, f"e2i_feature_retrieval_entities_sum{{{labels}}}")
    ask(churn, *range(20, 40))
    assert metric(churn, f"e2i_feature_retrieval_duration_seconds_count{{{labels}}}") == before + 1
    assert metric(churn, f"e2i_feature_retrieval_entities_sum{{{labels}}}") == entities + 20
    eventually(lambda: ask(churn, 41) and metric(churn, 'e2i_feature_cache_total{outcome="hit"}'), what="a cache hit")
    assert metric(churn, 'e2i_feature_cache_total{outcome="miss"}') >= 20
    for customer in UNUSUAL:
        ask(churn, int(customer))
    for outcome in ("hit", "null", "stale", "missing"):
        assert metric(churn, f'e2i_feature_outcomes_total{{view="usage",outcome="{outcome}"}}') > 0, outcome
    assert metric(churn, 'e2i_feature_age_seconds_count{view="usage"}') > 20
    assert metric(churn, 'e2i_feature_age_seconds_count{view="rates"}') == 0
    wrong = churn.predict(entities=[{"customer_id": "no number"}], instances=[{"price": 1.0}])
    assert (wrong.status_code, wrong.json()["detail"]["type"]) == (422, "invalid")
    assert metric(churn, 'e2i_feature_errors_total{type="invalid"}') == 1


def test_the_schema_shows_the_entity_keys(churn) -> None:
    """OpenAPI says which keys an entity has, and which data the request gives beside them."""
    schemas = httpx.get(churn.url + "/docs.json", timeout=10).json()["components"]["schemas"]
    body = schemas["EntityPredictionRequestBody"]
    assert body["properties"]["entities"]["items"]["required"] == ["customer_id"]
    assert body["example"] == {"entities": [{"customer_id": "1"}], "instances": [{"price": 0}]}


@contextmanager
def on_redis(prepare: Any, serve: Any, tmp_path: Path) -> Iterator[tuple[Any, Any]]:
    """The example on Redis, without a cache."""
    with redis_server(tmp_path) as redis:
        where = REDIS_STORE.format(where=redis.connection_string)
        folder = prepare(where, feature_timeout=str(TIMEOUT), feature_cache_seconds="0.0")
        with serve("service:FeastChurn", folder=folder, patience=PATIENCE) as server:
            yield server, redis


def test_a_store_that_hangs_or_dies_is_survived(prepare, serve, tmp_path, eventually) -> None:
    """Requests are refused within the timeout and on record as errors; the service lives, and recovers by itself."""
    with on_redis(prepare, serve, tmp_path) as (server, redis):
        for number in range(8):  # both workers have asked it
            assert ask(server, 1 + number).status_code == 200
        workers = two_workers(server, eventually)

        redis.hang()
        for number in range(6):
            began = time.monotonic()
            answer = ask(server, 1, request_id=f"hung-{number}")
            taken = time.monotonic() - began
            kind = answer.json()["detail"]["type"]
            # A worker that waited in vain leaves the store alone for a while, and refuses at once.
            assert (answer.status_code, kind in ("timeout", "unavailable")) == (503, True), answer.text
            assert "usage" in answer.json()["error"]
            assert taken < 10 * TIMEOUT
            if number == 0:
                assert kind == "timeout"
                assert taken > TIMEOUT * 0.9
        row = row_of(server, "hung-0", eventually)
        assert (row["outcome"], row["status"]) == ("error", 503)
        assert "The features of usage, rates are needed" in row["error_message"]
        assert row["feature_provenance"]["error_type"] == "timeout"
        assert httpx.get(server.url + "/readyz", timeout=10).status_code == 200
        redis.go_on()
        eventually(lambda: all(ask(server, 2).status_code == 200 for _ in range(4)), what="recovery from a hang")

        redis.kill()
        for number in range(6):
            answer = ask(server, 1, request_id=f"dead-{number}")
            assert (answer.status_code, answer.json()["detail"]["type"]) == (503, "unavailable"), answer.text
        assert row_of(server, "dead-0", eventually)["feature_provenance"]["error_type"] == "unavailable"
        redis.start()
        eventually(lambda: all(ask(server, 3).status_code == 200 for _ in range(4)), what="recovery from a death")

        assert two_workers(server, eventually) == workers
        assert metric(server, 'e2i_feature_errors_total{type="timeout"}') >= 1
        assert metric(server, 'e2i_feature_errors_total{type="unavailable"}') >= 6
