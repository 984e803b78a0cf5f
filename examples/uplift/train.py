"""Train a model of a voucher's effect on spending, from a simulated trial whose true effect is known."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import bentoml
import numpy as np
from numpy.typing import NDArray
from sklearn.model_selection import train_test_split
from uplift import TLearner

FEATURE_NAMES = ("age", "tenure_years", "visits_a_month", "basket_eur", "discount_affinity")
ROWS = 4000


def randomised_trial() -> tuple[NDArray[Any], NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Customers half of whom got a voucher.

    Returns:
        Features of shape ``(n, 5)``; and, each of shape ``(n,)``, who was treated, what was spent in EUR, and the
        true effect.
    """
    random = np.random.default_rng(0)
    features = np.column_stack(
        [
            random.integers(18, 80, ROWS),
            random.exponential(4.0, ROWS),
            random.poisson(3.0, ROWS),
            random.gamma(4.0, 10.0, ROWS),
            random.uniform(0.0, 1.0, ROWS),
        ]
    ).astype(np.float64)
    effect = 8.0 * features[:, 4] - 0.4 * features[:, 1]
    treated = random.integers(0, 2, ROWS)
    spent = 10.0 + 0.5 * features[:, 3] + 2.0 * features[:, 2] + effect * treated + random.normal(0.0, 5.0, ROWS)
    return features, treated, spent, effect


def main() -> None:
    """Train, save, and write held-out rows as a request's body if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--held-out", type=Path, metavar="FILE", help="write the held-out rows here, as JSON")
    held_out: Path | None = parser.parse_args().held_out

    features, treated, spent, effect = randomised_trial()
    train, test = train_test_split(np.arange(ROWS), test_size=0.2, random_state=0)
    model = TLearner().fit(features[train], treated[train], spent[train])
    estimated = model.effect(features[test])
    lower, upper = model.effect_interval(features[test], alpha=0.1)
    error = float(np.sqrt(np.mean((estimated - effect[test]) ** 2)))
    coverage = float(np.mean((lower <= effect[test]) & (effect[test] <= upper)))
    saved = bentoml.sklearn.save_model(
        "uplift",
        model,
        signatures={"effect": {"batchable": True}},
        metadata={
            "feature_names": list(FEATURE_NAMES),
            "treatment": "voucher",
            "outcome": "spent_eur",
            "training_rows": len(train),
            "metrics": {"effect_rmse": error, "interval_coverage_90": coverage},
        },
    )
    print(f"Saved {saved.tag}: effect off by {error:.2f} EUR, 90 % intervals cover {coverage:.0%} of {len(test)}")
    if held_out is not None:
        held_out.write_text(json.dumps({"instances": features[test].tolist()}), encoding="utf-8")


if __name__ == "__main__":
    main()
