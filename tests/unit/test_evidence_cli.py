"""The commands that verify, erase, hold and purge."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing

import pytest
from evidence_trail import TIME, Trail, bodies
from typer.testing import CliRunner

from e2i_serving.cli.application import app

SUBJECT = "customer=customer-7-0"


@pytest.fixture
def trail(tmp_path):
    """A trail in a data directory."""
    made = Trail(tmp_path)
    (tmp_path / "journal").mkdir()
    made.deliver(bodies(10), close=True)
    return made


def run(trail: Trail, *arguments: str, code: int = 0) -> str:
    """Run a command of ``e2i-serving audit`` on the trail; returns what it printed."""
    result = CliRunner().invoke(app, ["audit", *arguments, "--data-dir", str(trail.folder)], catch_exceptions=False)
    assert result.exit_code == code, result.output
    return result.output


def test_verify_says_that_nothing_was_altered(trail):
    """An untouched trail exits with 0, and says what was looked at."""
    printed = run(trail, "verify")
    assert "Nothing was altered." in printed
    assert "predictions" in printed
    said = json.loads(run(trail, "verify", "--format", "json"))
    assert (said["passed"], said["first"], said["rows"]["predictions"]) == (True, None, 10)


def test_verify_names_the_first_bad_row(trail):
    """An altered trail exits with 1, and says where it was altered first."""
    with closing(sqlite3.connect(trail.folder / "audit.db")) as connection:
        connection.execute("UPDATE predictions SET status = 500 WHERE prediction_id = 'p00003'")
        connection.commit()
    printed = run(trail, "verify", code=1)
    assert "life life-1, row 3, prediction p00003: The prediction was altered" in printed
    said = json.loads(run(trail, "verify", "--format", "json", code=1))
    assert said["first"]["prediction_id"] == "p00003"


def test_verify_takes_checkpoints_and_keys_from_elsewhere(trail, tmp_path_factory):
    """An auditor's own copies of checkpoints and key count; a trail without checkpoints can't be verified."""
    elsewhere = tmp_path_factory.mktemp("auditor")
    trail.checkpoints.rename(elsewhere / "log")
    (key,) = (elsewhere / "log").glob("*.pub")
    key.rename(elsewhere / "credit.pub")
    options = ("--checkpoints", str(elsewhere / "log"))
    run(trail, "verify", *options, "--public-key", str(elsewhere / "credit.pub"))
    assert "No public key" in run(trail, "verify", *options, code=2)
    assert "no checkpoints" in run(trail, "verify", code=2)


def test_erase_asks_first(trail):
    """Without --yes nothing is erased until it is confirmed."""
    result = CliRunner().invoke(
        app, ["audit", "erase", "--entity", SUBJECT, "--data-dir", str(trail.folder)], input="n\n"
    )
    assert result.exit_code == 1
    assert trail.verify().erased == 0


def test_erase_says_what_it_erased(trail):
    """A try says what would go; the erasure what went; a second one that nothing is there."""
    assert "WOULD BE ERASED" in run(trail, "erase", "--entity", SUBJECT, "--dry-run")
    assert "Not reached" in run(trail, "erase", "--entity", SUBJECT, "--yes")
    assert "Nothing here is about them." in run(trail, "erase", "--entity", SUBJECT, "--yes")
    said = json.loads(run(trail, "erase", "--entity", "customer=customer-8-0", "--yes", "--format", "json"))
    assert said["rows"]["items"] == 1
    assert "name=value" in run(trail, "erase", "--entity", "customer-8-0", "--yes", code=2)
    run(trail, "verify")


def test_a_hold_is_set_listed_and_released(trail):
    """While it holds, an erasure exits with 1 and names it."""
    said = run(trail, "hold", "add", "--entity", SUBJECT, "--reason", "case 12")
    assert said.rstrip().endswith("Predictions that it covers now: 1.")
    hold_id = said.split()[1]
    assert "case 12" in run(trail, "hold", "list")
    assert hold_id in run(trail, "erase", "--entity", SUBJECT, "--yes", code=1)
    said = json.loads(run(trail, "erase", "--entity", SUBJECT, "--dry-run", "--format", "json", code=1).splitlines()[0])
    assert said["held_by"] == [hold_id]
    run(trail, "hold", "release", hold_id)
    assert "case 12" not in run(trail, "hold", "list")
    assert json.loads(run(trail, "hold", "list", "--all", "--format", "json"))["hold_id"] == hold_id
    run(trail, "erase", "--entity", SUBJECT, "--yes")
    run(trail, "verify")


@pytest.mark.parametrize(
    "forgery", ["UPDATE holds SET entity = 'customer=other'", "UPDATE holds SET reason = 'x'", "DELETE FROM holds"]
)
@pytest.mark.parametrize("released", [False, True])
def test_a_hold_can_not_be_changed_unseen(trail, forgery, released):
    """What was held, and why, stays provable after the hold was released too."""
    hold_id = run(trail, "hold", "add", "--entity", SUBJECT, "--reason", "case 12").split()[1]
    if released:
        run(trail, "hold", "release", hold_id)
    run(trail, "verify")
    with closing(sqlite3.connect(trail.folder / "audit.db")) as connection:
        connection.execute(forgery)
        connection.commit()
    assert hold_id in run(trail, "verify", code=1)


def test_purge_says_what_it_purged(trail):
    """A try counts, the purge leaves signed gaps, and what is held is said."""
    run(trail, "hold", "add", "--until", "2200-01-01", "--entity", SUBJECT, "--reason", "case 12")
    with closing(sqlite3.connect(trail.folder / "audit.db")) as connection:
        assert connection.execute("SELECT max(time_ns) FROM predictions").fetchone()[0] < TIME + 100
    assert "how long" in run(trail, "purge", code=2)
    said = json.loads(run(trail, "purge", "--older-than", "0s", "--dry-run", "--format", "json"))
    assert (said["rows"]["predictions"], said["held"], said["purge_ids"]) == (9, 1, [])
    assert "are under a hold" in run(trail, "purge", "--older-than", "0s")
    run(trail, "verify")
