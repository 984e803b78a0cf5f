"""The command line at a terminal: completion, help, progress, colour."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import typer.main
from log_lines import logging_put_back
from typer.testing import CliRunner

from e2i_serving.cli import app
from e2i_serving.cli.progress import progress
from e2i_serving.record import RowBatch
from e2i_serving.stores.engine import sqlite_url
from e2i_serving.stores.sql import SqlAuditStore

ESCAPE = "\x1b["
PROGRAM = "e2i-serving"


def leaves(command: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of each command that can be run."""
    inner = getattr(command, "commands", None)  # of a group; its class is typer's own or click's, by version
    if inner is None:
        yield path
    else:
        for name, each in inner.items():
            yield from leaves(each, (*path, name))


LEAVES = list(leaves(typer.main.get_command(app)))


@pytest.fixture
def data_dir(tmp_path, monkeypatch) -> Path:
    """A data directory with an audit store that holds nothing."""
    folder = tmp_path / "data"
    (folder / "journal").mkdir(parents=True)
    with closing(SqlAuditStore(sqlite_url(folder / "audit.db"))) as store:
        store.write(RowBatch())
    monkeypatch.setenv("E2I_SERVING_DATA_DIR", str(folder))
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    return folder


@pytest.mark.parametrize("words", LEAVES, ids=" ".join)
def test_help_has_an_example_and_says_how_it_exits(words):
    """Each command's help shows how it is typed, and the exit codes: its own, or in its place those of all."""
    shown = CliRunner().invoke(app, [*words, "--help"])
    assert shown.exit_code == 0, shown.output
    assert f"{PROGRAM} {' '.join(words)}" in shown.stdout.partition("Examples:")[2], "an example of itself"
    assert "Exit codes" in shown.stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_script_is_shown(shell):
    """Each shell gets a script that asks the command for completions."""
    shown = complete({"_E2I_SERVING_COMPLETE": f"source_{shell}"})
    assert "_E2I_SERVING_COMPLETE" in shown
    assert f"complete_{shell}" in shown


@pytest.mark.skipif(not shutil.which("bash"), reason="bash is not installed")
def test_bash_takes_the_completion_script(tmp_path):
    """Sourced in a bash, the script completes commands and options."""
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / PROGRAM).write_text(f"#!{sys.executable}\nfrom e2i_serving.cli import main\nmain()\n")
    (programs / PROGRAM).chmod(0o755)
    (tmp_path / "script").write_text(complete({"_E2I_SERVING_COMPLETE": "source_bash"}))
    typed = (
        f"source {tmp_path}/script; name=$(complete -p {PROGRAM} | sed -E 's/.*-F (\\S+).*/\\1/'); "
        f'COMP_WORDS=({PROGRAM} audit ver); COMP_CWORD=2; $name {PROGRAM}; echo "${{COMPREPLY[@]}}"; '
        f'COMP_WORDS=({PROGRAM} new --fe); COMP_CWORD=2; $name {PROGRAM}; echo "${{COMPREPLY[@]}}"'
    )
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(
        ["bash", "-c", typed], env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.split() == ["verify", "--feast"], done.stderr
    shown = subprocess.run(  # a command after it, or bash would become the program
        ["bash", "-c", f"{PROGRAM} --show-completion; true"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert shown.stdout.strip() == (tmp_path / "script").read_text().strip()


def complete(environment: dict[str, str]) -> str:
    """What the command prints for a shell that asks."""
    program = f"import sys; sys.argv[0] = {PROGRAM!r}; from e2i_serving.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(
    ("words", "what"),
    [
        (("audit", "verify"), "Verifying"),
        (("audit", "purge", "--older-than", "1d"), "Purging"),
        (("audit", "erase", "--entity", "customer=1", "--yes"), "Erasing"),
        (("audit", "dead-letters", "retry", "--all"), "Delivering"),
        (("keys", "reencrypt", "--file", "keys"), "Encrypting"),
        (("outcomes", "import", "truths.csv"), "Recording"),
    ],
    ids=lambda part: part if isinstance(part, str) else " ".join(part),
)
def test_long_work_shows_how_far_it_is(words, what, data_dir, tmp_path, monkeypatch):
    """On standard error, at a terminal and nowhere else."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "truths.csv").write_text("request_id,value\n4711,1\n")
    assert CliRunner().invoke(app, ["keys", "new", "--file", "keys"]).exit_code == 0
    CliRunner().invoke(app, ["audit", "query"])  # leaves an access
    with logging_put_back():
        assert CliRunner().invoke(app, ["relay", "--once"]).exit_code == 0  # makes a ledger, and a checkpoint
    silent = CliRunner().invoke(app, words)
    assert what not in silent.output, silent.output
    monkeypatch.setenv("FORCE_COLOR", "1")  # what rich takes for a terminal
    shown = CliRunner().invoke(app, words)
    assert what in shown.stderr, shown.output
    assert what not in shown.stdout


def test_meter_tells_how_many(capsys, monkeypatch):
    """So many of so many, by steps or all at once; without a count, the time alone."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress("Counting", total=4) as meter:
        meter.advance()
        meter.reach(3, 5)
    shown = re.sub(r"\x1b\[[0-9;?]*\w", "", capsys.readouterr().err)
    assert re.search(r"Counting.*3/5", shown)
    with progress("Waiting", counted=False):
        pass
    assert not re.search(r"Waiting.*\d/", capsys.readouterr().err)


@pytest.mark.parametrize("words", [("audit", "query"), ("audit", "books"), ("settings",), ("audit", "show", "none")])
def test_colour_is_for_terminals(words, data_dir):
    """No escape sequence goes to a pipe, on neither output."""
    done = CliRunner().invoke(app, words)
    assert ESCAPE not in done.stdout + done.stderr
