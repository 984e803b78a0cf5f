"""The commands about what is appended beside predictions, and about a store's version."""

from __future__ import annotations

import json
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from log_lines import logging_put_back
from sqlalchemy import text
from typer.testing import CliRunner

from e2i_serving.cli import app
from e2i_serving.journal import list_lives
from e2i_serving.record import Entry, LateResult, Life, Outcome, PredictionRecord, RowBatch, Values
from e2i_serving.relay.explode import explode
from e2i_serving.stores.engine import open_engine, sqlite_url
from e2i_serving.stores.migrations import HEAD, VERSION_TABLE
from e2i_serving.stores.sql import SqlAuditStore

LIFE = Life(life="life-1", service="credit", started_ns=1, pid=1)
COMMANDS = (
    ("audit", "accesses"),
    ("audit", "upgrade"),
    ("outcomes", "add"),
    ("outcomes", "import"),
    ("outcomes", "list"),
)


def entry(number: int) -> Entry:
    """A prediction of one item."""
    fields: dict[str, Any] = {"request_id": f"r{number}", "items": 1, "outputs": {"score": Values([0.5])}}
    return Entry(LIFE, number, PredictionRecord(f"p{number}", number, 0.1, Outcome.OK, 200, **fields))


@pytest.fixture
def data_dir(tmp_path) -> Path:
    """A data directory whose store holds two predictions, one with a late result."""
    (tmp_path / "journal").mkdir()
    late = Entry(LIFE, 3, LateResult("p2", 7.5, Outcome.ERROR, error_type="ValueError", error_message="too late"))
    with closing(SqlAuditStore(sqlite_url(tmp_path / "audit.db"))) as store:
        store.write(explode([entry(1), entry(2), late]))
    return tmp_path


@pytest.fixture
def run(data_dir, monkeypatch):
    """Runs a command on the data directory and gives its result."""
    monkeypatch.setenv("E2I_SERVING_DATA_DIR", str(data_dir))
    monkeypatch.setenv("BENTOML_HOME", str(data_dir / "home"))
    monkeypatch.chdir(data_dir)
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def objects(result) -> list[dict[str, Any]]:
    """What a command printed, one object a line."""
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_helps_with_examples(run, command):
    """Each command's help has examples, line by line."""
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert f"Examples:\n    e2i-serving {' '.join(command)}" in result.stdout


def test_an_outcome_is_added_and_shown(run, data_dir):
    """A truth and its correction are stored when the command returns, and stand with the prediction."""
    first = run("outcomes", "add", "p1", "--item", "0", "--value", "true", "--source", "claims", "--comment", "[b]x")
    assert first.exit_code == 0, first.output
    assert first.stdout.endswith(" stored\n")
    assert run("outcomes", "add", "--request-id", "r1", "--name", "quality", "--score", "0.5").exit_code == 0
    assert list_lives(data_dir / "journal") == []
    listed = objects(run("outcomes", "list", "--format", "json"))
    assert [(row["name"], row["value"], row["score"]) for row in listed] == [
        ("quality", None, 0.5),
        ("truth", True, None),
    ]
    assert listed[1]["outcome_id"] == first.stdout.split()[0]
    assert [row["name"] for row in objects(run("outcomes", "list", "p1", "--name", "truth", "--format", "json"))] == [
        "truth"
    ]
    assert objects(run("outcomes", "list", "--request-id", "r2", "--format", "json")) == []
    table = run("outcomes", "list").stdout
    assert "claims" in table
    assert "[b]x" in table
    shown = run("audit", "show", "p1").stdout
    assert shown.count("Outcomes") == 2
    assert shown.index("quality") < shown.index("Item 0") < shown.index("claims")
    (full,) = objects(run("audit", "query", "--prediction-id", "p1", "--format", "json"))
    assert [row["name"] for row in full["outcomes"]] == ["truth", "quality"]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["nobody", "--value", "1"], "no prediction 'nobody'"),
        (["p1"], "needs a value or a score"),
        (["--value", "1"], "needs a prediction_id or a request_id"),
        (["p1", "--value", "1", "--item", "7"], "has 1 items"),
        (["p1", "--value", "1", "--observed", "soon"], "is no time"),
    ],
)
def test_a_wrong_outcome_is_one_line(run, data_dir, options, said):
    """What can't be recorded is said, and nothing is."""
    result = run("outcomes", "add", *options)
    assert result.exit_code == 2
    assert said in result.stderr
    assert list_lives(data_dir / "journal") == []


def test_a_file_is_imported_once(run, data_dir):
    """Bad lines are listed by number in the file's order, good ones are stored; the second time all are known."""
    path = data_dir / "claims.csv"
    path.write_text("prediction_id,item,value\np1,0,true\np1,zero,true\nnobody,0,true\np2,0,false\np1,0,\n")
    result = run("outcomes", "import", str(path))
    assert result.exit_code == 1
    assert result.stdout == "2 outcomes stored, 0 known already, 3 refused\n"
    said = result.stderr.splitlines()
    assert [line.split(": ")[1] for line in said] == ["line 3", "line 4", "line 6"]
    path.write_text("prediction_id,item,value\np1,0,true\np2,0,false\n")
    again = run("outcomes", "import", str(path))
    assert again.exit_code == 0
    assert again.stdout == "0 outcomes stored, 2 known already, 0 refused\n"
    assert len(objects(run("outcomes", "list", "--format", "json"))) == 2


def test_an_import_of_nothing_known_can_be_allowed(run, data_dir):
    """Outcomes may come before their predictions."""
    path = data_dir / "claims.jsonl"
    path.write_text('{"request_id": "early", "value": 1}\n')
    assert run("outcomes", "import", str(path)).exit_code == 1
    assert run("outcomes", "import", str(path), "--allow-unknown").exit_code == 0
    assert [row["request_id"] for row in objects(run("outcomes", "list", "--format", "json"))] == ["early"]


def test_a_file_that_is_none_is_one_line(run):
    """A file that is not there is a mistake of the command's."""
    result = run("outcomes", "import", "missing.csv")
    assert result.exit_code == 2
    assert "no file missing.csv" in result.stderr


def test_show_tells_what_came_after_the_answer(run):
    """A late result stands in the full view, under the record that it does not change."""
    shown = run("audit", "show", "p2").stdout
    assert "After the answer (1)" in shown
    assert "too late" in shown
    assert "7500.00 ms" in shown
    (full,) = objects(run("audit", "show", "p2", "--format", "json"))
    assert [event["error_message"] for event in full["events"]] == ["too late"]


def test_accesses_are_listed(run, data_dir):
    """Each command that looked is one line, with what it asked for and how many predictions it showed."""
    run("audit", "query", "--outcome", "ok", "--limit", "1")
    run("audit", "show", "p1")
    run("outcomes", "list")
    with logging_put_back():
        assert run("relay", "--once").exit_code == 0
    rows = objects(run("audit", "accesses", "--format", "json"))
    assert [(row["way"], row["action"], row["predictions"]) for row in rows[::-1]] == [
        ("cli", "audit query", 1),
        ("cli", "audit show", 1),
        ("cli", "outcomes list", 0),
    ]
    assert rows[-1]["conditions"] == {"outcome": "ok", "limit": 1}
    table = run("audit", "accesses", "--since", "1h").stdout
    assert "audit show" in table
    assert "PRINCIPAL" in table
    assert objects(run("audit", "accesses", "--until", "1d", "--format", "json")) == []


def test_the_store_is_upgraded_on_demand(run, data_dir):
    """The command says what is to be done, does it, and has nothing to do the next time."""
    assert HEAD in run("audit", "upgrade").stdout
    engine = open_engine(sqlite_url(data_dir / "audit.db"))
    with engine.begin() as connection:
        for table in ("events", "outcomes", "accesses", "gaps", "holds", VERSION_TABLE):
            connection.execute(text(f"DROP TABLE {table}"))
        connection.execute(text("DROP INDEX ix_predictions_life_sequence"))
        for table, columns in {
            "predictions": ("retention", "payload_digest", "salt", "erased", "hash", "feature_provenance", "lineage"),
            "items": ("salt", "erased"),
        }.items():
            for column in columns:
                connection.execute(text(f"ALTER TABLE {table} DROP COLUMN {column}"))
    engine.dispose()
    old = run("audit", "query")
    assert old.exit_code == 2
    assert "audit upgrade" in old.stderr
    check = run("audit", "upgrade", "--check")
    assert (check.exit_code, check.stdout) == (
        1,
        f"The tables are to be brought from version 0001 to version {HEAD}.\n",
    )
    assert run("audit", "upgrade").stdout == f"The tables were brought from version 0001 to version {HEAD}.\n"
    assert run("audit", "upgrade", "--check").exit_code == 0
    assert len(objects(run("audit", "query", "--format", "json"))) == 2


def test_upgrading_makes_no_store(run, tmp_path):
    """A path that was mistyped stays empty."""
    result = run("audit", "upgrade", "--data-dir", str(tmp_path / "nothing"))
    assert result.exit_code == 2
    assert "no audit store" in result.stderr
    assert not (tmp_path / "nothing").exists()


def test_an_empty_database_can_be_prepared(tmp_path):
    """An administrator may make the tables before any relay comes."""
    (tmp_path / "audit.db").touch()
    result = CliRunner().invoke(app, ["audit", "upgrade", "--data-dir", str(tmp_path)])
    assert result.stdout == f"The tables were brought from nothing to version {HEAD}.\n"
    with closing(SqlAuditStore(sqlite_url(tmp_path / "audit.db"))) as store:
        assert store.write(RowBatch()) == 0
