"""Purging: what goes by its age, what a hold keeps, and that the rest is still verified."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from typing import Any

import pytest
from evidence_instance import Instance
from evidence_trail import Trail, record
from sqlalchemy import event

from e2i_serving.evidence.opening import open_log
from e2i_serving.exceptions import ConfigurationError
from e2i_serving.record import AccessEvent, Outcome, OutcomeEvent, PredictionRecord, StreamEnd, Values
from e2i_serving.relay import read_books
from e2i_serving.runtime.holds import add_hold
from e2i_serving.runtime.purging import age_seconds, cutoffs, purge
from e2i_serving.settings import load_settings
from e2i_serving.stores.maintenance import SqlMaintenance

DAY_NS = 86_400 * 10**9


def _at(number: int, days_ago: int, retention: str = "standard", **changes: Any) -> PredictionRecord:
    return record(number, time_ns=time.time_ns() - days_ago * DAY_NS, retention=retention, **changes)


@pytest.fixture
def old_instance(tmp_path, monkeypatch):
    """An instance with predictions of several ages and classes, in an order that mixes them."""
    monkeypatch.setattr("e2i_serving.runtime.purging.BATCH", 3)
    made = Instance(tmp_path, retention={"standard": "400d", "failure": "90d"})
    with closing(made.writer):
        long = {"inputs": {"text": Values(["x" * 9000])}, "attributes": {}}
        made.journal(*[_at(number, 500) for number in range(1, 8)])
        made.journal(_at(8, 100, **long), _at(9, 100, "failure", entities={}, **long), _at(10, 100, "failure"))
        made.journal(StreamEnd("p00002", 1.0, Outcome.OK), OutcomeEvent("o1", 1, "p00003", 0, value=1))
        made.journal(
            OutcomeEvent("o2", 1, "nobody", 0, value=1), AccessEvent("a1", 1), AccessEvent("a2", time.time_ns())
        )
        made.journal(_at(11, 500), _at(12, 1))
        made.deliver()
        yield made


def test_a_purge_goes_by_the_retention_of_each_class(old_instance):
    """Each class goes at its own age, what is about a prediction goes with it, and signed gaps take the places."""
    before = [book.stored for book in read_books(old_instance.data_dir)]
    tried = old_instance.purge(dry_run=True)
    assert tried.rows["predictions"] == 10
    done = old_instance.purge()
    assert (done.rows["predictions"], done.rows["events"], done.rows["outcomes"]) == (10, 1, 1)
    assert old_instance.rows("SELECT prediction_id FROM predictions ORDER BY 1") == [("p00008",), ("p00012",)]
    assert old_instance.rows("SELECT count(*) FROM items") == [(2,)]
    assert old_instance.rows("SELECT count(*) FROM entities") == [(2,)]
    report = old_instance.verify()
    assert report.passed, report.problems
    assert report.purged == 12
    assert len(done.purge_ids) == 4
    assert [book.stored for book in read_books(old_instance.data_dir)] == before
    assert old_instance.purge().rows.total() == 0
    old_instance.journal(record(20))
    old_instance.deliver()
    assert old_instance.verify().passed


def test_a_purge_of_all_that_is_old_takes_accesses_and_orphans_too(old_instance):
    """By age alone, those who looked and what was said of unknown predictions go as well."""
    done = old_instance.purge(older_than="200d")
    assert (done.rows["predictions"], done.rows["accesses"], done.rows["outcomes"]) == (8, 1, 2)
    report = old_instance.verify()
    assert report.passed, report.problems


@pytest.mark.parametrize("asked", [{}, {"older_than": "200d"}, {"older_than": "1d", "retention_class": "failure"}])
def test_a_try_counts_what_the_purge_takes(old_instance, asked):
    """Of every table, with holds as without, and what is known of a prediction by its request alone."""
    old_instance.settings = old_instance.settings.model_copy(
        update={"retention": {"failure": "90d", "accesses": "300d", "standard": "400d"}}
    )
    old_instance.journal(
        *(OutcomeEvent(f"r{number}", 1, "", request_id=f"request-{number}", value=1) for number in range(3, 11))
    )
    old_instance.deliver()
    log = open_log(old_instance.settings, old_instance.data_dir)
    with SqlMaintenance(old_instance.url) as store:
        add_hold(store, log, reason="r", entity="customer=customer-3-0")
    before = old_instance.rows("SELECT * FROM predictions, outcomes")
    tried = old_instance.purge(dry_run=True, **asked)
    assert (tried.purge_ids, old_instance.rows("SELECT * FROM predictions, outcomes")) == ([], before)
    done = old_instance.purge(**asked)
    assert (tried.rows, tried.held) == (done.rows, done.held)
    assert {"predictions", "items"} <= (+done.rows).keys()


def test_a_purge_of_one_class_leaves_the_others(old_instance):
    """Only the class that is named goes; a payload file that another row refers to stays."""
    assert len(list((old_instance.data_dir / "payloads").glob("*/*"))) == 1
    done = old_instance.purge(older_than="10d", retention_class="failure")
    assert (done.rows["predictions"], done.payload_files) == (2, 0)
    done = old_instance.purge(older_than="10d", retention_class="standard")
    assert (done.rows["predictions"], done.payload_files) == (9, 1)
    assert old_instance.verify().passed


def test_a_purge_skips_what_is_held(old_instance):
    """What a hold covers stays, and is counted."""
    with SqlMaintenance(old_instance.url) as store:
        add_hold(
            store, open_log(old_instance.settings, old_instance.data_dir), reason="r", entity="customer=customer-3-0"
        )
    done = old_instance.purge(older_than="1d")
    assert done.held == 1
    assert ("p00003",) in old_instance.rows("SELECT prediction_id FROM predictions")
    assert old_instance.verify().passed


def test_a_hold_that_is_set_while_a_purge_runs_holds(old_instance):
    """What is held from now on is left by the transactions that follow."""
    settings, data_dir = old_instance.settings, old_instance.data_dir
    log = open_log(settings, data_dir)

    def hold(_done: int) -> None:
        with SqlMaintenance(old_instance.url) as other:
            if not _holds(other):
                add_hold(other, log, reason="r", entity="customer=customer-7-0")

    with SqlMaintenance(old_instance.url) as store:
        done = purge(settings, data_dir, store, log, cutoffs(settings, "400d", None), progress=hold)
    assert (done.rows["predictions"], done.held) == (7, 1)
    assert ("p00007",) in old_instance.rows("SELECT prediction_id FROM predictions")
    report = old_instance.verify()
    assert report.passed, report.problems


def _holds(store: SqlMaintenance) -> Any:
    with store.transaction() as change:
        return change.holds()


def test_what_is_known_of_a_held_prediction_by_its_request_is_held(old_instance):
    """A truth that names the request alone stays with its prediction, and goes when that is gone."""
    old_instance.journal(
        OutcomeEvent("o3", 1, "", request_id="request-3", value="kept"),
        OutcomeEvent("o4", 1, "", request_id="request-4", value="gone"),
    )
    old_instance.deliver()
    with SqlMaintenance(old_instance.url) as store:
        add_hold(
            store, open_log(old_instance.settings, old_instance.data_dir), reason="r", entity="customer=customer-3-0"
        )
    old_instance.purge(older_than="1d")
    assert old_instance.rows("SELECT outcome_id FROM outcomes ORDER BY 1") == [("o1",), ("o3",)]
    report = old_instance.verify()
    assert report.passed, report.problems


def test_nothing_is_asked_before_the_first_row_of_a_chain(tmp_path):
    """Lives of a single outcome, as a command makes them, cost no statement each; the trail is verified."""
    trail = Trail(tmp_path)
    for number in range(3):
        outcome = OutcomeEvent(f"o{number}", 1, f"unknown-{number}", 0, value=1, salt=bytes(16))
        trail.deliver([outcome], f"life-{number}", close=True)
    asked: list[str] = []
    with SqlMaintenance(trail.url) as store:
        event.listen(store._engine, "before_cursor_execute", lambda *args: asked.append(args[2]))
        assert purge(load_settings().settings, tmp_path, store, trail.log(), {None: 2}).rows["outcomes"] == 3
    assert not [each for each in asked if each.startswith(("SELECT sequence, hash", "SELECT last, hash"))]
    report = trail.verify()
    assert report.passed, report.problems


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE gaps SET first = first + 1, records = records - 1 WHERE last = (SELECT max(last) FROM gaps)",
        "DELETE FROM gaps WHERE last = (SELECT max(last) FROM gaps)",
        "UPDATE gaps SET hash = 'ff' || substr(hash, 3) WHERE last = (SELECT max(last) FROM gaps)",
        "UPDATE gaps SET last = last + 1 WHERE last = (SELECT max(last) FROM gaps)",
        "UPDATE gaps SET removal = 'made-up'",
        "UPDATE gaps SET removal = NULL",
        "UPDATE gaps SET hash = NULL",
    ],
)
def test_a_purge_covers_no_other_deletion(old_instance, statement):
    """The gaps of a purge can be neither widened nor moved."""
    old_instance.purge()
    with closing(sqlite3.connect(old_instance.data_dir / "audit.db")) as connection:
        connection.execute(statement)
        connection.commit()
    assert not old_instance.verify().passed


def test_ages_are_written_with_a_unit():
    """Anything else is refused, as is a purge that nothing gives an age."""
    assert [age_seconds(text) for text in ("90s", "2m", "1h", "400d", "2w", "1y")] == [
        *(90, 120, 3600, 400 * 86400, 14 * 86400, 365 * 86400)
    ]
    settings = load_settings({"retention": {"standard": "1d"}}).settings
    for bad in ("", "1", "d", "1.5d", "-1d", "1 month"):
        with pytest.raises(ConfigurationError, match="no age"):
            cutoffs(settings, bad, None)
    with pytest.raises(ConfigurationError, match="'failure'"):
        cutoffs(settings, None, "failure")
    with pytest.raises(ConfigurationError, match="--older-than"):
        cutoffs(load_settings().settings, None, None)
