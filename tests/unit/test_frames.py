"""Features as a frame, for pipelines that select columns by name."""

from __future__ import annotations

import json
import sys
from typing import Any

import numpy as np
import pandas as pd
import pytest
from pydantic import ValidationError
from sklearn.compose import ColumnTransformer
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from e2i_serving.exceptions import ConfigurationError
from e2i_serving.propagation import ContextExtractor
from e2i_serving.record import Entry, Life, Values
from e2i_serving.relay.explode import explode
from e2i_serving.runtime.observation import Endpoint, Observation, observation
from e2i_serving.services import ClassificationService, PredictionService, RegressionService
from e2i_serving.services.base import input_columns
from e2i_serving.services.frames import frame_of
from e2i_serving.services.requests import decode
from e2i_serving.services.responses import encode

TRAINING = pd.DataFrame({"city": ["Bonn", "Ulm", np.nan, "Bonn"], "age": [1.0, 2.0, np.nan, 4.0]})


class Mixed(ClassificationService):
    """A pipeline of strings and numbers, which takes its columns by name."""

    feature_dtype = object
    as_frame = True

    def load(self) -> Any:
        numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
        columns = [("age", numbers, ["age"]), ("city", OneHotEncoder(handle_unknown="ignore"), ["city"])]
        return make_pipeline(ColumnTransformer(columns), LogisticRegression()).fit(TRAINING, [0, 1, 0, 1])


class Numeric(RegressionService):
    """A model that needs a frame of numbers."""

    feature_names = ("b", "a")
    as_frame = True

    def load(self) -> Any:
        class Model:
            n_features_in_ = 2

            def predict(self, frame: Any) -> Any:
                return frame["a"] - frame["b"]

        return Model()


def started(cls: type[PredictionService]) -> Any:
    """An instance with its model loaded."""
    service = cls()
    service.e2i_load()
    return service


def asked(service: Any, *instances: Any) -> tuple[Any, list[Any]]:
    """The answer to a request, and the inputs that a store keeps of each instance."""
    gathered = Observation(Endpoint("predict", "/predict"), ContextExtractor().extract([]), "POST")
    token = observation.set(gathered)
    try:
        predict = type(service).predict
        body = json.dumps({"instances": instances}).encode()
        answer = predict.func(service, decode(body, predict.input_spec.body_decoder))
    finally:
        observation.reset(token)
    gathered.status = 200
    rows = explode([Entry(Life("life-1", "credit", 1, 1, model=service.info), 1, gathered.record(service.info))])
    assert rows.predictions[0]["error_type"] is None
    return json.loads(encode(answer)), [json.loads(row["inputs"]) for row in rows.items]


def test_numbers_become_a_frame_with_the_models_names():
    """Whether they come as arrays or as objects; on record each value stands by its name."""
    service = started(Numeric)
    for instances in ([[1, 3], [2, None]], [{"a": 3, "b": 1}, {"a": None, "b": 2}]):
        answer, inputs = asked(service, *instances)
        assert answer["predictions"] == [2.0, None]
        assert inputs == [{"b": 1.0, "a": 3.0}, {"b": 2.0, "a": None}]
    frame = service.features(decode(b'{"instances": [[1, 3]]}'))
    assert frame.dtypes.to_dict() == {"b": np.float64, "a": np.float64}
    with pytest.raises(ValidationError, match="Expected 2 values, got 3 values"):
        asked(service, [1, 2, 3])


@pytest.mark.parametrize(
    "row",
    [
        {"city": "Ulm", "age": 3},
        {"city": None, "age": 3},
        {"city": "Ulm", "age": None},
        {"city": None, "age": None},
        {"city": "Mainz", "age": 3},
    ],
)
def test_a_row_is_answered_alike_alone_and_among_others(row):
    """A column of one missing value is of the same kind to the model as one of many values."""
    service = started(Mixed)
    alone, inputs = asked(service, row)
    among, _ = asked(service, row, {"city": "Bonn", "age": 1})
    given = {name: np.nan if value is None else value for name, value in row.items()}
    direct = service.estimator.predict_proba(pd.DataFrame([*TRAINING.to_dict("records"), given]))[-1]
    assert inputs == [row]
    assert alone["probabilities"][0] == pytest.approx(among["probabilities"][0])
    assert alone["probabilities"][0] == pytest.approx(direct)


def test_columns_of_a_mixed_frame_have_the_dtypes_of_their_values():
    """Strings, numbers and booleans are told apart; what is missing is NaN."""
    rows = np.array([["a", 1.0, True, None], [None, None, False, None]], dtype=object)
    frame = frame_of(rows, ("s", "n", "b", "z"))
    expected = pd.DataFrame({"s": ["a", None], "n": [1.0, np.nan], "b": [True, False]})
    assert frame.dtypes[["s", "n", "b"]].to_dict() == expected.dtypes.to_dict()
    assert frame["z"].dtype.kind == "O"
    assert frame["z"].isna().all()
    assert all(value is not None for value in frame["z"])
    assert rows[1][0] is None


def test_a_frame_goes_on_record_by_its_own_columns():
    """Also where its only column has the name under which arrays stand."""
    frame = pd.DataFrame({"features": ["a", "b"]})
    assert input_columns(frame, 2, ("features",)) == {"features": Values(["a", "b"])}


def test_a_frame_needs_names():
    """A model that was fitted on an array does not say them."""

    class Nameless(Numeric):
        feature_names = ()

    with pytest.raises(ConfigurationError, match=r"Nameless.as_frame needs the names .* Set feature_names"):
        started(Nameless)


def test_a_frame_needs_pandas(monkeypatch):
    """What to install is said at the start, not at the first request."""
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(ConfigurationError, match=r"Numeric.as_frame needs pandas, .* Install e2i-serving\[pandas\]"):
        started(Numeric)


def test_without_frames_pandas_is_not_asked_for(monkeypatch):
    """Arrays are the default."""

    class Arrays(Numeric):
        as_frame = False

        def infer(self, inputs: Any) -> Any:
            return inputs[:, 1] - inputs[:, 0]

    monkeypatch.setitem(sys.modules, "pandas", None)
    answer, inputs = asked(started(Arrays), {"a": 3, "b": 1})
    assert answer["predictions"] == [2.0]
    assert inputs == [{"b": 1.0, "a": 3.0}]
