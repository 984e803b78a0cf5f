"""Make a Feast repository with the features of 200 customers, materialise them, and save a model that takes them.

The last three customers are as they should not be: 198 has null minutes, 199 was last seen a week ago, and of 200 there
is nothing.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
from feast import FeatureStore
from feature_repo import definitions
from sklearn.linear_model import LogisticRegression

from e2i_serving import models

REPOSITORY = Path(__file__).parent / "feature_repo"


def main() -> None:
    """Write the features, apply the definitions, materialise, train and save."""
    draw = np.random.default_rng(7)
    now = datetime.now(UTC)
    customers = np.arange(1, 200)
    usage = pd.DataFrame(
        {
            "customer_id": customers,
            "event_timestamp": now - timedelta(minutes=5),
            "calls": draw.poisson(12, len(customers)),
            "minutes": draw.gamma(3.0, 20.0, len(customers)),
        }
    )
    prices = draw.uniform(5, 60, len(usage))
    features = np.column_stack([usage["calls"], usage["minutes"], prices / usage["minutes"]])
    left = draw.random(len(usage)) < 1 / (1 + np.exp(0.1 * usage["minutes"] - prices / 10))
    model = LogisticRegression(max_iter=1000).fit(features, left)
    usage.loc[usage["customer_id"] == 198, "minutes"] = None
    usage.loc[usage["customer_id"] == 199, "event_timestamp"] = now - timedelta(days=7)
    path = REPOSITORY / "data" / "usage.parquet"
    path.parent.mkdir(exist_ok=True)
    usage.to_parquet(path)
    store = FeatureStore(repo_path=str(REPOSITORY))
    store.apply([definitions.customer, definitions.usage, definitions.rates, definitions.churn_v1])
    store.materialize(now - timedelta(days=30), now + timedelta(minutes=1))
    saved = models.save(
        "feast_churn",
        model,
        feature_service="churn_v1",
        feature_names=["calls", "minutes", "price_per_minute"],
        training_data=f"usage@{now:%Y-%m-%d}",
        metadata={"class_names": ["stays", "leaves"]},
    )
    print(f"Saved {saved}, and the features of {len(usage)} customers")


if __name__ == "__main__":
    main()
