"""The command line, over real SQLite files."""

from __future__ import annotations

import csv
import io
import json
import queue
import signal
import subprocess
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from log_lines import logging_put_back
from typer.testing import CliRunner

import e2i_serving
from e2i_serving.cli import app
from e2i_serving.journal import JournalWriter
from e2i_serving.record import Entry, Life, Matrix, ModelInfo, Outcome, PredictionRecord, Values
from e2i_serving.relay.explode import explode
from e2i_serving.settings import Settings
from e2i_serving.stores.engine import sqlite_url
from e2i_serving.stores.sql import SqlAuditStore

LIFE = Life(
    life="life-1",
    service="credit",
    started_ns=1,
    pid=1,
    model=ModelInfo(name="scorer", version="v1", digest="d1ge57", lineage={"training_data": "sales@7"}),
)
NOON = 1_900_000_000_000_000_000
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
COMMANDS = (("audit", "query"), ("audit", "show"), ("audit", "books"), ("settings",), ("relay",))


def entry(number: int, **changes: Any) -> Entry:
    """A prediction of one item; later numbers arrived a second later each."""
    fields: dict[str, Any] = {
        "prediction_id": f"prediction-{number}",
        "time_ns": NOON + number * 1_000_000_000,
        "duration": 0.0125,
        "outcome": Outcome.OK,
        "status": 200,
        "request_id": f"request-{number}",
        "trace_id": TRACE if number < 3 else f"{number:032x}",
        "phases": {"predict": 0.005},
        "labels": {"brand": "north" if number % 2 else "south"},
        "items": 1,
        "entities": {"customer": Values([f"c{number}"])},
        "inputs": {"features": Matrix.of(np.array([[41.5]]), ("age",))},
        "outputs": {"score": Matrix.of(np.array([0.75])), "reason": Values(["income"])},
        **changes,
    }
    return Entry(LIFE, number, PredictionRecord(**fields))


def write(data_dir: Path, *entries: Entry) -> None:
    """Store entries in a data directory's default store."""
    with closing(SqlAuditStore(sqlite_url(data_dir / "audit.db"))) as store:
        store.write(explode(entries))


@pytest.fixture
def data_dir(tmp_path) -> Path:
    """A data directory whose store holds four predictions."""
    write(
        tmp_path,
        entry(1),
        entry(2),
        entry(3, outcome=Outcome.ERROR, status=500, error_type="ValueError", error_message="[red]boom[/red]\x1b[2J"),
        entry(4, request_id="=cmd()", model="other", model_version="v2"),
    )
    return tmp_path


@pytest.fixture
def run(data_dir, monkeypatch):
    """Runs a command on the data directory and gives its result."""
    monkeypatch.setenv("E2I_SERVING_DATA_DIR", str(data_dir))
    monkeypatch.chdir(data_dir)
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def listed(result) -> list[str]:
    """The prediction ids of a JSON listing."""
    assert result.exit_code == 0, result.output
    return [json.loads(line)["prediction_id"].removeprefix("prediction-") for line in result.stdout.splitlines()]


def test_the_version_is_the_package_s(run):
    """``--version`` prints the version and nothing else."""
    assert run("--version").stdout == f"{e2i_serving.__version__}\n"


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_helps_with_examples(run, command):
    """Each command's help has examples, line by line."""
    result = run(*command, "--help")
    assert result.exit_code == 0
    assert f"Examples:\n    e2i-serving {' '.join(command)}" in result.stdout


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([], ["4", "3", "2", "1"]),
        (["--model", "scorer"], ["3", "2", "1"]),
        (["--version", "v2"], ["4"]),
        (["--outcome", "error"], ["3"]),
        (["--status", "500"], ["3"]),
        (["--label", "brand=north"], ["3", "1"]),
        (["--label", "brand=north", "--label", "brand=south"], ["4", "2"]),
        (["--entity", "c2"], ["2"]),
        (["--entity", "customer=c2"], ["2"]),
        (["--request-id", "request-1"], ["1"]),
        (["--prediction-id", "prediction-2"], ["2"]),
        (["--trace-id", TRACE.upper()], ["2", "1"]),
        (["--service", "credit"], ["4", "3", "2", "1"]),
        (["--service", "other"], []),
        (["--since", "2030-03-17T17:46:43Z"], ["4", "3"]),
        (["--until", "2030-03-17T17:46:42"], ["1"]),
        (["--limit", "2"], ["4", "3"]),
        (["--limit", "0"], []),
    ],
)
def test_query_conditions(run, options, expected):
    """Each option chooses what it says."""
    assert listed(run("audit", "query", "--format", "json", *options)) == expected


def test_query_as_json_holds_everything(run):
    """A line is one object with its time in UTC, its JSON columns as objects, and its items."""
    result = run("audit", "query", "--format", "json", "--prediction-id", "prediction-1")
    row = json.loads(result.stdout)
    assert next(iter(row.items())) == ("time", "2030-03-17T17:46:41.000000Z")
    assert row["labels"] == {"brand": "north"}
    assert row["item_rows"][0]["inputs"] == {"age": 41.5}


def test_query_as_a_table(run):
    """A table has a line a prediction, with whole ids even where no terminal is."""
    lines = run("audit", "query").stdout.splitlines()
    assert lines[0].split() == [
        *("TIME", "PREDICTION", "MODEL", "OUTCOME", "STATUS", "DURATION", "ITEMS", "REQUEST", "ERROR"),
    ]
    assert len(lines) == 5
    assert lines[2].split() == [
        *("2030-03-17T17:46:43.000000Z", "prediction-3", "scorer:v1", "error", "500", "12.50", "ms", "1"),
        *("request-3", "ValueError:", "[red]boom[/red]\ufffd[2J"),
    ]


def test_query_as_csv(run):
    """CSV has names, JSON cells, and nothing that a spreadsheet would run."""
    rows = list(csv.DictReader(io.StringIO(run("audit", "query", "--format", "csv").stdout)))
    assert [row["prediction_id"] for row in rows] == [f"prediction-{number}" for number in (4, 3, 2, 1)]
    assert json.loads(rows[3]["labels"]) == {"brand": "north"}
    assert rows[0]["request_id"] == "'=cmd()"
    assert rows[1]["error_message"] == "[red]boom[/red]\ufffd[2J"
    assert (rows[3]["principal"], rows[3]["duration"]) == ("", "0.0125")


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--outcome", "failed"], "no outcome 'failed'. Ask for one of ok, invalid"),
        (["--since", "yesterday"], "'yesterday' is no time"),
        (["--data-dir", "none"], "no audit store at"),
        (["--url", "mysql://ann:s3cret@h/db"], "mysql://ann:***@h/db"),
        (["--url", "sqlite:///a.db", "--data-dir", "."], "Give one of them"),
    ],
)
def test_mistakes_are_one_line(run, options, said):
    """An expected error is one line on standard error and exit code 2."""
    result = run("audit", "query", *options)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("Error: ")
    assert said in result.stderr
    assert "\x1b" not in result.stderr


def test_a_label_must_be_a_pair(run):
    """A label without a value is a mistake of usage."""
    result = run("audit", "query", "--label", "brand")
    assert result.exit_code == 2
    assert "'brand' is not name=value" in result.stderr


def test_show_a_prediction_in_full(run):
    """One match is shown whole: identity, timing, model, labels and each item."""
    shown = run("audit", "show", "request-1").stdout
    for words in (
        *("prediction-1  ok  200", "2030-03-17T17:46:41.000000Z", "request-1", TRACE, "credit"),
        *("12.50 ms", "5.00 ms", "scorer", "v1", "d1ge57", "Lineage", "sales@7", "brand", "north"),
        *("Item 0", "customer", "c1", "age", "41.5", "score", "0.75", "reason", "income"),
    ):
        assert words in shown


def test_show_lists_every_match(run):
    """An id of several predictions lists them all."""
    result = run("audit", "show", TRACE)
    assert "prediction-1" in result.stdout
    assert "prediction-2" in result.stdout
    assert "2 predictions" in result.stdout
    assert listed(run("audit", "show", TRACE, "--format", "json")) == ["2", "1"]


def test_show_of_an_unknown_id(run):
    """An id that nothing has is exit code 1, and is printed without what it would do to a terminal."""
    result = run("audit", "show", "no\x1b[31m[bold]where")
    assert result.exit_code == 1
    assert result.stderr == "Error: No prediction, request or trace has the id no\ufffd[31m[bold]where.\n"


def test_show_of_what_is_not_delivered(run, data_dir):
    """Where the id may stand in the journal still, the error says so, and what delivers it."""
    with closing(JournalWriter(data_dir / "journal", LIFE, segment_bytes=2**16, record_bytes=2**16)) as writer:
        writer.append(entry(9).body)
    result = run("audit", "show", "request-9")
    assert result.exit_code == 1
    assert " 1 predictions are in the journal and not in the store yet: " in result.stderr
    with logging_put_back():
        run("relay", "--once")
    assert "prediction-9" in run("audit", "show", "request-9").stdout


def test_what_comes_from_outside_is_only_text(run):
    """Markup and control characters of a message reach no terminal."""
    shown = run("audit", "show", "prediction-3").stdout
    assert "[red]boom[/red]\ufffd[2J" in shown
    assert "\x1b" not in shown
    assert "\x1b" not in run("audit", "show", "prediction-3", "--format", "json").stdout


def test_a_url_names_a_store(run, data_dir):
    """``--url`` reads another store than the settings name."""
    assert len(listed(run("audit", "query", "--format", "json", "--url", sqlite_url(data_dir / "audit.db")))) == 4


def test_settings_say_where_they_came_from(run, data_dir, monkeypatch):
    """Each setting is listed with value, origin, variable and documentation, without passwords."""
    monkeypatch.setenv("E2I_SERVING_AUDIT_URL", "postgresql://ann:s3cret@h/db?password=s3cret")
    (data_dir / "observability.yaml").write_text("labels: [brand]\n")
    result = run("settings", "--format", "json")
    rows = {row["name"]: row for row in map(json.loads, result.stdout.splitlines())}
    assert rows.keys() == Settings.model_fields.keys()
    assert rows["audit_url"]["value"] == "postgresql://ann:***@h/db?password=***"
    assert (rows["audit_url"]["origin"], rows["audit_url"]["variable"]) == ("environment", "E2I_SERVING_AUDIT_URL")
    assert (rows["labels"]["value"], rows["labels"]["origin"]) == (["brand"], "file")
    assert rows["durability"]["origin"] == "default"
    assert all(row["doc"] for row in rows.values())
    shown = run("settings").stdout
    assert "s3cret" not in shown
    assert "E2I_SERVING_DURABILITY" in shown
    assert "observability.yaml" in shown


def test_the_settings_reference_is_the_same_everywhere(run, monkeypatch):
    """As Markdown every setting stands with its default, whatever this machine has set."""
    shown = run("settings", "--format", "markdown").stdout
    monkeypatch.setenv("E2I_SERVING_ENVIRONMENT", "elsewhere")
    assert run("settings", "--format", "markdown").stdout == shown
    rows = [line for line in shown.splitlines() if line.startswith("| `")]
    assert len(rows) == len(Settings.model_fields)
    assert all(line.count("|") - line.count("\\|") == 6 for line in rows)
    assert "| `durability` | `E2I_SERVING_DURABILITY` | `process` or `power-loss` | `process` |" in shown


def test_wrong_settings_are_one_line(run, monkeypatch):
    """A setting that does not exist stops the command with what to do."""
    monkeypatch.setenv("E2I_SERVING_DURABILTY", "process")
    result = run("settings")
    assert result.exit_code == 2
    assert "Did you mean 'E2I_SERVING_DURABILITY'?" in result.stderr


def command(*arguments: str) -> list[str]:
    """The command line as a process of its own."""
    return [sys.executable, "-c", "from e2i_serving.cli import main; main()", *arguments]


def test_relay_once(data_dir):
    """The relay runs in the foreground and ends when nothing is left to deliver."""
    done = subprocess.run(
        command("relay", "--once", "--data-dir", str(data_dir)), capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr


def test_a_second_relay_says_so(run, data_dir):
    """Where a relay runs already, another one ends with exit code 1."""
    from e2i_serving.relay import RelayLock

    with RelayLock(data_dir) as lock:
        assert lock.acquire()
        done = subprocess.run(
            command("relay", "--once", "--data-dir", str(data_dir)),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 1
    assert "Another relay runs" in done.stderr


def test_follow_prints_what_comes(data_dir, eventually):
    """The last predictions are printed, then each new one once, until interrupted."""
    options = ("--follow", "--format", "json", "--limit", "2", "--data-dir", str(data_dir))
    process = subprocess.Popen(command("audit", "query", *options), stdout=subprocess.PIPE, text=True)
    lines: queue.SimpleQueue[str] = queue.SimpleQueue()
    assert process.stdout is not None
    output = process.stdout
    reader = threading.Thread(target=lambda: [lines.put(line) for line in output])
    reader.start()
    seen: list[str] = []

    def prints(*expected: str) -> None:
        def arrived() -> bool:
            while not lines.empty():
                seen.append(json.loads(lines.get())["prediction_id"].removeprefix("prediction-"))
            return seen == list(expected)

        eventually(arrived, what=f"{expected}, after {seen},")

    try:
        prints("3", "4")
        write(data_dir, entry(6))
        prints("3", "4", "6")
        write(data_dir, entry(5), entry(7))
        prints("3", "4", "6", "5", "7")
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()
        reader.join()
        output.close()


def test_the_command_line_starts_light():
    """Asking for help imports neither BentoML, nor NumPy, nor SQLAlchemy, nor pandas."""
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from e2i_serving.cli import app\n"
        "assert CliRunner().invoke(app, ['audit', 'query', '--help']).exit_code == 0\n"
        "print({'bentoml', 'numpy', 'sqlalchemy', 'pandas'} & sys.modules.keys())\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"


def test_colour_is_for_terminals(data_dir):
    """What is written to a pipe has no escape sequences, whatever the terminal is called."""
    done = subprocess.run(
        command("audit", "query", "--data-dir", str(data_dir)),
        env={"TERM": "xterm-256color", "PYTHONPATH": ":".join(sys.path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "prediction-1" in done.stdout
    assert "\x1b" not in done.stdout
