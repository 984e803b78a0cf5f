"""Train the model that all variants serve."""

from __future__ import annotations

import bentoml
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression

if __name__ == "__main__":
    features, classes = load_breast_cancer(return_X_y=True)
    model = LogisticRegression(max_iter=10_000).fit(features, classes)
    bentoml.sklearn.save_model("overhead", model)
