"""The service bases: what the steps of a prediction make of a request, without a server."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pytest
from gathered import Seen, started
from pydantic import ValidationError
from sklearn.linear_model import LogisticRegression

from e2i_serving.record import Column, Constant, ModelInfo, Outcome
from e2i_serving.runtime.observation import annotate
from e2i_serving.services import (
    CausalEstimate,
    CausalService,
    ClassificationService,
    RegressionEstimate,
    RegressionService,
)
from e2i_serving.services.requests import MixedPredictionRequestBody, decode

pytestmark = pytest.mark.filterwarnings("ignore:X does not have valid feature names")

ROWS = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 1.0], [3.0, 0.0]])


class Doubling(RegressionService):
    """A regression by no framework."""

    label_names = ("brand",)

    def load(self) -> Any:
        class Model:
            n_features_in_ = 2

            def predict(self, rows: Any) -> Any:
                return np.asarray(rows).sum(axis=1) * 2

        return Model()


class Churn(ClassificationService):
    """A binary classifier."""

    class_names = ("stay", "leave")
    threshold = 0.4

    def load(self) -> Any:
        return LogisticRegression().fit(pd.DataFrame(ROWS, columns=["age", "tenure"]), [0, 0, 1, 1])


class Species(ClassificationService):
    """A classifier of three, named by its own classes."""

    def load(self) -> Any:
        return LogisticRegression().fit(ROWS, ["a", "b", "c", "c"])


class Uplift(CausalService):
    """A causal model with all it may have."""

    effect_threshold = 1.0
    interval_level = 0.8

    def load(self) -> Any:
        class Model:
            def effect(self, rows: Any) -> Any:
                return np.asarray(rows)[:, :1]

            def effect_interval(self, rows: Any, *, alpha: float) -> Any:
                effect = np.asarray(rows)[:, 0]
                return effect - alpha, effect + alpha

            def potential_outcomes(self, rows: Any) -> Any:
                return np.zeros(len(rows)), np.asarray(rows)[:, 0]

            def propensity(self, rows: Any) -> Any:
                return np.full(len(rows), 0.5)

        return Model()


def test_a_regression_answers_and_records():
    """Values go into the answer and on record, with the inputs, one an instance."""
    seen = Seen(started(Doubling), instances=[[1, 2], [3, 4]])
    assert seen.answer == {
        "prediction_id": seen.gathered.context.prediction_id,
        "model_name": "Doubling",
        "model_version": "",
        "predictions": [6.0, 14.0],
    }
    assert seen.outputs == {"prediction": [6.0, 14.0]}
    assert seen.inputs == {"features": [[1.0, 2.0], [3.0, 4.0]]}
    assert seen.gathered.items == 2
    assert set(seen.gathered.phases) == {"features", "preprocess", "predict", "postprocess"}
    assert all(seconds >= 0 for seconds in seen.gathered.phases.values())


def test_a_regression_with_intervals_answers_and_records_them():
    """An interval comes from the model's own method, or from ``infer``."""

    class WithInterval(Doubling):
        interval_level = 0.5

        def load(self) -> Any:
            class Model:
                def predict(self, rows: Any) -> Any:
                    return np.asarray(rows)[:, 0]

                def predict_interval(self, rows: Any, level: float) -> Any:
                    return self.predict(rows) - level, self.predict(rows) + level

            return Model()

    class Estimated(Doubling):
        def infer(self, inputs: Any) -> Any:
            return RegressionEstimate(inputs[:, 0], inputs[:, 0] - 0.5, inputs[:, 0] + 0.5)

    for service, level in ((started(WithInterval), 0.5), (started(Estimated), 0.9)):
        seen = Seen(service, instances=[[1, 2], [3, 4]])
        assert seen.answer["predictions"] == [1.0, 3.0]
        assert seen.answer["intervals"] == [[0.5, 1.5], [2.5, 3.5]]
        assert seen.answer["level"] == level
        assert (seen.outputs["lower"], seen.outputs["upper"]) == ([0.5, 2.5], [1.5, 3.5])
        assert seen.outputs["level"] == [level] * 2


def test_a_binary_classification_decides_by_its_threshold():
    """The second class is predicted at and above the threshold, and the threshold stands on record."""
    service = started(Churn)
    service.infer = lambda inputs: np.array([[0.7, 0.3], [0.6, 0.4], [0.1, 0.9]])
    seen = Seen(service, instances=[[1, 2]] * 3)
    assert seen.answer["predictions"] == ["stay", "leave", "leave"]
    assert seen.answer["scores"] == [0.3, 0.4, 0.9]
    assert seen.answer["probabilities"] == [[0.7, 0.3], [0.6, 0.4], [0.1, 0.9]]
    assert (seen.answer["classes"], seen.answer["threshold"]) == (["stay", "leave"], 0.4)
    assert seen.outputs["prediction"] == ["stay", "leave", "leave"]
    assert seen.outputs["score"] == [0.3, 0.4, 0.9]
    assert seen.outputs["threshold"] == [0.4] * 3


def test_a_classification_of_many_takes_the_likeliest():
    """The score is the predicted class's, and there is no threshold."""
    service = started(Species)
    service.infer = lambda inputs: np.array([[0.2, 0.5, 0.3], [0.8, 0.1, 0.1]])
    seen = Seen(service, instances=[[1, 2]] * 2)
    assert seen.answer["predictions"] == ["b", "a"]
    assert seen.answer["scores"] == [0.5, 0.8]
    assert seen.answer["classes"] == ["a", "b", "c"]
    assert "threshold" not in seen.answer
    assert "threshold" not in seen.outputs


def test_probabilities_of_other_classes_than_named_are_refused():
    """A class that has no name, or a name that has no class, would give a wrong answer without a word."""

    class Unnamed(Species):
        class_names = ("no", "yes")

        def load(self) -> Any:
            class Booster:
                def predict_proba(self, rows: Any) -> Any:
                    return np.tile([0.1, 0.2, 0.7], (len(rows), 1))

            return Booster()

    with pytest.raises(ValueError, match=r"shape \(2, 2\); it gave \(2, 3\)"):
        Seen(started(Unnamed), instances=[[0, 1], [1, 0]])


def test_a_classifier_without_predict_proba_gives_the_second_class():
    """What ``predict`` gives alone is taken for the probability of the second class; unnamed classes are numbers."""

    class Raw(ClassificationService):
        def load(self) -> Any:
            class Model:
                def predict(self, rows: Any) -> Any:
                    return np.array([0.2, 0.5])

            return Model()

    seen = Seen(started(Raw), instances=[[1], [2]])
    assert seen.answer["probabilities"] == [[0.8, 0.2], [0.5, 0.5]]
    assert seen.answer["predictions"] == [0, 1]


def test_a_causal_estimate_is_answered_and_recorded_whole():
    """Effect, interval, outcomes and propensity come from what the model can tell; the treatment from the effect."""
    seen = Seen(started(Uplift), instances=[[0.5, 0], [1.0, 0], [1.5, 0]])
    assert seen.answer["effects"] == [0.5, 1.0, 1.5]
    assert seen.answer["treatments"] == ["control", "control", "treat"]
    assert np.array(seen.answer["intervals"]) == pytest.approx(np.array([[0.3, 0.7], [0.8, 1.2], [1.3, 1.7]]))
    assert (seen.answer["level"], seen.answer["threshold"]) == (0.8, 1.0)
    assert seen.answer["outcomes_control"] == [0, 0, 0]
    assert seen.answer["outcomes_treated"] == [0.5, 1.0, 1.5]
    assert seen.answer["propensities"] == [0.5] * 3
    assert set(seen.outputs) == {
        *("prediction", "effect", "treatment", "threshold", "policy", "lower", "upper", "level"),
        *("outcome_control", "outcome_treated", "propensity"),
    }
    assert seen.outputs["effect"] == seen.outputs["prediction"] == [0.5, 1.0, 1.5]
    assert seen.outputs["policy"] == ["effect-above-threshold"] * 3


def test_a_causal_model_may_only_predict():
    """Without ``effect``, what ``predict`` gives is the effect; ``infer`` may give a bare array as well."""

    class Uplift:
        def predict(self, features: Any) -> Any:
            return features[:, 0]

    class Plain(CausalService):
        def load(self) -> Any:
            return Uplift()

    class Bare(Plain):
        def infer(self, inputs: Any) -> Any:
            return [[1.0], [-1.0]]

    class Estimated(Plain):
        def infer(self, inputs: Any) -> Any:
            return CausalEstimate(effect=np.array([1.0, -1.0]), propensity=np.array([0.1, 0.2]))

    seen = Seen(started(Plain), instances=[[3.0, 0.0], [-1.0, 1.0]])
    assert seen.answer["effects"] == pytest.approx([3.0, -1.0])
    assert seen.answer["treatments"] == ["treat", "control"]
    assert "intervals" not in seen.answer
    assert Seen(started(Bare), instances=[[1, 2], [1, 2]]).answer["effects"] == [1.0, -1.0]
    assert Seen(started(Estimated), instances=[[1, 2], [1, 2]]).answer["propensities"] == [0.1, 0.2]


def test_values_that_are_no_numbers_are_answered_as_null():
    """JSON has no NaN; the record keeps what the model gave."""

    class Odd(Doubling):
        def infer(self, inputs: Any) -> Any:
            return np.array([np.nan, np.inf, 1.0])

    seen = Seen(started(Odd), instances=[[1, 2]] * 3)
    assert seen.answer["predictions"] == [None, None, 1.0]
    assert np.isnan(seen.outputs["prediction"][0])


def test_each_step_can_be_overridden_alone():
    """Steps run in order, each with what the one before returned."""

    class Steps(Doubling):
        def features(self, request: Any) -> Any:
            return super().features(request) + 1

        def preprocess(self, features: Any) -> Any:
            return features * 10

        def postprocess(self, raw: Any, request: Any) -> tuple[dict[str, Column], dict[str, Any]]:
            outputs, body = super().postprocess(raw, request)
            annotate(rounded=True)
            return outputs, {**body, "rows": len(request.instances)}

        def labels(self, request: Any) -> dict[str, str]:
            return {"brand": "from the service"}

    seen = Seen(started(Steps), instances=[[1, 2]], labels={"brand": "from the caller"})
    assert seen.inputs == {"features": [[2.0, 3.0]]}
    assert seen.answer["predictions"] == [100.0]
    assert seen.answer["rows"] == 1
    assert seen.gathered.labels == {"brand": "from the service"}
    assert seen.gathered.attributes == {"rounded": True}


def test_labels_that_are_not_declared_are_kept_aside():
    """Only declared labels count; the others are not lost, and long ones are cut."""
    seen = Seen(
        started(Doubling), instances=[[1, 2]], labels={"brand": "x" * 500, "region": "north"}, attributes={"note": 1}
    )
    assert seen.gathered.labels == {"brand": "x" * 128}
    assert seen.gathered.attributes == {"note": 1, "undeclared_labels": {"region": "north"}}


def test_labels_may_be_declared_by_settings(monkeypatch):
    """A deployment adds label names to the service's own."""
    monkeypatch.setenv("E2I_SERVING_LABELS", '["region"]')
    seen = Seen(started(Doubling), instances=[[1, 2]], labels={"brand": "a", "region": "b"})
    assert seen.gathered.labels == {"brand": "a", "region": "b"}


def test_a_request_of_the_wrong_width_is_refused():
    """Whether or not the model knows its features' names."""
    for service in (started(Doubling), started(Churn)):
        with pytest.raises(ValidationError, match="Expected 2 values, got 3 values"):
            Seen(service, instances=[[1, 2, 3]])
    with pytest.raises(ValidationError, match="missing tenure; unknown years"):
        Seen(started(Churn), instances=[{"age": 1, "years": 2}])


def test_missing_values_are_refused_where_the_model_takes_none():
    """The caller learns which value it is."""
    with pytest.raises(ValidationError, match="takes no missing values") as raised:
        Seen(started(Churn), instances=[[1, 2], [1, None]])
    assert raised.value.errors()[0]["loc"] == ("instances", 1, "tenure")
    assert Seen(started(Doubling), instances=[[1, None]]).answer["predictions"] == [None]


def test_mixed_features_are_taken_where_they_are_declared():
    """With dtype object, values may be strings, and stand on record by name."""

    class Mixed(Doubling):
        feature_dtype = object
        feature_names = ("city", "age")

        def infer(self, inputs: Any) -> Any:
            assert inputs.dtype == object
            return np.array([len(row[0]) + row[1] for row in inputs], dtype=float)

    assert issubclass(Mixed.predict.input_spec, MixedPredictionRequestBody)
    seen = Seen(started(Mixed), instances=[{"age": 3, "city": "Bonn"}, ["Ulm", 4]][:1])
    assert seen.answer["predictions"] == [7.0]
    assert seen.inputs == {"features": [{"city": "Bonn", "age": 3.0}]}
    with pytest.raises(ValidationError):
        Seen(started(Doubling), instances=[["Bonn", 3]])


def test_entities_are_on_record():
    """Whom a prediction is about is found by it."""
    seen = Seen(started(Doubling), instances=[[1, 2], [3, 4]], entities=["c-1", "c-2"])
    rows = seen.rows(ModelInfo("scorer", "v1"))
    assert [(row["name"], row["value"], row["item_index"]) for row in rows.entities] == [
        ("id", "c-1", 0),
        ("id", "c-2", 1),
    ]


@pytest.mark.parametrize("cls", [Doubling, Churn, Species, Uplift])
def test_what_is_recorded_fits_the_store(cls):
    """Every output has one value an item and lands in its column."""
    service = started(cls)
    seen = Seen(service, instances=[[1, 2], [3, 4], [5, 6]])
    rows = seen.rows(service.info)
    assert rows.predictions[0]["error_type"] is None
    assert rows.predictions[0]["outcome"] == Outcome.OK
    assert len(rows.items) == 3
    assert all(row["prediction"] is not None for row in rows.items)
    if cls is Churn:
        assert json.loads(rows.items[0]["inputs"]) == {"age": 1.0, "tenure": 2.0}
        assert set(json.loads(rows.items[0]["outputs"])["probabilities"]) == {"stay", "leave"}
    if cls is Uplift:
        assert rows.items[0]["treatment"] == "control"
        assert rows.items[2]["effect"] == 5.0


def test_outside_of_a_request_a_service_predicts_all_the_same():
    """Called without a server and without an observation, there is an answer and nothing else."""
    answer = Doubling.predict.func(started(Doubling), decode(b'{"instances": [[1, 2]]}'))
    assert answer.prediction_id == ""
    assert answer.result["predictions"].tolist() == [6.0]


def test_constants_and_columns_are_distinct():
    """A threshold is written once a request, not once an item."""
    seen = Seen(started(Churn), instances=[[1, 2]] * 3)
    assert isinstance(seen.gathered.outputs["threshold"], Constant)
