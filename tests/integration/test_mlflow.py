"""Models come from a real MLflow, with the run that trained them in the record of each prediction.

MLflow wants an environment of its own, so this runs only where ``E2I_TEST_RECEIVERS`` names a folder that has one. Here
it is put behind the environment of the tests, so that only what is missing there comes from it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

RECEIVERS = os.environ.get("E2I_TEST_RECEIVERS", "")
pytestmark = pytest.mark.skipif(not RECEIVERS, reason="E2I_TEST_RECEIVERS is not set")

SCRIPT = """
import json, sys
sys.path.append(sys.argv[1])
import bentoml, mlflow, mlflow.sklearn
import numpy as np
from sklearn.linear_model import LinearRegression
import e2i_serving
from e2i_serving import models
from e2i_serving.testing import ServiceHarness

mlflow.set_tracking_uri("sqlite:///mlflow.db")
mlflow.set_experiment(experiment_id=mlflow.create_experiment("sales", artifact_location="artifacts"))
rows = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 1.0]])
with mlflow.start_run() as run:
    mlflow.sklearn.log_model(LinearRegression().fit(rows, [1.0, 2.0, 5.0]), name="model")
tag = models.save("sales", f"runs:/{run.info.run_id}/model", training_data="sales@1", feature_names=("a", "b"))

@e2i_serving.service
class Sales(e2i_serving.RegressionService):
    model = tag

with ServiceHarness(Sales) as sales:
    reply = sales.predict(instances=[[2.0, 1.0]])
    with sales.trail() as trail:
        (row,) = trail.query()
found = {"run": run.info.run_id, "module": bentoml.models.get(tag).info.module, "lineage": row["lineage"]}
print("FOUND", json.dumps(found | {"status": reply.status, "body": reply.body}))
"""


def test_a_model_of_a_run_is_imported_and_served(tmp_path: Path) -> None:
    """It predicts what it did where it was trained, and the row names the run and the training data."""
    (packages,) = Path(RECEIVERS).glob("mlflow/lib/python*/site-packages")
    home = tmp_path / "bentoml"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, str(packages)],
        cwd=tmp_path,
        env={**os.environ, "BENTOML_HOME": str(home), "PYTHONPATH": os.environ.get("PYTHONPATH", "")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    (line,) = (line for line in done.stdout.splitlines() if line.startswith("FOUND "))
    found = json.loads(line.removeprefix("FOUND "))
    assert found["module"] == "bentoml.mlflow"
    assert found["lineage"] == {"mlflow_run_id": found["run"], "training_data": "sales@1"}
    assert found["status"] == 200
    assert found["body"]["predictions"] == [pytest.approx(5.0)]
