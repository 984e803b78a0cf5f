"""Outcomes on their way into the trail, through a real journal and a real relay."""

from __future__ import annotations

from collections import OrderedDict
from contextlib import closing
from dataclasses import make_dataclass
from pathlib import Path
from typing import Any

import pytest

from e2i_serving.exceptions import JournalError, QueryError
from e2i_serving.journal import JournalRoom, list_lives
from e2i_serving.outcomes import GivenOutcome
from e2i_serving.record import Entry, Life, ModelInfo, Outcome, OutcomeEvent, PredictionRecord, Values
from e2i_serving.relay.explode import explode
from e2i_serving.runtime.events import EventJournal
from e2i_serving.runtime.outcomes import OutcomeRecorder, record_outcome
from e2i_serving.runtime.relay_process import run_relay
from e2i_serving.runtime.trail import AuditTrail
from e2i_serving.settings import load_settings
from e2i_serving.stores.engine import sqlite_url
from e2i_serving.stores.query import SqlAuditQuery
from e2i_serving.stores.sql import SqlAuditStore

LIFE = Life(life="life-1", service="credit", started_ns=1, pid=1, model=ModelInfo(name="scorer", version="v1"))


def entry(number: int, **changes: Any) -> Entry:
    """A prediction of two items."""
    fields: dict[str, Any] = {
        "prediction_id": f"p{number}",
        "time_ns": number,
        "duration": 0.1,
        "outcome": Outcome.OK,
        "status": 200,
        "request_id": f"r{number}",
        "items": 2,
        "outputs": {"score": Values([0.25, 0.75])},
        **changes,
    }
    return Entry(LIFE, number, PredictionRecord(**fields))


@pytest.fixture
def data_dir(tmp_path) -> Path:
    """A data directory whose store holds three predictions, two of them of one request."""
    folder = tmp_path / "data"
    (folder / "journal").mkdir(parents=True)
    with closing(SqlAuditStore(sqlite_url(folder / "audit.db"))) as store:
        store.write(explode([entry(1), entry(2, request_id="shared"), entry(3, request_id="shared")]))
    return folder


def relay(data_dir: Path) -> None:
    """Deliver what is in the journal."""
    assert run_relay(load_settings().settings, data_dir, once=True)


def stored(data_dir: Path) -> list[dict[str, Any]]:
    """The outcomes in the store, the first recorded first."""
    with AuditTrail.open(data_dir) as trail:
        return trail.outcomes()[::-1]


@pytest.fixture
def recorder(data_dir):
    """What records outcomes of the data directory."""
    with OutcomeRecorder.open(data_dir) as made:
        yield made
        made._journal.close()
        relay(data_dir)


def test_a_recorded_outcome_reaches_the_store(data_dir):
    """A truth and a score, for an item and for a request, are rows after one relay's run."""
    with OutcomeRecorder.open(data_dir) as recorder:
        first = recorder.record("p1", item=1, value=True, source="claims", observed="1970-01-01T00:00:01Z")
        second = recorder.record(request_id="r1", name="quality", score=0.5, comment="good")
    assert list_lives(data_dir / "journal") == [], "Closing it runs a relay where none does."
    truth, score = stored(data_dir)
    assert (truth["outcome_id"], truth["prediction_id"], truth["item_index"], truth["value"]) == (first, "p1", 1, True)
    assert (truth["source"], truth["observed_ns"], truth["name"]) == ("claims", 1_000_000_000, "truth")
    assert (score["outcome_id"], score["prediction_id"], score["item_index"]) == (second, "p1", -1)
    assert (score["request_id"], score["score"], score["comment"]) == ("r1", 0.5, "good")


def test_what_is_recorded_survives_without_a_relay(data_dir):
    """An outcome is in the journal when the call returns, whatever becomes of the process."""
    recorder = OutcomeRecorder.open(data_dir)
    recorder.record("p1", value=1)
    recorder._journal.close()
    assert stored(data_dir) == []
    relay(data_dir)
    assert [row["value"] for row in stored(data_dir)] == [1]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"prediction_id": "nobody", "value": 1}, r"no prediction 'nobody'.*allow-unknown"),
        ({"request_id": "nobody", "value": 1}, r"no prediction of request 'nobody'"),
        ({"request_id": "shared", "value": 1}, r"stands for 2 predictions"),
        ({"prediction_id": "p1", "request_id": "shared", "value": 1}, r"'p1' of request 'shared'"),
        ({"prediction_id": "p1", "item": 2, "value": 1}, r"has 2 items, and none with index 2"),
        ({"prediction_id": "p1"}, r"needs a value or a score"),
    ],
)
def test_what_is_about_nothing_is_refused(recorder, data_dir, fields, said):
    """An id that the trail does not know, or that stands for several predictions, is a mistake; nothing is kept."""
    with pytest.raises(QueryError, match=said):
        recorder.record(**fields)
    assert list_lives(data_dir / "journal") == []


def test_a_prediction_on_its_way_to_the_store_is_waited_for(data_dir):
    """An outcome of what was served a moment ago is no mistake; of many, only the first unknown one waits."""
    waits = []

    def catch_up() -> None:
        waits.append(True)
        with closing(SqlAuditStore(sqlite_url(data_dir / "audit.db"))) as store:
            store.write(explode([entry(7 + len(waits))]))

    settings = load_settings(data_dir=data_dir).settings
    with (
        closing(SqlAuditQuery(sqlite_url(data_dir / "audit.db"))) as source,
        OutcomeRecorder(EventJournal(data_dir, settings), source, settings, catch_up=catch_up) as recorder,
    ):
        recorder.record("p8", item=1, value=True)
        recorder.record("p1", value=True)
        assert waits == [True]
        given = [GivenOutcome(prediction_id=name, value=1) for name in ("p9", "nobody", "p2")]
        assert [bool(each.problem) for each in recorder.record_all(given)] == [False, True, False]
    assert waits == [True, True]


def test_unknown_ids_are_recorded_when_that_is_allowed(data_dir):
    """What is not there yet, or is ambiguous, is kept as it was given and shown with every prediction it may mean."""
    with OutcomeRecorder.open(data_dir, allow_unknown=True) as recorder:
        recorder.record("nobody", value=1)
        recorder.record(request_id="shared", value=2)
        recorder.record(request_id="r1", value=3)
        with pytest.raises(QueryError):
            recorder.record("p1", item=9, value=4)
    assert [(row["prediction_id"], row["request_id"]) for row in stored(data_dir)] == [
        ("nobody", None),
        (None, "shared"),
        ("p1", "r1"),
    ]
    with AuditTrail.open(data_dir) as trail:
        rows = trail.query(outcomes=True, newest_first=False).rows()
        assert [[outcome["value"] for outcome in row["outcomes"]] for row in rows] == [[3], [2], [2]]
        assert [row["value"] for row in trail.outcomes(request_id="shared")] == [2]


def given(*values: Any) -> list[GivenOutcome]:
    """Truths of the first prediction, one an item."""
    return [GivenOutcome(prediction_id="p1", item=item, value=value) for item, value in enumerate(values)]


def test_many_are_recorded_once(data_dir):
    """Handing the same ones over again records nothing; a correction is one more, and the last one."""
    with OutcomeRecorder.open(data_dir) as recorder:
        first = list(recorder.record_all([*given(True, False), *given(True)]))
        assert [each.is_new for each in first] == [True, True, False]
    with OutcomeRecorder.open(data_dir) as recorder:
        again = list(recorder.record_all(given(True, False)))
        assert [each.is_new for each in again] == [False, False]
        assert [each.outcome_id for each in again] == [each.outcome_id for each in first[:2]]
    with OutcomeRecorder.open(data_dir) as recorder:
        (correction,) = recorder.record_all(given(False))
        assert correction.is_new
    assert [(row["item_index"], row["value"]) for row in stored(data_dir)] == [(0, True), (1, False), (0, False)]


def test_what_is_refused_does_not_stop_the_others(data_dir):
    """Of many, each is answered for itself, in order."""
    many = [GivenOutcome(prediction_id=f"p{number}", value=number) for number in range(1201)]
    with OutcomeRecorder.open(data_dir) as recorder:
        found = list(recorder.record_all(many))
    assert [index for index, each in enumerate(found) if each.is_new] == [1, 2, 3]
    assert sum(bool(each.problem) for each in found) == 1198
    assert "'p0'" in found[0].problem
    assert len(stored(data_dir)) == 3


def test_the_latest_value_stands_in_a_column(data_dir):
    """A data frame has a column a name: what was said last of the item, else of the request."""
    with OutcomeRecorder.open(data_dir) as recorder:
        recorder.record("p1", item=0, value="first")
        recorder.record("p1", item=0, value="corrected")
        recorder.record("p1", value="whole")
        recorder.record("p2", score=0.5, name="quality")
    with AuditTrail.open(data_dir) as trail:
        frame = trail.query(outcomes=True, newest_first=False).to_pandas()
        plain = trail.query(items=False, outcomes=True, newest_first=False).to_pandas()
    assert frame["outcome.truth"].tolist()[:2] == ["corrected", "whole"]
    assert frame["outcome.truth"].isna().tolist() == [False, False, True, True, True, True]
    assert frame["outcome.quality"].tolist()[2:4] == [0.5, 0.5]
    assert frame["score"].tolist() == [0.25, 0.75] * 3
    assert plain["outcome.truth"].tolist()[0] == "whole"
    assert "outcomes" not in frame


def test_get_and_find_hold_every_version(data_dir):
    """A prediction in full has its outcomes, the first recorded first, whatever their item."""
    record_outcome("p1", item=1, value=1, data_dir=data_dir)
    record_outcome(request_id="r1", item=1, value=2, data_dir=data_dir)
    with AuditTrail.open(data_dir) as trail:
        row = trail.get("p1")
        assert row is not None
        assert [outcome["value"] for outcome in row["outcomes"]] == [1, 2]
        assert trail.find("r1") == [row]
        assert row["events"] == []


def test_outcomes_are_redacted_and_encrypted_as_predictions_are(data_dir, monkeypatch):
    """A rule on a request id or an output holds for what is said of it later, and the id can still be asked for."""
    monkeypatch.setenv("E2I_SERVING_REDACTION_KEY", "a key of sixteen characters")
    rules = '[{"path": "request_id", "action": "hash"}, {"path": "outputs.income", "action": "mask"}]'
    monkeypatch.setenv("E2I_SERVING_REDACTION_RULES", rules)
    with OutcomeRecorder.open(data_dir, allow_unknown=True) as recorder:
        recorder.record(request_id="s3cret", name="income", value="s3cret")
    assert b"s3cret" not in (data_dir / "audit.db").read_bytes()
    with AuditTrail.open(data_dir) as trail:
        (row,) = trail.outcomes(request_id="s3cret")
        assert row["value"] == "***"


@pytest.mark.parametrize(
    "value",
    [
        {"mail": "a@example.com", "ssn": "s3cret"},
        OrderedDict(mail="a@example.com", ssn="s3cret"),
        make_dataclass("Claim", ["mail", "ssn"])("a@example.com", "s3cret"),
        ({"a@example.com"}, OrderedDict({"ssn": "s3cret"})),
    ],
)
def test_a_value_is_redacted_whatever_it_is_made_of(data_dir, monkeypatch, value):
    """What JSON writes as an object or a list is redacted as one."""
    monkeypatch.setenv("E2I_SERVING_REDACTION_PATTERNS", '["email"]')
    monkeypatch.setenv("E2I_SERVING_REDACTION_RULES", '[{"path": "outputs.truth.**.ssn", "action": "drop"}]')
    with OutcomeRecorder.open(data_dir) as recorder:
        recorder.record("p1", value=value)
    (row,) = stored(data_dir)
    assert "***" in str(row["value"])
    assert not any(text in str(row["value"]) for text in ("example", "s3cret"))


def test_a_journal_that_can_not_be_written_is_said(data_dir):
    """What can't be recorded is an error, never a silence."""
    (data_dir / "journal").rmdir()
    (data_dir / "journal").write_text("in the way")
    with pytest.raises(JournalError, match="journal"):
        EventJournal(data_dir, load_settings().settings).append(OutcomeEvent("o", 1, prediction_id="p", value=1))


def test_outcomes_leave_room_for_predictions(data_dir):
    """They take their part of the journal and no more, and say what to do; once they are delivered, it goes on."""
    settings = load_settings({"data_dir": str(data_dir), "journal_bytes": 4 * 2**20}).settings
    journal = EventJournal(data_dir, settings)
    recorded = 0

    def record_on() -> None:
        nonlocal recorded
        while recorded < 1000:
            journal.append(OutcomeEvent(f"o{recorded}", 1, prediction_id="p1", value="v" * 60_000))
            recorded += 1

    with closing(journal):
        with pytest.raises(JournalError, match="journal_bytes"):
            record_on()
        assert recorded > 10
        assert JournalRoom(data_dir / "journal", settings.journal_bytes).left() >= 2 * 2**20
        relay(data_dir)
        journal.append(OutcomeEvent("another", 1, prediction_id="p1", value="v" * 60_000))
    relay(data_dir)
    assert len(stored(data_dir)) == recorded + 1


def test_an_import_waits_for_room(data_dir, monkeypatch):
    """What is more than the journal takes at once is recorded as the relay, run for it if need be, makes room."""
    monkeypatch.setenv("E2I_SERVING_JOURNAL_BYTES", str(4 * 2**20))
    given = [GivenOutcome(prediction_id="p1", name=f"n{number}", value="v" * 60_000) for number in range(100)]
    with OutcomeRecorder.open(data_dir) as recorder:
        assert all(recorded.is_new for recorded in recorder.record_all(given))
        assert recorder.deliver()
    assert len(stored(data_dir)) == 100
