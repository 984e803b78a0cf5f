"""Erasing someone, holding and purging: what goes, what stays, and that the rest is still verified."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import Any

import msgspec
import pytest
from evidence_instance import Instance
from evidence_trail import record

from e2i_serving.evidence.log import log_files
from e2i_serving.evidence.opening import open_log
from e2i_serving.exceptions import QueryError, StoreError
from e2i_serving.journal import list_lives
from e2i_serving.record import AccessEvent, Life, Outcome, OutcomeEvent, PredictionRecord, StreamEnd, Values
from e2i_serving.relay import Ledger, read_books
from e2i_serving.relay.dead_letters import DeadLetter, DeadLetters
from e2i_serving.runtime import catching_up, erasure
from e2i_serving.runtime.erasure import erase
from e2i_serving.runtime.holds import add_hold, release_hold
from e2i_serving.stores.maintenance import SqlMaintenance

SECRET = "Erika-Mustermann-4711"
DAY_NS = 86_400 * 10**9


def about(number: int, *others: str, **changes: Any) -> PredictionRecord:
    """A prediction about the secret's bearer, and about others in the same request."""
    customers = [SECRET, *others]
    fields: dict[str, Any] = {
        "entities": {"customer": Values(customers)},
        "inputs": {"name": Values([f"{customer} in inputs" for customer in customers])},
        "outputs": {"prediction": Values(customers), "reason": Values([f"for {customer}" for customer in customers])},
        "attributes": {"note": f"about {SECRET}"},
        "error_message": f"{SECRET} failed",
        **changes,
    }
    return record(number, items=len(customers), **fields)


@pytest.fixture
def instance(tmp_path):
    """An instance whose trail holds the secret wherever one can stand."""
    made = Instance(tmp_path)
    with closing(made.writer):
        made.journal(
            about(1, request_id=f"request of {SECRET}", labels={"who": SECRET}, principal=SECRET),
            about(2, "someone-else", request_id="shared"),
            about(3, inputs={"text": Values([f"{SECRET} " * 1000])}),
            record(4),
            StreamEnd("p00001", 1.0, Outcome.ERROR, error_message=f"{SECRET} again", salt=b"e" * 16),
            OutcomeEvent("o1", 1, "p00001", 0, value={"name": SECRET}, source=SECRET, comment=SECRET, salt=b"o" * 16),
            OutcomeEvent("o2", 1, "", 0, request_id="shared", value=SECRET, salt=b"p" * 16),
            OutcomeEvent("o3", 1, "p00002", 1, value="stays", salt=b"q" * 16),
            AccessEvent("a1", 1, conditions={"entity": f"customer={SECRET}"}, salt=b"a" * 16),
            AccessEvent("a2", 1, conditions={"entity": "customer=other"}, salt=b"b" * 16),
        )
        made.deliver()
        yield made


def test_an_erasure_leaves_no_trace_and_a_trail_that_is_verified(instance):
    """The text stands in no file of the data directory, everyone else's stays, and verification passes."""
    with closing(Ledger(instance.data_dir)) as ledger:
        letter = DeadLetter(
            destination="audit-store", life="life-1", sequence=999, ordinal=999, kind=2, schema=1, key_id=0, records=1,
            message="refused", time_ns=1, about=msgspec.msgpack.encode(Life("life-1", "credit", 1, 1)),
            payload=_payload(about(77)),
        )  # fmt: skip
        with ledger._transaction() as connection:  # what the relay does when a store refuses
            DeadLetters.insert(connection, "audit-store", letter)
    assert len(instance.files_with(SECRET)) >= 4
    assert list((instance.data_dir / "payloads").glob("*/*"))
    done = erase(instance.settings, instance.data_dir, instance.url, f"customer={SECRET}")
    assert not done.held_by
    assert (done.dead_letters, done.payload_files) == (1, 1)
    assert done.frames == 8
    assert done.rows["items"] == 3
    assert instance.files_with(SECRET) == []
    report = instance.verify()
    assert report.passed, report.problems
    assert report.erased == 10
    assert len(instance.files_with("someone-else")) > 0
    assert instance.rows("SELECT value FROM outcomes WHERE outcome_id = 'o3'") == [('"stays"',)]
    assert instance.rows("SELECT conditions FROM accesses WHERE access_id = 'a2'") == [('{"entity":"customer=other"}',)]
    shared, alone = instance.rows(
        "SELECT request_id FROM predictions WHERE prediction_id IN ('p00001', 'p00002') ORDER BY 1 DESC"
    )
    assert (shared, alone) == (("shared",), (None,))
    assert erase(instance.settings, instance.data_dir, instance.url, f"customer={SECRET}").rows.total() == 0
    instance.journal(record(5))
    instance.deliver()
    assert instance.verify().passed


def _payload(body: Any) -> bytes:
    from e2i_serving.journal.frame import FRAME_HEAD, FrameKind, encode_into

    buffer = bytearray()
    encode_into(buffer, body, FrameKind.RECORD, 1, 1)
    return bytes(buffer[FRAME_HEAD.size :])


def test_a_tried_erasure_changes_nothing(instance):
    """With dry_run the rows are counted, and all stay."""
    before = instance.rows("SELECT * FROM items")
    done = erase(instance.settings, instance.data_dir, instance.url, f"customer={SECRET}", dry_run=True)
    assert done.rows["items"] == 3
    assert instance.rows("SELECT * FROM items") == before
    assert instance.verify().erased == 0


def test_what_is_pending_is_delivered_first(instance):
    """What was journaled before the erasure is erased too, though no relay runs."""
    instance.journal(about(6))
    erase(instance.settings, instance.data_dir, instance.url, f"customer={SECRET}")
    assert instance.files_with(SECRET) == []
    assert instance.verify().passed


def test_an_erasure_is_refused_while_records_wait(instance, monkeypatch):
    """Where they can't be delivered in time nothing is erased, and the error says why."""
    monkeypatch.setattr(catching_up, "start_relay_once", lambda *_: _Ended())
    monkeypatch.setattr(erasure, "DELIVERY_SECONDS", 0.1)
    instance.journal(about(6))
    with pytest.raises(StoreError, match="Nothing was erased"):
        erase(instance.settings, instance.data_dir, instance.url, f"customer={SECRET}")
    assert instance.rows("SELECT count(*) FROM entities")[0][0] > 0


def test_a_destination_that_was_taken_away_holds_up_no_erasure(instance, tmp_path):
    """What it had not dealt with when it went is not for it any more, and is erased from the journal too."""
    plain = instance.settings
    instance.settings = plain.model_copy(update={"jsonl_path": tmp_path / "elsewhere" / "trail.jsonl"})
    instance.journal(about(6))
    instance.deliver()
    instance.settings = plain
    instance.journal(about(7))
    instance.deliver()
    done = erase(plain, instance.data_dir, instance.url, f"customer={SECRET}")
    assert done.elsewhere == ["jsonl"]
    assert {name.split("/")[0] for name in instance.files_with(SECRET)} == {"elsewhere"}


class _Ended:
    """A relay that could do nothing."""

    def poll(self) -> int:
        return 1

    def wait(self, _seconds: float) -> int:
        return 1


def test_the_other_subject_of_a_request_can_be_erased_later(instance):
    """Two erasures in one request verify, and with the last subject the caller goes too."""
    for who in (SECRET, "someone-else"):
        erase(instance.settings, instance.data_dir, instance.url, f"customer={who}")
    assert instance.rows("SELECT request_id FROM predictions WHERE prediction_id = 'p00002'") == [(None,)]
    assert instance.files_with("someone-else") == []
    report = instance.verify()
    assert report.passed, report.problems


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE items SET erased = replace(erased, 'commitment\":\"', 'commitment\":\"0')",
        "UPDATE items SET inputs = '{}' WHERE erased IS NOT NULL",
        "UPDATE items SET salt = 'ffffffffffffffffffffffffffffffff' WHERE erased IS NOT NULL",
        "UPDATE items SET erased = NULL",
        'UPDATE predictions SET erased = \'{"caller":{"by":"x","commitment":"00"}}\'',
        "INSERT INTO entities SELECT 'customer', 'x', prediction_id, item_index, time_ns, model FROM items LIMIT 1",
    ],
)
def test_an_erasure_covers_no_other_change(instance, statement):
    """What was erased can't be filled in, nor can anything else pass for erased."""
    erase(instance.settings, instance.data_dir, instance.url, f"customer={SECRET}")
    with closing(sqlite3.connect(instance.data_dir / "audit.db")) as connection:
        connection.execute(statement)
        connection.commit()
    assert not instance.verify().passed


def test_an_erasure_without_its_signed_entry_is_found(instance):
    """Emptied columns that no entry lists are an alteration, though their commitments are right."""
    erase(instance.settings, instance.data_dir, instance.url, f"customer={SECRET}")
    (path,) = log_files(instance.data_dir / "checkpoints")
    kept = [line for line in path.read_bytes().splitlines(keepends=True) if b'"kind":"removal"' not in line]
    path.write_bytes(b"".join(kept))
    assert any("no signed entry says so" in problem.what for problem in instance.verify().problems)


@pytest.mark.parametrize("entity", ["4711", "=4711", "customer="])
def test_an_erasure_wants_a_name_and_a_value(instance, entity):
    """A value alone could mean anyone."""
    with pytest.raises(QueryError, match="name=value"):
        erase(instance.settings, instance.data_dir, instance.url, entity)


def test_a_hold_keeps_someone_from_being_erased(instance):
    """While a hold covers them nothing is erased; released, it goes with them."""
    with SqlMaintenance(instance.url) as store:
        log = open_log(instance.settings, instance.data_dir)
        hold = add_hold(store, log, reason=f"case of {SECRET}", entity=f"customer={SECRET}")
        model = add_hold(store, log, reason="review", until_ns=2**62)
        done = erase(instance.settings, instance.data_dir, instance.url, f"customer={SECRET}")
        assert [held.hold_id for held in done.held_by] == [hold.hold_id, model.hold_id]
        assert done.rows.total() == 0
        assert instance.verify().passed
        release_hold(store, log, hold.hold_id)
        release_hold(store, log, model.hold_id)
        with pytest.raises(QueryError, match="released before"):
            release_hold(store, log, hold.hold_id)
        with pytest.raises(QueryError, match="no hold"):
            release_hold(store, log, "none")
    assert not erase(instance.settings, instance.data_dir, instance.url, f"customer={SECRET}").held_by
    assert instance.files_with(SECRET) == []
    assert instance.verify().passed


@pytest.mark.parametrize(
    ("statement", "said"),
    [
        ("DELETE FROM holds", "is gone"),
        ("UPDATE holds SET released_ns = 1", "release is not what was signed"),
        ("UPDATE holds SET entity = 'customer=other'", "was altered"),
        ("INSERT INTO holds (hold_id, time_ns, model) VALUES ('h', 1, 'm')", "no signed entry"),
    ],
)
def test_an_altered_hold_is_found(instance, statement, said):
    """Holds are signed, so that none can be lifted in the database alone."""
    with SqlMaintenance(instance.url) as store:
        add_hold(store, open_log(instance.settings, instance.data_dir), reason="r", entity="customer=x")
    with closing(sqlite3.connect(instance.data_dir / "audit.db")) as connection:
        connection.execute(statement)
        connection.commit()
    assert any(said in problem.what for problem in instance.verify().problems)


@pytest.mark.parametrize(
    "conditions",
    [
        {},
        {"entity": "no-name"},
        {"until_ns": 2**63},
        {"since_ns": -(2**63) - 1},
        {"model": "a\0b"},
        {"model": "\ud800"},
    ],
)
def test_a_hold_has_conditions_that_a_store_can_hold(instance, conditions):
    """A hold on everything, on a value of no name, or on what no column takes, is refused, and nothing is signed."""
    with SqlMaintenance(instance.url) as store, pytest.raises(QueryError):
        add_hold(store, open_log(instance.settings, instance.data_dir), reason="r", **conditions)
    report = instance.verify()
    assert report.passed, report.problems


def test_a_hold_that_the_store_refuses_is_not_signed(instance):
    """What can't be stored leaves nothing that verification would miss, neither a hold nor its release."""
    log = open_log(instance.settings, instance.data_dir)
    with SqlMaintenance(instance.url) as store:
        hold = add_hold(store, log, reason="r", entity="customer=x")
        with closing(sqlite3.connect(instance.data_dir / "audit.db")) as connection:
            for action in ("INSERT", "UPDATE"):
                refusal = f"CREATE TRIGGER no_{action} BEFORE {action} ON holds BEGIN SELECT RAISE(ABORT, 'no'); END"
                connection.execute(refusal)
        with pytest.raises(StoreError):
            add_hold(store, log, reason="r", entity="customer=y")
        with pytest.raises(StoreError):
            release_hold(store, log, hold.hold_id)
    report = instance.verify()
    assert report.passed, report.problems


def test_lives_are_left_as_they_were(instance):
    """An erasure overwrites frames in place: their journal still reads, and a relay goes on behind them."""
    (folder,) = list_lives(instance.data_dir / "journal")
    sizes = [folder.segment(number).stat().st_size for number in folder.segments()]
    erase(instance.settings, instance.data_dir, instance.url, f"customer={SECRET}")
    assert [folder.segment(number).stat().st_size for number in folder.segments()] == sizes
    (book,) = read_books(instance.data_dir)
    assert book.balanced


def test_an_erasure_before_a_purge_stays_signed(instance):
    """Rows that were erased in part, then purged, leave a trail that is verified."""
    erase(instance.settings, instance.data_dir, instance.url, f"customer={SECRET}")
    done = instance.purge(older_than="0s")
    assert done.rows["predictions"] >= 3
    report = instance.verify()
    assert report.passed, report.problems
