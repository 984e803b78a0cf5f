"""Feast, held against its own online store: which entities have features, and since when."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

import e2i_serving
from e2i_serving.exceptions import ConfigurationError
from e2i_serving.features import FeastFeatureStore, FeaturePolicy, TimedFeatureStore
from e2i_serving.testing import ServiceHarness

feast = pytest.importorskip("feast")

pytestmark = pytest.mark.filterwarnings("ignore")

CONFIGURATION = """
project: shop
provider: local
registry: {folder}/registry.db
online_store:
  type: sqlite
  path: {folder}/online.db
offline_store:
  type: file
entity_key_serialization_version: 3
"""


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Any:
    """A Feast repository on SQLite with fresh, stale, null and missing features."""
    import pandas as pd
    from feast import Entity, FeatureService, FeatureStore, FeatureView, Field, FileSource, RequestSource, ValueType
    from feast.on_demand_feature_view import on_demand_feature_view
    from feast.types import Float64, Int64

    folder = tmp_path_factory.mktemp("feast")
    (folder / "feature_store.yaml").write_text(CONFIGURATION.format(folder=folder))
    store = FeatureStore(repo_path=str(folder))
    customer = Entity(name="customer", join_keys=["customer_id"], value_type=ValueType.INT64)
    source = FileSource(path=str(folder / "usage.parquet"), timestamp_field="event_timestamp")
    usage = FeatureView(
        name="usage",
        entities=[customer],
        ttl=timedelta(hours=1),
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
            "customer_id": [1, 2, 3],
            "event_timestamp": [now, now - timedelta(hours=2), now],
            "created": [now] * 3,
            "calls": pd.array([3, 4, None], dtype="Int64"),
            "minutes": [1.5, 2.5, 4.0],
        }
    )
    store.write_to_online_store("usage", frame)
    return folder


def timed(repository: Any, service: str = "plain_v1", **options: Any) -> TimedFeatureStore:
    """An opened store."""
    return TimedFeatureStore(FeastFeatureStore(repository), service, refresh_seconds=0, timeout=30, **options)


def test_statuses_are_those_of_the_online_store(repository) -> None:
    """Fresh, stale, null and missing are what the rows of the online store say."""
    import sqlite3

    found = timed(repository).retrieve([{"customer_id": str(number)} for number in (1, 2, 3, 4)])
    assert found.error is None
    usage = found.provenance.views["usage"]
    assert usage.statuses == ("hit", "stale", "null", "missing")
    assert usage.outcomes == {"hit": 3, "stale": 2, "null": 1, "missing": 2}
    assert found.names == ("calls", "minutes")
    assert [list(row) for row in found.rows] == [[3, 1.5], [4, 2.5], [None, 4.0], [None, None]]
    with sqlite3.connect(repository / "online.db") as raw:
        (stored,) = raw.execute("SELECT count(DISTINCT entity_key) FROM shop_usage").fetchone()
    assert stored == sum(status != "missing" for status in usage.statuses)
    age = time.time() - usage.event_ns[1] / 1e9
    assert 7200 <= age < 7300


def test_computed_features_are_given(repository) -> None:
    """On-demand views get the request's data, and have no age."""
    store = timed(repository, "churn_v1")
    assert store.service.entities == ("customer_id",)
    assert store.service.request_data == ("amount",)
    found = store.retrieve([{"customer_id": 1, "amount": 3.0}])
    assert found.error is None
    assert list(found.rows[0]) == [1.5, 3, 2.0]
    assert found.provenance.features == ("usage:minutes", "usage:calls", "rate:per_minute")
    assert found.provenance.views["rate"].outcomes == {"hit": 1}


@pytest.mark.parametrize("row", [{}, {"customer_id": "a"}, {"customer_id": 1}])
def test_rows_that_do_not_fit_are_invalid(repository, row) -> None:
    """A key or request data that is missing, or of another type, is the caller's mistake."""
    found = timed(repository, "churn_v1").retrieve([row])
    assert found.error is not None
    assert found.error.kind == "invalid"


def test_the_registry_digest_follows_the_definition(repository) -> None:
    """Two services have two digests, and one has the same at each start."""
    digests = [timed(repository, name).service.registry for name in ("plain_v1", "churn_v1", "plain_v1")]
    assert digests[0] == digests[2] != digests[1]


def test_an_unknown_service_is_refused(repository) -> None:
    """A feature service that is not in the registry keeps the worker from starting."""
    with pytest.raises(ConfigurationError, match="churn_v9"):
        timed(repository, "churn_v9")


def test_a_service_is_served_from_feast(repository) -> None:
    """A request of entities is answered, and its provenance recorded."""

    @e2i_serving.service
    class Churn(e2i_serving.RegressionService):
        feature_names = ("calls", "minutes")
        feature_service = "plain_v1"
        feature_store = FeastFeatureStore(repository)
        feature_policies = {"usage": FeaturePolicy(missing="fail")}
        feature_timeout = 30.0

        def load(self) -> Any:
            class Sum:
                def predict(self, rows: Any) -> Any:
                    return np.asarray(rows).sum(axis=1)

            return Sum()

    with ServiceHarness(Churn) as churn:
        reply = churn.predict(entities=["1", "2"])
        assert reply.body["predictions"] == [4.5, 6.5]
        assert reply.record.feature_provenance.views["usage"].statuses == ("hit", "stale")
        refused = churn.predict(entities=[{"customer_id": 4}])
        assert refused.status == 422
        assert "usage:calls" in json.dumps(refused.body)
