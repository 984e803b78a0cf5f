"""Feast, held against its own online stores: which entities have features, and since when."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
import time
from contextlib import ExitStack, closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from feast_instance import redis_server, require

import e2i_serving
from e2i_serving.exceptions import ConfigurationError
from e2i_serving.features import FeastFeatureStore, FeaturePolicy, TimedFeatureStore
from e2i_serving.testing import ServiceHarness

feast = require("feast")

pytestmark = pytest.mark.filterwarnings("ignore")

CONFIGURATION = """
project: shop
provider: local
registry: {folder}/registry.db
online_store:
  type: {kind}
  {where}
offline_store:
  type: file
entity_key_serialization_version: 3
"""
TTL_SECONDS = 3600
CUSTOMERS = (1, 2, 3, 4, 5, 6)


class Repository:
    """A Feast repository, and a way into its online store that is not Feast's.

    Args:
        folder: Where it is.
        redis: Where its online store is; SQLite in the folder if nothing.
    """

    def __init__(self, folder: Path, redis: Any = None) -> None:
        self.folder = folder
        self.redis = redis
        self.kind = "redis" if redis else "sqlite"
        where = f"connection_string: {redis.connection_string}" if redis else f"path: {folder}/online.db"
        configuration = CONFIGURATION.format(folder=folder, kind=self.kind, where=where)
        (folder / "feature_store.yaml").write_text(configuration)

    def raw(self, customer: int) -> dict[str, tuple[Any, float]]:
        """What the online store holds of a customer: each value, and since when, by feature."""
        from feast.infra.key_encoding_utils import serialize_entity_key
        from feast.protos.feast.types.EntityKey_pb2 import EntityKey
        from feast.protos.feast.types.Value_pb2 import Value

        entity = EntityKey(join_keys=["customer_id"], entity_values=[Value(int64_val=customer)])
        key = serialize_entity_key(entity, entity_key_serialization_version=3)
        rows = self._redis_rows(key) if self.redis else self._sqlite_rows(key)
        found = {}
        for name, content, seconds in rows:
            value = Value.FromString(content)
            kind = value.WhichOneof("val")
            found[name] = (getattr(value, kind) if kind else None, seconds)
        return found

    def _sqlite_rows(self, key: bytes) -> list[tuple[str, bytes, float]]:
        with closing(sqlite3.connect(self.folder / "online.db")) as raw:
            rows = raw.execute("SELECT feature_name, value, event_ts FROM shop_usage WHERE entity_key = ?", (key,))
            return [
                # Feast writes UTC as if it were local time, and reads it likewise.
                (name, value, datetime.fromtimestamp(event).replace(tzinfo=UTC).timestamp())  # noqa: DTZ006
                for name, value, event in rows.fetchall()
            ]

    def _redis_rows(self, key: bytes) -> list[tuple[str, bytes, float]]:
        import mmh3
        import redis
        from google.protobuf.timestamp_pb2 import Timestamp

        with redis.Redis(port=self.redis.port) as raw:
            stored = raw.hgetall(key + b"shop")
        if not stored:
            return []
        event = Timestamp.FromString(stored[b"_ts:usage"])
        names = {mmh3.hash(f"usage:{name}", signed=False).to_bytes(4, "little"): name for name in ("calls", "minutes")}
        seconds = event.seconds + event.nanos / 1e9
        return [(names[field], value, seconds) for field, value in stored.items() if field in names]


@pytest.fixture(scope="module", params=["sqlite", "redis"])
def repository(request, tmp_path_factory) -> Any:
    """A Feast repository with fresh, stale, null and missing features, on one of the online stores."""
    folder = tmp_path_factory.mktemp("feast")
    if request.param == "sqlite":
        yield fill(Repository(folder))
        return
    with redis_server(tmp_path_factory.mktemp("redis")) as redis:
        yield fill(Repository(folder, redis))


def fill(made: Repository) -> Repository:
    """Define features, and write some."""
    import pandas as pd
    from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, RequestSource, ValueType
    from feast.on_demand_feature_view import on_demand_feature_view
    from feast.types import Float64, Int64

    folder = made.folder
    store = FeatureStore(repo_path=str(folder))
    customer = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.INT64)
    source = FileSource(path=str(folder / "usage.parquet"), timestamp_field="event_timestamp")
    usage = FeatureView(
        name="usage",
        entities=[customer],
        ttl=timedelta(seconds=TTL_SECONDS),
        schema=[Field(name="calls", dtype=Int64), Field(name="minutes", dtype=Float64)],
        source=source,
    )
    basket = RequestSource(name="basket", schema=[Field(name="amount", dtype=Float64)])

    def rate(inputs: dict[str, Any]) -> dict[str, Any]:
        pairs = zip(inputs["amount"], inputs["minutes"], strict=True)
        return {"per_minute": [a / m if m else None for a, m in pairs]}

    rates = on_demand_feature_view(
        sources=[usage, basket], schema=[Field(name="per_minute", dtype=Float64)], mode="python"
    )(rate)
    churn = FeatureService(name="churn_v1", features=[usage[["minutes", "calls"]], rates])
    plain = FeatureService(name="plain_v1", features=[usage])
    pd.DataFrame(
        {"customer_id": [0], "event_timestamp": [datetime.now(UTC)], "calls": [1], "minutes": [1.0]}
    ).to_parquet(folder / "usage.parquet")
    store.apply([customer, usage, rates, churn, plain])
    now = datetime.now(UTC)
    frame = pd.DataFrame(
        {
            "customer_id": [1, 2, 3, 5, 6],
            "event_timestamp": [now, now - timedelta(hours=2), now, now - timedelta(days=400), now],
            "created": [now] * 5,
            "calls": pd.array([3, 4, None, None, 0], dtype="Int64"),
            "minutes": [1.5, 2.5, 4.0, 5.5, 0.0],
        }
    )
    store.write_to_online_store("usage", frame)
    online: Any = store.provider.online_store
    (online._client if made.redis else online._conn).close()
    return made


@pytest.fixture
def timed() -> Any:
    """Opens stores, and closes them."""
    with ExitStack() as stack:

        def opened(repository: Any, service: str = "plain_v1", timeout: float = 30) -> TimedFeatureStore:
            store = FeastFeatureStore(repository.folder)
            made = TimedFeatureStore(store, service, refresh_seconds=0, timeout=timeout)
            stack.callback(made.close)
            return made

        yield opened


def test_statuses_are_those_of_the_online_store(repository, timed) -> None:
    """Fresh, stale, null and missing are what the online store holds, value by value, and so are values and times."""
    found = timed(repository).retrieve([{"customer_id": str(number)} for number in CUSTOMERS])
    assert found.error is None
    usage = found.provenance.views["usage"]
    now = time.time()
    counted: dict[str, int] = {}
    worst = []
    for at, customer in enumerate(CUSTOMERS):
        raw = repository.raw(customer)
        statuses = []
        for value, name in zip(found.rows[at], found.names, strict=True):
            stored, seconds = raw.get(name, (None, 0.0))
            assert value == stored
            status = "missing" if not seconds else "null" if stored is None else "hit"
            if status == "hit" and seconds < now - TTL_SECONDS:
                status = "stale"
            statuses.append(status)
            counted[status] = counted.get(status, 0) + 1
        worst.append(next(each for each in ("missing", "null", "stale", "hit") if each in statuses))
        stamps = {seconds for _, seconds in raw.values()} or {0.0}
        assert usage.event_ns[at] / 1e9 == pytest.approx(min(stamps), abs=1e-3)
    assert (usage.outcomes, usage.statuses) == (counted, tuple(worst))
    # And that is what was written.
    assert usage.statuses == ("hit", "stale", "null", "missing", "null", "hit")
    assert usage.outcomes == {"hit": 5, "stale": 3, "null": 2, "missing": 2}
    assert [list(row) for row in found.rows] == [[3, 1.5], [4, 2.5], [None, 4.0], [None, None], [None, 5.5], [0, 0.0]]


def test_the_online_store_keeps_the_time(repository, timed) -> None:
    """SQLite and Redis are told how long they may take, so that they are asked in the request's own thread."""
    store = timed(repository)
    assert store.service.keeps_time
    assert all(store.retrieve([{"customer_id": 1}]).error is None for _ in range(3))


def test_a_store_that_hangs_or_is_down_is_told_apart(tmp_path, timed) -> None:
    """A Redis that hangs is too slow, one that is gone is unavailable, and one that is back is asked again."""
    with redis_server(tmp_path) as redis:
        (folder := tmp_path / "repository").mkdir()
        made = fill(Repository(folder, redis))
        store = timed(made, timeout=0.5)

        def kind() -> str:
            return store.retrieve([{"customer_id": 1}]).provenance.error_type

        assert (kind(), kind()) == ("", "")
        redis.hang()
        assert (kind(), kind()) == ("timeout", "unavailable")  # the second does not wait
        redis.go_on()
        until(lambda: kind() == "")
        redis.kill()
        assert (kind(), kind()) == ("unavailable", "unavailable")
        redis.start()
        until(lambda: kind() == "")
        assert list(store.retrieve([{"customer_id": 1}]).rows[0]) == [3, 1.5]


def until(condition: Any) -> None:
    """Wait until a condition holds."""
    end = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < end


def test_computed_features_are_given(repository, timed) -> None:
    """On-demand views get the request's data, and have no age."""
    store = timed(repository, "churn_v1")
    assert store.service.entities == ("customer_id",)
    assert store.service.request_data == ("amount",)
    found = store.retrieve([{"customer_id": 1, "amount": 3.0}])
    assert found.error is None
    assert list(found.rows[0]) == [1.5, 3, 2.0]
    assert found.provenance.features == ("usage:minutes", "usage:calls", "rate:per_minute")
    assert found.provenance.views["rate"].outcomes == {"hit": 1}


@pytest.mark.parametrize(
    "row",
    [
        {},
        {"customer_id": "a", "amount": 3.0},
        {"customer_id": "1_0", "amount": 3.0},
        {"customer_id": " 1", "amount": 3.0},
        {"customer_id": 1},
    ],
)
def test_rows_that_do_not_fit_are_invalid(repository, timed, row) -> None:
    """A key or request data that is missing, or of another type, is the caller's mistake."""
    found = timed(repository, "churn_v1").retrieve([row])
    assert found.error is not None
    assert found.error.kind == "invalid"


def test_the_registry_digest_follows_the_definition(repository, timed) -> None:
    """Two services have two digests, and one has the same at each start."""
    digests = [timed(repository, name).service.registry for name in ("plain_v1", "churn_v1", "plain_v1")]
    assert digests[0] == digests[2] != digests[1]


def test_the_registry_digest_is_the_same_in_every_process(repository):
    """Whatever order the sets have there."""
    code = (
        "import sys; from e2i_serving.features import FeastFeatureStore; "
        "print(FeastFeatureStore(sys.argv[1]).open(sys.argv[2], 1.0).registry)"
    )
    found = set()
    for seed in ("1", "2", "3"):
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code, repository.folder, "churn_v1"],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        )
        found.add(done.stdout.split()[-1])
    assert len(found) == 1


def test_an_unknown_service_is_refused(repository, timed) -> None:
    """A feature service that is not in the registry keeps the worker from starting."""
    with pytest.raises(ConfigurationError, match="churn_v9"):
        timed(repository, "churn_v9")


def test_a_service_is_served_from_feast(repository) -> None:
    """A request of entities is answered, and its provenance recorded."""

    @e2i_serving.service
    class Churn(e2i_serving.RegressionService):
        feature_names = ("calls", "minutes")
        feature_service = "plain_v1"
        feature_store = FeastFeatureStore(repository.folder)
        feature_policies = {"usage": FeaturePolicy(missing="fail")}
        feature_timeout = 30.0

        def load(self) -> Any:
            return Sum()

    with ServiceHarness(Churn) as churn:
        reply = churn.predict(entities=["1", "2"])
        assert reply.body["predictions"] == [4.5, 6.5]
        assert reply.record.feature_provenance.views["usage"].statuses == ("hit", "stale")
        refused = churn.predict(entities=[{"customer_id": 4}])
        assert refused.status == 422
        assert "usage:calls" in json.dumps(refused.body)


def test_a_service_may_predict_without_its_store(tmp_path) -> None:
    """Where the policy is a default, it takes the place of what a store that hangs does not give, and is on record."""
    with redis_server(tmp_path) as redis:
        (folder := tmp_path / "repository").mkdir()

        @e2i_serving.service
        class Churn(e2i_serving.RegressionService):
            feature_names = ("calls", "minutes")
            feature_service = "plain_v1"
            feature_store = FeastFeatureStore(fill(Repository(folder, redis)).folder)
            feature_policies = {"usage": FeaturePolicy(unavailable="default", defaults={"calls": 7, "minutes": 0.5})}
            feature_timeout = 0.5

            def load(self) -> Any:
                return Sum()

        with ServiceHarness(Churn) as churn:
            assert churn.predict(entities=["1"]).body["predictions"] == [4.5]
            redis.hang()
            reply = churn.predict(entities=["1", "2"])
            assert (reply.status, reply.body["predictions"]) == (200, [7.5, 7.5])
            assert reply.record.feature_provenance.error_type == "timeout"
            redis.go_on()
            until(lambda: churn.predict(entities=["1"]).body["predictions"] == [4.5])


class Sum:
    """A model of no framework."""

    def predict(self, rows: Any) -> Any:
        return np.asarray(rows).sum(axis=1)
