"""Serve a model whose features are in Feast: requests name customers."""

from __future__ import annotations

from pathlib import Path

import e2i_serving
from e2i_serving.features import FeastFeatureStore, FeaturePolicy


@e2i_serving.service(workers=2, traffic={"timeout": 10})
class FeastChurn(e2i_serving.ClassificationService):
    """Will a customer leave, at the price offered? From how they used what they bought."""

    model = "feast_churn:latest"
    feature_service = "churn_v1"
    feature_store = FeastFeatureStore(Path(__file__).parent / "feature_repo")
    feature_policies = {"usage": FeaturePolicy(missing="fail", null="default", defaults={"minutes": 60.0})}
    feature_cache_seconds = 5.0
