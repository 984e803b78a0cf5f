"""Train a regressor of diabetes progression and save it in the BentoML model store."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import bentoml
import numpy as np
from conformal import ConformalRegressor
from sklearn.datasets import load_diabetes
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.metrics import mean_absolute_error
from sklearn.model_selection import train_test_split


def main() -> None:
    """Train, save, and write held-out rows as a request's body if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--held-out", type=Path, metavar="FILE", help="write the held-out rows here, as JSON")
    held_out: Path | None = parser.parse_args().held_out

    data = load_diabetes()
    train_x, test_x, train_y, test_y = train_test_split(data.data, data.target, test_size=0.3, random_state=0)
    regressor = GradientBoostingRegressor(n_estimators=80, max_depth=2, learning_rate=0.08, random_state=0)
    model = ConformalRegressor(regressor).fit(train_x, train_y)
    error = float(mean_absolute_error(test_y, model.predict(test_x)))
    lower, upper = model.predict_interval(test_x, level=0.9)
    coverage = float(np.mean((lower <= test_y) & (test_y <= upper)))
    saved = bentoml.sklearn.save_model(
        "diabetes",
        model,
        signatures={"predict": {"batchable": True}, "predict_interval": {"batchable": True}},
        metadata={
            "feature_names": list(data.feature_names),
            "training_rows": len(train_x),
            "metrics": {"mean_absolute_error": error, "interval_coverage_90": coverage},
        },
    )
    print(f"Saved {saved.tag}: mean absolute error {error:.1f}, 90 % intervals cover {coverage:.0%} of {len(test_x)}")
    if held_out is not None:
        held_out.write_text(json.dumps({"instances": test_x.tolist()}), encoding="utf-8")


if __name__ == "__main__":
    main()
