"""Services whose features are fetched: what they take, answer, record and count."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

import e2i_serving
from e2i_serving.cli.application import app
from e2i_serving.cli.printing import iso_time
from e2i_serving.exceptions import FeatureError, ServiceDefinitionError
from e2i_serving.features import FeaturePolicy, InMemoryFeatureStore
from e2i_serving.testing import ServiceHarness

STORE = InMemoryFeatureStore()
STORE.define("churn_v1", ("customer",), ("usage:calls", "usage:minutes", "plan:price"), ttl={"usage": 3600})
STORE.put("usage", {"customer": "c1"}, {"calls": 3, "minutes": 1.5})
STORE.put("plan", {"customer": "c1"}, {"price": 9.0}, event_ns=time.time_ns() - 10**12)
STORE.put("usage", {"customer": "c2"}, {"calls": 5, "minutes": 2.5})
STORE.put("usage", {"customer": "c0"}, {"calls": None, "minutes": 2.5})
STORE.put("usage", {"customer": "old"}, {"calls": 5, "minutes": 2.5}, event_ns=time.time_ns() - 2 * 3_600_000_000_000)


class Sum:
    """A model by no framework."""

    n_features_in_ = 3

    def predict(self, rows: Any) -> Any:
        return np.nan_to_num(np.asarray(rows)).sum(axis=1)


@e2i_serving.service
class Churn(e2i_serving.RegressionService):
    """Takes customers; the price, the store and the caller's basket make up the features."""

    feature_names = ("price", "basket", "calls")
    feature_service = "churn_v1"
    feature_store = STORE
    feature_policies = {"usage": FeaturePolicy(missing="fail", null="fail", stale="fail")}

    def load(self) -> Any:
        return Sum()


@pytest.fixture
def churn():
    """The service, running."""
    with ServiceHarness(Churn) as running:
        yield running


def test_entities_take_the_place_of_instances(churn) -> None:
    """Features are fetched by entity, beside what only the caller knows, and their provenance is on record."""
    reply = churn.predict(entities=["c1", "c2"], instances=[{"basket": 1.0}, {"basket": 2.0}])
    assert reply.status == 200
    assert reply.body["predictions"] == [13.0, 7.0]
    found = reply.record.feature_provenance
    assert (found.store, found.service, found.error_type) == ("memory", "churn_v1", "")
    assert found.views["plan"].statuses == ("hit", "missing")
    assert list(reply.record.entities) == ["customer"]
    with churn.trail() as trail:
        (row,) = trail.query(entity="customer=c2")
    assert row["feature_provenance"]["views"]["usage"]["outcomes"] == {"hit": 4}
    assert row["item_rows"][0]["inputs"] == {"price": 9.0, "basket": 1.0, "calls": 3.0}


class Mixed(Churn.inner):
    """The same, with features of any type."""

    feature_dtype = object


def test_a_subclass_takes_entities_all_the_same():
    """That features may be strings does not take away whom they are fetched for."""
    with ServiceHarness(e2i_serving.service(Mixed)) as running:
        reply = running.predict(entities=["c1"], instances=[{"basket": 1.0}])
    assert (reply.status, reply.body["predictions"]) == (200, [13.0])


def test_the_command_shows_where_features_came_from(tmp_path) -> None:
    """The table has store, service, registry and counts by view, and for each item how old its values were."""
    with ServiceHarness(Churn, observability={"data_dir": str(tmp_path)}) as churn:
        reply = churn.predict(entities=["c1", "c2"], instances=[{"basket": 1.0}, {"basket": 2.0}])
        churn.trail().close()
    made = reply.record
    event = iso_time(made.feature_provenance.views["plan"].event_ns[0])
    shown = CliRunner().invoke(app, ["audit", "show", made.prediction_id, "--data-dir", str(tmp_path)]).stdout
    lines = [" ".join(line.split()) for line in shown.splitlines()]
    features = lines.index("Features")
    item, other = lines.index("Item 0"), lines.index("Item 1")
    assert features < item
    for line in ("store memory", "service churn_v1", f"registry {made.feature_provenance.registry}"):
        assert line in lines[features:item]
    assert {"usage 4 hit", "plan 1 hit, 1 missing"} <= set(lines[features:item])
    (line,) = [line for line in lines[item:other] if line.startswith("plan")]
    assert line.startswith(f"plan hit, of {event}, ")
    assert line.endswith(" min old")
    assert [line for line in lines[other:] if line.startswith("plan")] == ["plan missing"]


@pytest.mark.parametrize(
    ("body", "where"),
    [
        ({"instances": [[5, "a", 1]]}, ["instances", 0, 1]),
        ({"instances": [[5, 1, 1], [5, "7", 1]]}, ["instances", 1, 1]),
        ({"instances": [{"calls": True, "minutes": 1, "price": 1, "basket": 1}]}, ["instances", 0, "calls"]),
        ({"entities": ["c1"], "instances": [{"basket": "7"}]}, ["instances", 0, "basket"]),
        ({"entities": ["c1"], "instances": [[1, 2, 3], "ab"]}, ["entities"]),
    ],
)
def test_text_is_no_number(churn, body, where) -> None:
    """What is sent is refused where the model takes numbers, with its place."""
    reply = churn.predict(**body)
    assert (reply.status, reply.record.outcome) == (400, "invalid")
    assert reply.body["detail"][0]["loc"] == where


def test_text_from_the_store_is_not_the_callers_mistake() -> None:
    """A feature of another type than the model's is an error of the service."""
    STORE.put("plan", {"customer": "c3"}, {"price": "dear"})
    STORE.put("usage", {"customer": "c3"}, {"calls": 3, "minutes": 1.5})
    with ServiceHarness(Churn) as churn:
        reply = churn.predict(entities=["c3"], instances=[{"basket": 1.0}])
    assert (reply.status, reply.record.outcome) == (500, "error")


def test_whole_instances_are_predicted_as_they_are(churn) -> None:
    """Nothing is fetched where the caller gives the features, and a part of them is refused."""
    reply = churn.predict(instances=[[1.0, 2.0, 3.0]])
    assert (reply.status, reply.body["predictions"], reply.record.feature_provenance) == (200, [6.0], None)
    refused = churn.predict(entities=["c1"], instances=[{"basket": 1.0, "price": 2.0}])
    assert refused.status == 400
    assert "fetched by entity" in json.dumps(refused.body)


@pytest.mark.parametrize("body", [{}, {"instances": [{"basket": 1.0}]}, {"entities": [{"customer_id": "c1"}]}])
def test_a_request_without_entities_is_refused(churn, body) -> None:
    """What names nobody is the caller's mistake."""
    reply = churn.predict(**body)
    assert (reply.status, reply.record.outcome) == (400, "invalid")


@pytest.mark.parametrize(("customer", "kind"), [("nobody", "missing"), ("c0", "null"), ("old", "stale")])
def test_an_entity_is_refused_by_its_policy(churn, customer, kind) -> None:
    """The answer and the record name the feature, and the record says how it was fetched."""
    reply = churn.predict(entities=["c1", customer], instances=[{"basket": 1.0}] * 2)
    said = f"The feature usage:calls of entity 1 is {kind}."
    assert (reply.status, reply.body) == (422, {"error": said, "detail": {"type": kind, "features": ["usage:calls"]}})
    record = reply.record
    assert (record.outcome, record.error_type, record.error_message) == ("invalid", "e2i_serving.FeaturesRefused", said)
    assert record.feature_provenance.views["usage"].statuses == ("hit", kind)


def raising(error: Exception) -> Any:
    """A store's answer that is none."""

    def get_online_features(*_: Any) -> Any:
        raise error

    return get_online_features


@pytest.mark.parametrize("kind", ["unavailable", "timeout", "overloaded"])
def test_a_store_that_can_not_be_had_is_an_error_of_the_service(churn, monkeypatch, kind) -> None:
    """The answer and the record name the view; the request was not rejected, so availability counts it."""
    error = ConnectionResetError("gone") if kind == "unavailable" else FeatureError("The store is too slow.", kind)
    monkeypatch.setattr(STORE, "get_online_features", raising(error))
    reply = churn.predict(entities=["c1"], instances=[{"basket": 1.0}])
    assert reply.status == 503
    assert reply.body["detail"] == {"type": kind, "features": ["usage:calls", "usage:minutes", "plan:price"]}
    assert "The features of usage, plan are needed" in reply.body["error"]
    record = reply.record
    assert (record.outcome, record.error_type) == ("error", "e2i_serving.FeaturesRefused")
    assert record.error_message == reply.body["error"]
    assert record.feature_provenance.error_type == kind
    text = churn.request("GET", "/metrics").body
    assert f'e2i_feature_errors_total{{type="{kind}"}} 1' in text
    assert 'e2i_predictions_total{model="Churn",version="",task="regression",outcome="error"} 1' in text
    monkeypatch.undo()
    assert churn.predict(entities=["c1"], instances=[{"basket": 1.0}]).status == 200


def test_retrievals_are_counted(churn) -> None:
    """Duration, outcomes and age are at /metrics."""
    churn.predict(entities=["c1"] * 20, instances=[{"basket": 1.0}] * 20)
    text = churn.request("GET", "/metrics").body
    assert 'e2i_feature_retrieval_duration_seconds_count{store="memory",service="churn_v1"} 1' in text
    assert 'e2i_feature_retrieval_entities_sum{store="memory",service="churn_v1"} 20' in text
    assert 'e2i_feature_outcomes_total{view="usage",outcome="hit"} 40' in text
    assert 'e2i_feature_age_seconds_count{view="plan"} 20' in text
    assert 'e2i_feature_age_seconds_bucket{view="plan",le="600"} 0' in text.replace('.0"', '"')


def test_the_schema_shows_entities(churn) -> None:
    """The documentation of the API says that entities are taken, and instances need not be given."""
    document = churn.request("GET", "/docs.json").body
    (body,) = (
        each for name, each in document["components"]["schemas"].items() if name.endswith("PredictionRequestBody")
    )
    entities = body["properties"]["entities"]
    assert "an object of the feature service's keys" in entities["description"]
    assert entities["items"]["required"] == ["customer"]
    assert list(entities["items"]["properties"]) == ["customer"]
    assert body["example"] == {"entities": [{"customer": "1"}]}
    assert "PredictionRequest" not in other_schema()


def other_schema() -> str:
    """The schema of a service with other keys, which this one's did not change."""

    @e2i_serving.service
    class Other(e2i_serving.RegressionService):
        feature_service = "churn_v1"
        feature_store = STORE

    return json.dumps(Other.inner.predict.input_spec.model_json_schema()["properties"]["entities"].get("items", ""))


def test_a_half_declared_store_is_refused() -> None:
    """A service with a feature service and no store is a mistake, and so is a store that is none."""
    with pytest.raises(ServiceDefinitionError, match="needs both feature_service"):

        class Half(e2i_serving.RegressionService):
            feature_service = "churn_v1"

    with pytest.raises(ServiceDefinitionError, match="is no feature store"):

        class Wrong(e2i_serving.RegressionService):
            feature_service = "churn_v1"
            feature_store = "feature_repo"
