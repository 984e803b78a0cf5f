"""Trains the models that the end-to-end tests serve."""

import warnings

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

warnings.simplefilter("ignore")

import bentoml  # noqa: E402  # its warnings are not of interest

rng = np.random.default_rng(0)
rows = rng.normal(size=(200, 4))
target = (rows[:, 0] + rows[:, 1] > 0).astype(int)
scaler = StandardScaler().fit(rows)
model = LogisticRegression().fit(scaler.transform(rows), target)
bentoml.sklearn.save_model(
    "probe",
    model,
    custom_objects={"preprocessor": scaler},
    metadata={"feature_names": ["a", "b", "c", "d"], "class_names": ["low", "high"]},
)
