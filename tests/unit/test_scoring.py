"""Batch scoring: every row is answered once, on record, and an interrupted run goes on."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import bentoml
import numpy as np
import pytest

import e2i_serving
from e2i_serving.exceptions import ConfigurationError
from e2i_serving.runtime.definition import definition_of
from e2i_serving.runtime.relay_process import run_relay
from e2i_serving.runtime.trail import AuditTrail
from e2i_serving.services.scoring import score


@pytest.fixture
def service(tmp_path) -> Any:
    """A service that adds two numbers, and fails on a negative one."""

    @e2i_serving.service(observability={"data_dir": str(tmp_path / "data"), "relay_enabled": False, "gc_freeze": False})
    class Adding(e2i_serving.RegressionService):
        feature_names = ("a", "b")

        def load(self) -> Any:
            class Sum:
                def predict(self, rows: Any) -> Any:
                    if (np.asarray(rows) < 0).any():
                        raise ValueError("negative")
                    return np.asarray(rows).sum(axis=1)

            return Sum()

    return Adding


def write(path, rows: list[tuple[str, Any, float]]) -> None:
    """A CSV file of customers."""
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("customer", "a", "b"), *rows])


def trail_of(service: Any, tmp_path: Any) -> AuditTrail:
    """The trail of what was scored."""
    run_relay(definition_of(service.inner).load_settings().settings, tmp_path / "data", once=True)
    return AuditTrail.open(tmp_path / "data")


def test_each_row_is_answered_in_order_and_on_record(service, tmp_path) -> None:
    """The output has a row a row, and the records say which run they are of."""
    source, target = tmp_path / "in.csv", tmp_path / "out.jsonl"
    write(source, [(f"c{number}", number, 1.0) for number in range(25)])
    done = score(service, source, target, entities=["customer"], chunk=10)
    assert (done.rows, done.resumed) == (25, 0)
    rows = [json.loads(line) for line in target.read_text().splitlines()]
    assert [row["predictions"] for row in rows] == [number + 1.0 for number in range(25)]
    with trail_of(service, tmp_path) as trail:
        found = trail.query(newest_first=False).rows()
        assert [row["items"] for row in found] == [10, 10, 5]
        assert [row["attributes"]["scoring"] for row in found] == [{"run": done.run, "chunk": at} for at in range(3)]
        assert trail.count(entity="customer=c24") == 1
    assert rows[24]["prediction_id"] == found[2]["prediction_id"]
    assert not target.with_name("out.jsonl.parts").exists()


def test_an_interrupted_run_goes_on(service, tmp_path) -> None:
    """What was scored before is not scored again, and another run is not mixed with it."""
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    write(source, [(f"c{number}", number, 1.0) for number in range(25)])

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(service, source, target, entities=["customer"], chunk=10, progress=stop)
    with pytest.raises(ConfigurationError, match="holds an interrupted run with another chunk size"):
        score(service, source, target, entities=["customer"], chunk=5)
    done = score(service, source, target, entities=["customer"], chunk=10)
    assert (done.rows, done.resumed) == (25, 10)
    with target.open(newline="") as file:
        assert [float(row["predictions"]) for row in csv.DictReader(file)] == [number + 1.0 for number in range(25)]
    with trail_of(service, tmp_path) as trail:
        assert trail.count() == 3


def stored_model() -> str:
    """Save a model, and give its tag."""
    with bentoml.models.create("scored_by", module="bentoml.sklearn") as model:
        pass
    return str(model.tag)


def served(data_dir: Path) -> Any:
    """A service of the latest of those models, as another process would import it: BentoML looks `latest` up once."""

    @e2i_serving.service(observability={"data_dir": str(data_dir), "relay_enabled": False, "gc_freeze": False})
    class Offset(e2i_serving.RegressionService):
        model = "scored_by:latest"
        feature_names = ("a", "b")

        def load(self) -> Any:
            class First:
                def predict(self, rows: Any) -> Any:
                    return np.asarray(rows)[:, 0]

            return First()

    return Offset


def test_a_run_is_not_gone_on_with_by_another_model(tmp_path) -> None:
    """Where the model was trained anew in between, that is said, with both; the rows of one output are of one model."""
    first, data_dir = stored_model(), tmp_path / "data"
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    write(source, [(f"c{number}", number, 1.0) for number in range(25)])

    def stop(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        score(served(data_dir), source, target, entities=["customer"], chunk=10, progress=stop)
    second = stored_model()
    with pytest.raises(ConfigurationError) as refused:
        score(served(data_dir), source, target, entities=["customer"], chunk=10)
    assert f"holds an interrupted run with another model ({first}, and not {second})" in str(refused.value)
    bentoml.models.delete(second)
    assert score(served(data_dir), source, target, entities=["customer"], chunk=10).resumed == 10


def test_what_is_said_of_rows_that_fail_is_what_then_holds(service, tmp_path) -> None:
    """A corrected file is another file: the parts are to be deleted first, and then it is scored from its beginning."""
    source, target = tmp_path / "in.csv", tmp_path / "out.csv"
    write(source, [("c0", 1.0, 1.0), ("c1", -1.0, 1.0)])
    with pytest.raises(ConfigurationError) as failed:
        score(service, source, target, entities=["customer"], chunk=1)
    parts = target.with_name("out.csv.parts")
    assert f"correct the file, delete {parts} and run it again" in str(failed.value)
    write(source, [("c0", 1.0, 1.0), ("c1", 10.0, 1.0)])
    with pytest.raises(ConfigurationError, match="holds an interrupted run with another state of the file"):
        score(service, source, target, entities=["customer"], chunk=1)
    shutil.rmtree(parts)
    done = score(service, source, target, entities=["customer"], chunk=1)
    assert (done.rows, done.resumed) == (2, 0)


def test_rows_that_fail_are_said(service, tmp_path) -> None:
    """A chunk that is not answered ends the run, and says which rows it was."""
    source = tmp_path / "in.csv"
    write(source, [("c0", 1.0, 1.0), ("c1", -1.0, 1.0)])
    with pytest.raises(ConfigurationError, match="Rows 1 to 1 were answered 500"):
        score(service, source, tmp_path / "out.csv", entities=["customer"], chunk=1)


def entities_of(service: Any, tmp_path: Any) -> list[Any]:
    """The customers on record, in order."""
    with trail_of(service, tmp_path) as trail:
        return [item["entity"]["customer"] for row in trail.query(newest_first=False) for item in row["item_rows"]]


def test_entities_of_csv_are_the_text_of_the_file(service, tmp_path) -> None:
    """An id that reads as a number is still the id that stands there, and is found by it."""
    ids = ["00123", "9007199254740993", "1e5", "1_000", "nan", " 7", "+7"]
    write(tmp_path / "in.csv", [(each, 1.0, 1.0) for each in ids])
    score(service, tmp_path / "in.csv", tmp_path / "out.csv", entities=["customer"])
    assert entities_of(service, tmp_path) == ids
    with trail_of(service, tmp_path) as trail:
        assert [trail.count(entity=f"customer={each}") for each in ids] == [1] * len(ids)


def test_integers_of_parquet_stay_as_they_are(service, tmp_path) -> None:
    """Ids beyond what a double can tell apart are told apart."""
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    ids = [9007199254740992, 9007199254740993, 2**63 - 1]
    table = pa.table({"customer": pa.array(ids, pa.int64()), "a": [1.0] * 3, "b": [1.0] * 3})
    parquet.write_table(table, tmp_path / "in.parquet")
    score(service, tmp_path / "in.parquet", tmp_path / "out.csv", entities=["customer"])
    assert entities_of(service, tmp_path) == ids


def test_integers_of_json_lines_stay_as_they_are(service, tmp_path) -> None:
    """A whole number is taken for an integer, unless it is one of several that read alike."""
    source = tmp_path / "in.jsonl"
    source.write_text('{"customer": 9007199254740993, "a": 1, "b": 1}\n{"customer": 17.0, "a": 1, "b": 1}\n')
    score(service, source, tmp_path / "out.csv", entities=["customer"])
    assert entities_of(service, tmp_path) == [9007199254740993, 17]
    source.write_text('{"customer": 9007199254740993.0, "a": 1, "b": 1}\n')
    with pytest.raises(ConfigurationError, match="Rows 0 to 0: the column 'customer' holds"):
        score(service, source, tmp_path / "other.csv", entities=["customer"])


@pytest.mark.parametrize("text", ["", "nan", "NaN"])
def test_a_missing_value_is_missing_however_it_is_written(service, tmp_path, text) -> None:
    """An empty cell, or NaN as NumPy writes it, is null."""
    write(tmp_path / "in.csv", [("c0", text, 1.0)])
    score(service, tmp_path / "in.csv", tmp_path / "out.csv", entities=["customer"])
    with trail_of(service, tmp_path) as trail:
        (row,) = trail.query()
    assert row["item_rows"][0]["inputs"] == {"a": None, "b": 1.0}


@pytest.mark.parametrize("text", ["1_000", "inf", "-Infinity", "1e999"])
def test_what_is_no_finite_number_is_no_feature(service, tmp_path, text) -> None:
    """A spelling that only Python reads as a number is refused with its rows, and not scored as something else."""
    write(tmp_path / "in.csv", [("c0", 1.0, 1.0), ("c1", text, 1.0)])
    with pytest.raises(ConfigurationError, match=r"Rows 1 to 1 were answered 400.*got `str`"):
        score(service, tmp_path / "in.csv", tmp_path / "out.csv", entities=["customer"], chunk=1)


def test_parquet_is_read_and_written(service, tmp_path) -> None:
    """Parquet files are taken and made."""
    pa = pytest.importorskip("pyarrow")
    from pyarrow import parquet

    parquet.write_table(pa.table({"a": [1.0, 2.0], "b": [3.0, 4.0]}), tmp_path / "in.parquet")
    score(service, tmp_path / "in.parquet", tmp_path / "out.parquet")
    assert parquet.read_table(tmp_path / "out.parquet")["predictions"].to_pylist() == [4.0, 6.0]


@pytest.mark.parametrize(("source", "said"), [("in.txt", "no known format"), ("none.csv", "There is no file")])
def test_wrong_files_are_refused(service, tmp_path, source, said) -> None:
    """What can't be read is said before anything is loaded."""
    with pytest.raises(ConfigurationError, match=said):
        score(service, tmp_path / source, tmp_path / "out.csv")
