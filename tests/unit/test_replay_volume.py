"""Ten thousand recorded items, in many and in single requests, replayed: all equal, or what was changed is found."""

from __future__ import annotations

import json
import sqlite3
import sys
from pathlib import Path
from typing import Any, NamedTuple

import bentoml
import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import GradientBoostingClassifier
from typer.testing import CliRunner

from e2i_serving.cli.application import app
from e2i_serving.runtime.checks import load_service
from e2i_serving.testing import ServiceHarness

BATCHES, SINGLES = 97, 300
SOURCE = """
import e2i_serving

@e2i_serving.service
class Screening(e2i_serving.ClassificationService):
    model = "{tag}"
    threshold = 0.4
    label_names = ("brand",)
"""


class Recorded(NamedTuple):
    """What was served and recorded."""

    tag: str
    folder: Path

    def replay(self) -> tuple[int, dict[str, Any], str]:
        """The command's exit code, its report, and all that it said."""
        target = ["--target", "screening:Screening", "--working-dir", str(self.folder)]
        run = CliRunner().invoke(
            app, ["audit", "replay", *target, "--data-dir", str(self.folder / "data"), "--format", "json"]
        )
        return run.exit_code, json.loads(run.stdout) if run.stdout else {}, run.output


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A model of 30 features, and 10,000 items that it was asked about."""
    folder = tmp_path_factory.mktemp("screening")
    data = load_breast_cancer()
    model = GradientBoostingClassifier(n_estimators=20, random_state=0).fit(data.data, data.target)
    metadata = {"feature_names": data.feature_names.tolist(), "class_names": data.target_names.tolist()}
    tag = str(bentoml.sklearn.save_model("screening", model, metadata=metadata).tag)
    (folder / "screening.py").write_text(SOURCE.format(tag=tag))
    rows = data.data.tolist() * 18
    service = load_service("screening:Screening", str(folder))
    with ServiceHarness(service, observability={"data_dir": str(folder / "data")}) as screening:
        for number in range(BATCHES):
            body = {"instances": rows[100 * number : 100 * (number + 1)], "labels": {"brand": "alpha"}}
            assert screening.predict(**body).status == 200
        for row in rows[:SINGLES]:
            assert screening.predict(instances=[row], labels={"brand": "beta"}).status == 200
        with screening.trail() as trail:
            assert sum(row["items"] for row in trail.query(items=False)) == 10_000
    yield Recorded(tag, folder)
    sys.modules.pop("screening", None)


def test_ten_thousand_items_come_out_the_same(recorded) -> None:
    """All are replayed, and each is equal."""
    code, report, said = recorded.replay()
    assert code == 0, said
    assert (report["replayed"], report["equal"], report["left_out"]) == (BATCHES + SINGLES, BATCHES + SINGLES, {})


def test_one_changed_feature_is_found(recorded) -> None:
    """One value of one item among ten thousand, changed in the trail: its prediction and item are named."""
    path = recorded.folder / "data" / "audit.db"
    with sqlite3.connect(path) as store:
        chosen, kept = store.execute(
            "SELECT prediction_id, inputs FROM items WHERE item_index = 41 ORDER BY prediction_id LIMIT 1 OFFSET 50"
        ).fetchone()
        changed = json.loads(kept)
        changed["worst radius"] = 40.0 if changed["worst radius"] < 17 else 5.0
        where = "WHERE prediction_id = ? AND item_index = 41"
        store.execute(f"UPDATE items SET inputs = ? {where}", (json.dumps(changed), chosen))
    try:
        code, report, said = recorded.replay()
        assert code == 1, said
        assert (report["replayed"], report["changed"]) == (BATCHES + SINGLES, 1)
        assert {(each["prediction_id"], each["item_index"]) for each in report["differences"]} == {(chosen, 41)}
    finally:
        with sqlite3.connect(path) as store:
            store.execute(f"UPDATE items SET inputs = ? {where}", (kept, chosen))


def test_one_changed_byte_of_the_model_is_refused(recorded) -> None:
    """A model that is not the one on record replays nothing."""
    (file,) = Path(bentoml.models.get(recorded.tag).path).glob("saved_model.pkl")
    kept = file.read_bytes()
    changed = bytearray(kept)
    changed[len(changed) // 2] ^= 1
    file.write_bytes(changed)
    try:
        code, _, said = recorded.replay()
        assert code == 2
        assert "is not the one that is on record" in " ".join(said.split())
    finally:
        file.write_bytes(kept)
