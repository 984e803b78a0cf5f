"""Replay: the recorded inputs give the recorded answers, by the same bytes of the model and the same code."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import Any

import bentoml
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from typer.testing import CliRunner

import e2i_serving
from e2i_serving.cli.application import app
from e2i_serving.exceptions import ConfigurationError
from e2i_serving.record import Constant, Values
from e2i_serving.services.replay import Difference, ReplayReport, obstacle, replay
from e2i_serving.testing import ServiceHarness

ROWS = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 1.0], [3.0, 0.0]])


def save(truth: list[int]) -> str:
    """Save a model, and say its tag."""
    model = LogisticRegression().fit(ROWS, truth)
    return str(bentoml.sklearn.save_model("replayed", model, metadata={"feature_names": ["age", "tenure"]}).tag)


@pytest.fixture
def tag() -> str:
    """A model in the store."""
    return save([0, 0, 1, 1])


@pytest.fixture
def service(tag) -> Any:
    """A service of that model."""

    @e2i_serving.service
    class Churn(e2i_serving.ClassificationService):
        model = tag
        class_names = ("stay", "leave")
        threshold = 0.3
        label_names = ("brand",)

    return Churn


@pytest.fixture
def trail(service, tmp_path):
    """The trail of 40 predictions of it, one of them of two items, and of one request that failed."""
    with ServiceHarness(service, observability={"data_dir": str(tmp_path / "data")}) as churn:
        draw = np.random.default_rng(7)
        for number in range(40):
            rows = draw.normal(1.5, 1, (2 if number == 0 else 1, 2)).tolist()
            brand = "north" if number % 2 else "south"
            assert churn.predict(instances=rows, labels={"brand": brand}).status == 200
        assert churn.predict(instances=[["no number"]]).status == 400
        with churn.trail() as opened:
            yield opened


def test_all_come_out_the_same(service, trail) -> None:
    """What was answered is answered once more, by the threshold on record."""
    service.inner.threshold = 0.9
    report = replay(service, trail.query())
    assert (report.replayed, report.changed, dict(report.left_out)) == (40, 0, {"failed": 1})


def test_nothing_is_recorded(service, trail) -> None:
    """A replay adds no prediction."""
    before = trail.count()
    replay(service, trail.query())
    assert trail.count() == before


def test_a_changed_feature_is_found(service, trail, tmp_path) -> None:
    """A value changed in the trail comes out as another answer, and by its own prediction."""
    with sqlite3.connect(tmp_path / "data" / "audit.db") as store:
        (changed,) = store.execute("SELECT prediction_id FROM items ORDER BY prediction_id DESC LIMIT 1").fetchone()
        store.execute("UPDATE items SET inputs = ? WHERE prediction_id = ?", ('{"age":0.1,"tenure":9.5}', changed))
    report = replay(service, trail.query())
    assert (report.replayed, report.changed) == (40, 1)
    assert {each.prediction_id for each in report.differences} == {changed}
    assert "score" in {each.column for each in report.differences}


def test_a_changed_model_is_refused(service, trail, tag) -> None:
    """One other byte in the model's files, and nothing is replayed."""
    (file,) = Path(bentoml.models.get(tag).path).glob("saved_model.pkl")
    content = bytearray(file.read_bytes())
    content[-2] ^= 1
    file.write_bytes(content)
    with pytest.raises(ConfigurationError, match="is not the one that is on record"):
        replay(service, trail.query())


def test_what_other_code_answered_is_left_out(service, trail) -> None:
    """The class that replays is the one that answered, unless that is allowed; the other predictions go on."""
    rows = [{**row, "code_digest": "0" * 64} if place < 5 else row for place, row in enumerate(trail.query())]
    failed = sum(row["outcome"] != "ok" for row in rows[:5])
    report = replay(service, rows)
    assert (report.replayed, report.changed) == (35 + failed, 0)
    assert report.left_out == {"other-code": 5 - failed, "failed": 1}
    assert replay(service, rows, allow_code=True).replayed == 40


def test_a_candidate_is_compared_by_label(service, trail) -> None:
    """What another model would change is counted, by label."""
    report = replay(service, trail.query(), against=save([0, 1, 0, 1]))
    assert report.replayed == 40
    assert report.changed > 30
    assert 0 < report.decisions_changed < report.changed
    assert sum(counts[2] for counts in report.labels.values()) == report.decisions_changed
    assert {label: counts[0] for label, counts in report.labels.items()} == {
        ("brand", "north"): 20,
        ("brand", "south"): 20,
    }


@pytest.mark.parametrize(
    ("task", "difference", "decisions"),
    [
        ("classification", ("prediction", 0, 1), 1),
        ("classification", ("score", 0.4, 0.6), 0),
        ("", ("prediction", "stay", "leave"), 1),
        ("", ("decision", "grant", "refuse"), 1),
        ("causal", ("treatment", "treat", "control"), 1),
        ("causal", ("prediction", 0.1, -0.1), 0),
        ("regression", ("prediction", 1.0, 2.0), 0),
    ],
)
def test_decisions_are_counted_apart(task, difference, decisions) -> None:
    """A class, a decision or a treatment that flips is more than a number that moved."""
    report = ReplayReport()
    report.add({"task": task, "labels": {"brand": "north"}}, [Difference("p", 0, *difference)] * 2)
    report.add({"task": task, "labels": None}, [])
    assert (report.replayed, report.changed, report.decisions_changed) == (2, 1, decisions)
    assert report.labels == {("brand", "north"): (1, 1, decisions)}


def test_a_model_that_is_gone_is_a_reason(service, trail, tag) -> None:
    """Predictions of a model that was deleted are counted, and not replayed."""
    bentoml.models.delete(tag)
    report = replay(service, trail.query())
    assert (report.replayed, report.left_out["model-gone"]) == (0, 40)


@pytest.mark.parametrize(
    ("change", "item", "reason"),
    [
        ({"outcome": "error"}, {}, "failed"),
        ({"endpoint": "rank"}, {}, "other-endpoint"),
        ({"redactions": ["inputs.age"]}, {}, "redacted"),
        ({"redactions": ["labels.brand"]}, {}, ""),
        ({"redactions": ["attributes.pattern:email", "labels.long-text", "entities.allow-list"]}, {}, ""),
        ({"redactions": ["attributes.pattern:email", "inputs.pattern:email"]}, {}, "redacted"),
        ({"redactions": ["pattern:email"]}, {}, "redacted"),
        ({"payload_digest": "ab"}, {"inputs": None}, "payload-gone"),
        ({}, {"inputs": None}, "no-inputs"),
        ({"error_type": "inconsistent_columns"}, {}, "inconsistent"),
        ({}, {"erased": {"by": "1"}}, "erased"),
    ],
)
def test_reasons(change, item, reason) -> None:
    """Each thing that keeps a prediction from being replayed has its own name."""
    row = {"outcome": "ok", "endpoint": "predict", "redactions": None, "payload_digest": None, "error_type": None}
    row |= {"item_rows": [{"inputs": {"age": 1.0}, "erased": None, **item}], **change}
    assert obstacle(row) == reason


def test_what_was_found_beside_the_inputs_keeps_nothing_from_replay(service) -> None:
    """An address that a pattern masks in attributes, labels or entities is nothing that the model was given."""
    found = {"attributes": {"by": "a@b.co"}, "labels": {"brand": "c@d.co"}, "entities": [{"customer": "e@f.co"}]}
    with ServiceHarness(service, observability={"redaction_patterns": ["email"]}) as churn:
        assert churn.predict(instances=ROWS[:1].tolist(), **found).status == 200
        with churn.trail() as opened:
            (row,) = rows = opened.query().rows()
            report = replay(service, rows)
    assert set(row["redactions"]) == {f"{root}.pattern:email" for root in ("attributes", "labels", "entities")}
    assert (report.replayed, report.changed) == (1, 0)


@pytest.mark.parametrize(
    ("outputs", "reason"),
    [
        ({"prediction": Values([0.5])}, "inconsistent"),
        ({"prediction": Values([None, None]), "policy": Constant("mine")}, "no-outputs"),
    ],
    ids=["of another length", "null"],
)
def test_what_has_nothing_to_compare_is_not_equal(outputs, reason) -> None:
    """Where no output is on record and none comes out now, nothing is shown to be the same."""

    @e2i_serving.service
    class Silent(e2i_serving.RegressionService):
        feature_names = ("age", "tenure")

        def load(self) -> Any:
            return object()

        def infer(self, inputs: Any) -> Any:
            return np.asarray(inputs)[:, 0]

        def postprocess(self, raw: Any, request: Any) -> Any:
            return outputs, {"predictions": raw}

    with ServiceHarness(Silent) as silent:
        assert silent.predict(instances=ROWS[:2].tolist()).status == 200
        with silent.trail() as opened:
            report = replay(Silent, opened.query())
    assert (report.replayed, dict(report.left_out)) == (0, {reason: 1})


SOURCE = """
import e2i_serving

@e2i_serving.service
class Churn(e2i_serving.ClassificationService):
    model = "{tag}"
"""


def test_the_command_says_what_differs(tmp_path, tag, monkeypatch) -> None:
    """The command exits with 0 when all is the same, with 1 on a difference, with 2 on a refusal."""
    (tmp_path / "replayed_service.py").write_text(SOURCE.format(tag=tag))
    monkeypatch.syspath_prepend(str(tmp_path))
    import replayed_service  # type: ignore[import-not-found]

    data = tmp_path / "data"
    with ServiceHarness(replayed_service.Churn, observability={"data_dir": str(data)}) as churn:
        made = churn.predict(instances=[[0.5, 1.0]]).record.prediction_id
        churn.trail().close()
    target = ["--target", "replayed_service:Churn", "--working-dir", str(tmp_path), "--data-dir", str(data)]

    def run(*arguments: str) -> Any:
        return CliRunner().invoke(app, ["audit", "replay", *arguments, *target])

    same = run(made)
    assert same.exit_code == 0, same.output
    with sqlite3.connect(data / "audit.db") as store:
        store.execute("UPDATE items SET score = score + 0.001")
    other = run()
    assert other.exit_code == 1
    assert "score" in other.stdout
    assert other.stdout.splitlines()[1].split() == ["1", "0", "1", "0", "0"]
    shown = json.loads(run("--format", "json").stdout)
    assert (shown["changed"], shown["decisions_changed"]) == (1, 0)
    assert run("--tolerance", "0.01").exit_code == 0
    with sqlite3.connect(data / "audit.db") as store:
        store.execute("UPDATE predictions SET sampling_fraction = 0.25")
    assert "3 sampled-out" in run("--tolerance", "0.01").stdout
    assert "sampled-out" not in run(made).stdout
    (tmp_path / "replayed_service.py").write_text(SOURCE.format(tag=tag) + "# changed\n")
    refused = run(made)
    assert refused.exit_code == 2
    assert "1 other-code" in refused.stdout
    assert refused.stderr.count("\n") == 1
    assert "--allow-code" in refused.stderr
    assert run(made, "--allow-code").exit_code == 1
    with sqlite3.connect(data / "audit.db") as store:
        for table in ("predictions", "items"):
            store.execute(f"CREATE TEMP TABLE copy_of_{table} AS SELECT * FROM {table}")
            store.execute(f"UPDATE copy_of_{table} SET prediction_id = 'later'")
            store.execute(f"INSERT INTO {table} SELECT * FROM copy_of_{table}")
        store.execute("UPDATE predictions SET code_digest = NULL WHERE prediction_id = 'later'")
    across = run()
    assert (across.exit_code, across.stdout.splitlines()[1].split()[:3]) == (2, ["1", "0", "1"])
    assert run("no-such-id").exit_code == 2
