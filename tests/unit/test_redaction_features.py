"""No file shows features that were fetched and are covered by a rule."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from redacting import forms

import e2i_serving
from e2i_serving.features import FeaturePolicy, InMemoryFeatureStore
from e2i_serving.testing import ServiceHarness

WHO, INCOME, BASKET = "zqWHOISTHIS", 918273645918.625, 736451829736.625
PEOPLE = InMemoryFeatureStore()
PEOPLE.define("credit_v1", ("person",), ("wealth:income", "wealth:debts"))
PEOPLE.put("wealth", {"person": WHO}, {"income": INCOME, "debts": 1.0})
PEOPLE.put("wealth", {"person": WHO + "X"}, {"income": INCOME})


@e2i_serving.service
class Credit(e2i_serving.RegressionService):
    """Fetches what is secret, by who is."""

    feature_names = ("income", "debts", "basket")
    feature_service = "credit_v1"
    feature_store = PEOPLE
    feature_policies = {"wealth": FeaturePolicy(null="fail", missing="fail")}

    def load(self) -> Any:
        class First:
            def predict(self, rows: Any) -> Any:
                return np.ones(len(rows))

        return First()


def test_no_file_shows_features_that_were_fetched_and_are_covered(tmp_path: Path, caplog: Any) -> None:
    """Neither what a store gave, nor whom it was asked about; not where a policy refuses either."""
    chosen = {
        "data_dir": str(tmp_path),
        "redaction_rules": [{"path": path, "action": "drop"} for path in ("inputs.**", "entities.**")],
    }
    with ServiceHarness(Credit, observability=chosen) as credit:
        answered = credit.predict(entities=[WHO], instances=[{"basket": BASKET}])
        refused = credit.predict(entities=[WHO + "X"], instances=[{"basket": BASKET}])
        unknown = credit.predict(entities=[WHO + "Y"], instances=[{"basket": BASKET}])
        assert [reply.status for reply in (answered, refused, unknown)] == [200, 422, 422]
        with credit.trail() as trail:
            found = list(trail.query())
    assert len(found) == 3
    assert all(row["feature_provenance"]["features"] == ["wealth:income", "wealth:debts"] for row in found)
    assert "wealth:debts" in next(row["error_message"] for row in found if "null" in (row["error_message"] or ""))
    kept = {path.name: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    kept["log"] = caplog.text.encode()
    assert "audit.db" in kept
    for name, content in kept.items():
        for secret in (WHO, INCOME, BASKET):
            assert not any(form in content for form in forms(secret)), f"{secret!r} is in {name}"
