"""Models are saved with where they came from, and records say it."""

from __future__ import annotations

import bentoml
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression

import e2i_serving
from e2i_serving import models
from e2i_serving.exceptions import ConfigurationError
from e2i_serving.testing import ServiceHarness

ROWS = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 1.0], [3.0, 0.0]])


def test_lineage_stands_in_the_record_and_in_model_info() -> None:
    """What was said when the model was saved is in the trail, and answered by the service."""
    fitted = LogisticRegression().fit(ROWS, [0, 0, 1, 1])
    tag = models.save("traced", fitted, mlflow_run_id="run-1", training_data="sales@7", feature_names=("age", "tenure"))
    lineage = {"mlflow_run_id": "run-1", "training_data": "sales@7"}
    assert bentoml.models.get(tag).info.module == "bentoml.sklearn"

    @e2i_serving.service
    class Traced(e2i_serving.ClassificationService):
        model = tag

    with ServiceHarness(Traced) as traced:
        assert traced.predict(instances=[[1.0, 2.0]]).status == 200
        assert traced.request("POST", "/model_info", json={}).body["lineage"] == lineage
        with traced.trail() as trail:
            (row,) = trail.query()
    assert row["lineage"] == lineage


class Constant:
    """A model of no framework."""

    def predict(self, rows):
        return np.ones(len(rows))


def test_a_model_of_no_framework_is_pickled() -> None:
    """Any object can be saved."""
    tag = models.save("constant", Constant(), feature_service="churn_v1")
    stored = bentoml.models.get(tag).info
    assert stored.module == "bentoml.picklable_model"
    assert stored.metadata == {"feature_service": "churn_v1"}


def test_a_missing_framework_is_said() -> None:
    """A framework that is not there is said in one line."""
    with pytest.raises(ConfigurationError, match=r"bentoml\.nonesuch"):
        models.save("constant", Constant(), framework="nonesuch")
