"""Verification, erasure, holds and purges on every database."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from threading import Event
from typing import Any

import msgspec
import psycopg
import pytest
from evidence_trail import TIME, Trail, bodies, record
from sqlalchemy import create_engine, event

from e2i_serving.evidence.log import EvidenceLog, LogEntry
from e2i_serving.exceptions import StoreError
from e2i_serving.record import AccessEvent, Outcome, OutcomeEvent, StreamEnd, Values
from e2i_serving.runtime.erasure import erase
from e2i_serving.runtime.holds import add_hold, covered, release_hold, verify_stored_holds
from e2i_serving.runtime.purging import Purge, purge
from e2i_serving.runtime.verification import read_signed_history
from e2i_serving.settings import load_settings
from e2i_serving.stores.chains import SqlChains
from e2i_serving.stores.maintenance import SqlMaintenance

SUBJECT = "customer=customer-7-0"


@pytest.fixture(params=["sqlite", "postgres"])
def trail(request, tmp_path) -> Trail:
    """A trail with something of everything."""
    url = request.getfixturevalue("postgres_url") if request.param == "postgres" else ""
    made = Trail(tmp_path, url)
    made.deliver(bodies(30))
    made.deliver(
        [record(900, items=3), AccessEvent("a900", TIME, conditions={"entity": SUBJECT})], "life-2", close=True
    )
    return made


@pytest.fixture
def settings(trail):
    """Settings of an instance that writes to it."""
    return load_settings({"data_dir": str(trail.folder), "audit_url": trail.url}).settings


def change(trail: Trail, statement: str) -> None:
    """Change the store behind everyone's back."""
    url = trail.url.replace("postgresql://", "postgresql+psycopg://")
    engine = create_engine(url)
    with engine.begin() as connection:
        connection.exec_driver_sql(statement)
    engine.dispose()


def rows(trail: Trail, statement: str) -> list[Any]:
    """What the store says."""
    with SqlMaintenance(trail.url) as store, store.transaction() as opened:
        return opened.all(statement)


def test_a_trail_is_verified_on_every_database(trail):
    """What is read back has the digests of what was written, whatever the database makes of its types."""
    report = trail.verify()
    assert report.passed, report.problems
    assert report.rows == {
        "predictions": 31,
        "items": 63,
        "entities": 63,
        "events": 13,
        "outcomes": 5,
        "accesses": 5,
    }
    assert (report.chains, report.unanchored) == (2, 0)


def test_several_processes_read_every_database(trail, monkeypatch):
    """Each process has a connection of its own."""
    monkeypatch.setattr("e2i_serving.runtime.verification._ROWS_WORTH_A_PROCESS", 10)
    assert trail.verify(processes=2).passed


@pytest.mark.parametrize(
    ("statement", "life", "sequence"),
    [
        ("UPDATE predictions SET duration = duration + 1 WHERE prediction_id = 'p00003'", "life-1", 3),
        ("UPDATE predictions SET sampled = NOT sampled WHERE prediction_id = 'p00003'", "life-1", 3),
        ("UPDATE items SET exploration = NOT exploration WHERE prediction_id = 'p00003'", "life-1", 3),
        ("UPDATE items SET inputs = '{\"age\":9}' WHERE prediction_id = 'p00003'", "life-1", 3),
        ("UPDATE predictions SET labels = '{\"brand\": \"north\"}' WHERE prediction_id = 'p00003'", "life-1", 3),
        ("DELETE FROM items WHERE prediction_id = 'p00900' AND item_index = 2", "life-2", 1),
        ("DELETE FROM entities WHERE prediction_id = 'p00900' AND item_index = 2", "life-2", 1),
        ("UPDATE entities SET value = 'other' WHERE prediction_id = 'p00900' AND item_index = 2", "life-2", 1),
        ("DELETE FROM accesses WHERE access_id = 'a900'", "life-2", 2),
        ("UPDATE accesses SET conditions = NULL WHERE access_id = 'a900'", "life-2", 2),
        ("UPDATE outcomes SET score = 1 WHERE outcome_id = 'o6'", "life-1", 9),
        ("UPDATE predictions SET hash = NULL WHERE prediction_id = 'p00900'", "life-2", 1),
    ],
)
def test_the_first_bad_row_is_named(trail, statement, life, sequence):
    """An alteration is reported with its place in the chain."""
    change(trail, statement)
    report = trail.verify()
    assert report.first is not None
    assert (report.first.life, report.first.sequence) == (life, sequence)


def test_someone_is_erased_from_every_database(trail, settings):
    """The subject's rows are emptied, everyone else's are as they were, and verification passes."""
    others = rows(trail, "SELECT * FROM items WHERE prediction_id <> 'p00007' ORDER BY prediction_id, item_index")
    assert erase(settings, trail.folder, trail.url, SUBJECT, dry_run=True).rows["items"] == 1
    done = erase(settings, trail.folder, trail.url, SUBJECT)
    assert dict(done.rows) == {"items": 1, "entities": 1, "predictions": 1, "accesses": 1}
    assert rows(
        trail, "SELECT entity, inputs, score, salt FROM items WHERE prediction_id = 'p00007' AND item_index = 0"
    ) == [(None, None, None, "0" * 32)]
    again = rows(trail, "SELECT * FROM items WHERE prediction_id <> 'p00007' ORDER BY prediction_id, item_index")
    assert again == others
    report = trail.verify()
    assert report.passed, report.problems
    assert report.erased == 3


def test_holds_keep_predictions_on_every_database(trail, settings):
    """What is held can be neither erased nor purged until it is released."""
    with SqlMaintenance(trail.url) as store:
        one = add_hold(store, trail.log(), reason="case", entity=SUBJECT, model="scorer")
        add_hold(store, trail.log(), reason="review", since_ns=TIME + 20, until_ns=TIME + 25)
        assert [hold.hold_id for hold in erase(settings, trail.folder, trail.url, SUBJECT).held_by] == [one.hold_id]
        tried = purge(settings, trail.folder, store, None, {None: TIME + 31})
        done = purge(settings, trail.folder, store, trail.log(), {None: TIME + 31})
        assert (done.held, done.rows["predictions"]) == (6, 24)
        assert (tried.held, tried.rows) == (done.held, done.rows)
        release_hold(store, trail.log(), one.hold_id)
        with store.transaction() as opened:
            assert [hold.reason for hold in opened.holds(released=False)] == ["review"]
    assert not erase(settings, trail.folder, trail.url, SUBJECT).held_by
    history = read_signed_history([trail.checkpoints])
    assert verify_stored_holds(trail.url, history.holds) == []
    report = trail.verify()
    assert report.passed, report.problems
    left = rows(trail, "SELECT prediction_id FROM predictions ORDER BY prediction_id")
    assert [row[0] for row in left] == ["p00007", *(f"p{number:05d}" for number in range(20, 25)), "p00900"]


LONG: dict[str, Any] = {"text": 'ü"\\? %s' * 60, "list": [f"part {number}" for number in range(60)], "number": 10**280}


@pytest.mark.parametrize("kind", LONG)
def test_an_entity_too_long_for_the_index_is_found(trail, settings, kind):
    """What no row of entities leads to is held and erased all the same, and nothing that is only like it."""
    value = LONG[kind]
    text = value if kind == "text" else msgspec.json.encode(value).decode()
    longer = value * 10 if kind == "number" else [*value, 1] if kind == "list" else value + "x"
    others = (
        ("customer", longer),
        ("other", value),
        ("customer", {"customer": value}),
        ("customer", f'"customer":{text}'),
    )
    trail.deliver(
        [
            record(7000, items=2, entities={"customer": Values(["short", value])}),
            *(record(7001 + place, entities={name: Values([each])}) for place, (name, each) in enumerate(others)),
        ]
    )
    with SqlMaintenance(trail.url) as store:
        hold = add_hold(store, trail.log(), reason="case", entity=f"customer={text}")
        assert erase(settings, trail.folder, trail.url, f"customer={text}").held_by
        purge(settings, trail.folder, store, trail.log(), {None: TIME + 7001})
        left = rows(trail, "SELECT prediction_id FROM predictions ORDER BY 1")
        assert [row[0] for row in left] == [f"p{number:05d}" for number in range(7000, 7005)]
        assert covered(store, hold) >= 1
        release_hold(store, trail.log(), hold.hold_id)
    assert erase(settings, trail.folder, trail.url, f"customer={text}").rows["items"] == 1
    emptied = rows(trail, "SELECT prediction_id, item_index FROM items WHERE erased IS NOT NULL")
    assert emptied == [("p07000", 1)]
    report = trail.verify()
    assert report.passed, report.problems


def test_a_purge_in_many_transactions_leaves_a_verified_trail(trail, settings, monkeypatch):
    """Batch after batch goes with all that is about it; nothing of it is left, and the chain holds."""
    monkeypatch.setattr("e2i_serving.runtime.purging.BATCH", 4)
    with SqlMaintenance(trail.url) as store:
        done = purge(settings, trail.folder, store, trail.log(), {"standard": TIME + 22})
    assert done.rows["predictions"] == 21
    for table in ("items", "entities", "events", "outcomes"):
        assert rows(trail, f"SELECT count(*) FROM {table} WHERE prediction_id < 'p00022'") == [(0,)]
    report = trail.verify()
    assert report.passed, report.problems
    assert report.purged == sum(done.rows[table] for table in ("predictions", "events", "outcomes"))


class _Waiting(EvidenceLog):
    """A log whose entry is written once another purge has begun, and either waits for the first or went past it."""

    def __init__(self, log: EvidenceLog, url: str) -> None:
        super().__init__(log.folder, log._key)
        self.entered, self.other_ended = Event(), Event()
        self._url = url

    def append(self, kind: str, *, by: str, **content: Any) -> LogEntry:
        """Append an entry; see ``EvidenceLog``."""
        if not self.entered.is_set():
            self.entered.set()
            while not (self.other_ended.wait(0.01) or self._is_waited_for()):
                pass
        return super().append(kind, by=by, **content)

    def _is_waited_for(self) -> bool:
        """Whether a transaction waits for a lock; only PostgreSQL can say so."""
        if not self._url.startswith("postgresql"):
            return self.entered.is_set()
        with psycopg.connect(self._url) as connection:
            return bool(connection.execute("SELECT 1 FROM pg_locks WHERE NOT granted").fetchone())


def test_two_purges_at_once_leave_a_verified_trail(trail, settings):
    """What one has chosen, the other one waits for: no row has two gaps, and each is signed for."""
    slow = _Waiting(trail.log(), trail.url)

    def purge_all(log: EvidenceLog, until: int) -> Purge:
        with SqlMaintenance(trail.url) as store:
            return purge(settings, trail.folder, store, log, {"standard": until})

    with ThreadPoolExecutor(2) as pool:
        one = pool.submit(purge_all, slow, TIME + 15)
        slow.entered.wait()
        other = pool.submit(purge_all, trail.log(), TIME + 20)
        other.add_done_callback(lambda _: slow.other_ended.set())
        assert one.result().rows["predictions"] == 14
        assert other.result().rows["predictions"] == 5
    report = trail.verify()
    assert report.passed, report.problems


@pytest.mark.parametrize(
    ("table", "body"),
    [
        ("events", StreamEnd("p00004", 2.0, Outcome.OK, salt=bytes(16))),
        ("outcomes", OutcomeEvent("late", TIME, "p00006", 0, value=True, source="ledger", salt=bytes(16))),
    ],
)
def test_what_a_relay_adds_while_a_purge_runs_is_left(postgres_url, tmp_path, table, body):
    """What comes in about a prediction that is being purged was not chosen, so that no gap stands for it: it stays."""
    trail = Trail(tmp_path, postgres_url)
    trail.deliver(bodies(30))
    added: list[str] = []

    def add(*args: Any) -> None:
        if args[2].startswith(f"DELETE FROM {table}") and not added:
            added.append(table)
            trail.deliver([body, record(50)])

    with SqlMaintenance(trail.url) as store:
        event.listen(store._engine, "before_cursor_execute", add)
        purge(load_settings().settings, trail.folder, store, trail.log(), {"standard": TIME + 10})
    assert added
    assert rows(trail, f"SELECT count(*) FROM {table} WHERE prediction_id = '{body.prediction_id}'") == [(1,)]
    report = trail.verify()
    assert report.passed, report.problems


def test_a_purge_that_can_not_be_signed_purges_nothing(trail, settings):
    """Without the signed entry the transaction is taken back."""
    log = trail.log()
    log.folder = trail.folder / "signing.key" / "no folder"
    with SqlMaintenance(trail.url) as store, pytest.raises(Exception, match="checkpoints"):
        purge(settings, trail.folder, store, log, {None: TIME + 31})
    assert trail.verify().rows["predictions"] == 31


def test_a_store_of_an_older_release_is_to_be_upgraded(request, tmp_path):
    """Nothing is read or changed before the tables are those of this release."""
    url = request.getfixturevalue("postgres_url")
    with pytest.raises(StoreError, match="audit upgrade"):
        SqlChains(url)
    with pytest.raises(StoreError, match="audit upgrade"):
        SqlMaintenance(url)
    with pytest.raises(StoreError, match="no audit store"):
        SqlChains(f"sqlite:///{tmp_path}/none.db")
    with pytest.raises(StoreError, match="no audit store"):
        SqlMaintenance(f"sqlite:///{tmp_path}/none.db")
