"""Train a classifier of breast tumours and save it in the BentoML model store."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import bentoml
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def main() -> None:
    """Train, save, and write held-out rows as a request's body if asked to."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--held-out", type=Path, metavar="FILE", help="write the held-out rows here, as JSON")
    held_out: Path | None = parser.parse_args().held_out

    data = load_breast_cancer()
    train_x, test_x, train_y, test_y = train_test_split(
        data.data, data.target, test_size=0.3, stratify=data.target, random_state=0
    )
    model = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000)).fit(train_x, train_y)
    accuracy = float(model.score(test_x, test_y))
    auc = float(roc_auc_score(test_y, model.predict_proba(test_x)[:, 1]))
    saved = bentoml.sklearn.save_model(
        "breast_cancer",
        model,
        signatures={"predict_proba": {"batchable": True}},
        metadata={
            "feature_names": data.feature_names.tolist(),
            "class_names": data.target_names.tolist(),
            "training_rows": len(train_x),
            "metrics": {"accuracy": accuracy, "roc_auc": auc},
        },
    )
    print(f"Saved {saved.tag}: accuracy {accuracy:.3f}, ROC AUC {auc:.3f} on {len(test_x)} held-out rows")
    if held_out is not None:
        held_out.write_text(json.dumps({"instances": test_x.tolist()}), encoding="utf-8")


if __name__ == "__main__":
    main()
