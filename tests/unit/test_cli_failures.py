"""What the command line makes of failures of disks and databases: one line, and not the answer no."""

from __future__ import annotations

import subprocess
import sys
from contextlib import closing

import pytest
import typer
from sqlalchemy import create_engine, text
from typer.testing import CliRunner

from e2i_serving.cli import app
from e2i_serving.cli.application import Commands
from e2i_serving.stores.engine import sqlite_url
from e2i_serving.stores.sql import SqlAuditStore


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a command on a data directory and gives its result."""
    monkeypatch.setenv("E2I_SERVING_DATA_DIR", str(tmp_path))
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


@pytest.mark.parametrize("command", [("audit", "books"), ("audit", "dead-letters", "list")], ids=" ".join)
def test_a_database_that_cannot_be_read_is_one_line(run, tmp_path, command):
    """It exits with 2, for 1 would say that the books do not balance."""
    (tmp_path / "ledger.db").write_bytes(b"no database" * 1000)
    result = run(*command)
    assert result.exit_code == 2
    assert result.stderr.splitlines() == [
        "Error: A database can't be used: file is not a database. Is it the right one, and may you read and write it?"
    ]


def test_a_file_that_cannot_be_read_is_one_line(run, tmp_path):
    """The line says which file, and why."""
    (tmp_path / "metrics").mkdir()
    (tmp_path / "journal").write_bytes(b"no folder")
    result = run("audit", "books")
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert f"{tmp_path / 'journal'}: Not a directory." in line


def test_what_a_database_server_says_is_told_without_the_statement():
    """A statement may have people's data in it."""
    failing = typer.Typer(cls=Commands)

    @failing.command()
    def fail() -> None:
        with create_engine("sqlite://").connect() as connection:
            connection.execute(text("SELECT 'zqSECRET' FROM nowhere"))

    @failing.command()
    def other() -> None:
        raise ZeroDivisionError

    result = CliRunner().invoke(failing, ["fail"])
    assert result.exit_code == 2
    (line,) = result.stderr.splitlines()
    assert "no such table: nowhere" in line
    assert "zqSECRET" not in line
    assert isinstance(CliRunner().invoke(failing, ["other"]).exception, ZeroDivisionError)


def test_a_reader_that_leaves_is_no_failure(tmp_path):
    """Whoever has seen enough closes the pipe; nothing is said about it."""
    with closing(SqlAuditStore(sqlite_url(tmp_path / "audit.db"))):
        pass
    main = "from e2i_serving.cli import main; main()"
    command = subprocess.Popen(
        [sys.executable, "-c", main, "settings"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=tmp_path
    )
    assert command.stdout is not None
    command.stdout.close()
    _, said = command.communicate(timeout=60)
    assert said == b""
