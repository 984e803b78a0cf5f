"""``e2i-serving audit books`` and ``audit dead-letters``: what became of every record, and of the refused ones."""

from __future__ import annotations

import json
from contextlib import closing

import pytest
from typer.testing import CliRunner

from e2i_serving.cli.application import app
from e2i_serving.encryption import FileCipher, add_key
from e2i_serving.journal import JournalWriter, Position
from e2i_serving.observers.metrics import AuditCounters, SeriesFile
from e2i_serving.record import AccessEvent, Gap, Outcome, OutcomeEvent, PredictionFilter, PredictionRecord, StreamEnd
from e2i_serving.relay import Delivery, Ledger, Relay, RelayLock, read_books
from e2i_serving.relay.audit_destination import AUDIT_STORE
from e2i_serving.stores.engine import sqlite_url
from e2i_serving.stores.query import SqlAuditQuery
from e2i_serving.testing.destinations import RecordingDestination


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs a command on a data directory and gives its result."""
    monkeypatch.setenv("E2I_SERVING_DATA_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    return lambda *arguments: CliRunner().invoke(app, list(arguments))


def test_books_that_balance(run, make_rig, tmp_path):
    """A service that was asked for nothing yet has books, and they balance."""
    make_rig(data_dir=tmp_path)
    result = run("audit", "books")
    assert result.exit_code == 0
    observed, delivered = result.stdout.split("\n\n")
    assert observed.splitlines()[1].split() == ["0", "0", "0", "0", "0", "0", "yes"]
    assert delivered.splitlines()[1].split() == ["audit-store", "0", "0", "0", "0", "0", "yes"]
    lines = [json.loads(line) for line in run("audit", "books", "--format", "json").stdout.splitlines()]
    assert [(line.get("destination"), line["balanced"]) for line in lines] == [(None, True), (AUDIT_STORE, True)]


def test_a_destination_s_books_that_do_not_balance(run, instance):
    """A record unaccounted for is exit code 1, and the line says which destination's."""
    life = instance.life("life-1")
    instance.ledger.advance(AUDIT_STORE, life, Position(1, 50, 4, 4), stored=4, dropped={})
    instance.ledger.advance("webhook", life, Position(1, 50, 4, 4), stored=1, dropped={"overflow": 2})
    result = run("audit", "books")
    assert result.exit_code == 1
    assert [line.split() for line in result.stdout.splitlines()[-2:]] == [
        ["audit-store", "4", "4", "0", "0", "0", "yes"],
        ["webhook", "4", "1", "0", "0", "2", "overflow", "NO"],
    ]


def test_a_worker_s_books_that_do_not_balance(run, tmp_path):
    """What was counted as journaled more often than it was observed is exit code 1 too."""
    file = SeriesFile(tmp_path / "metrics", "life-1")
    counters = AuditCounters(file)
    counters.accepted()
    counters.unjournaled("journal-full")
    file.close()
    result = run("audit", "books")
    assert result.exit_code == 1
    assert "1 journal-full" in result.stdout.splitlines()[1]
    assert result.stdout.splitlines()[1].split()[-1] == "NO"


def test_books_of_nothing(run):
    """A data directory that is not there is a mistake, not balanced books."""
    result = run("audit", "books", "--data-dir", "none")
    assert result.exit_code == 2
    assert "no data directory" in result.stderr


@pytest.mark.parametrize(
    "command",
    [("audit", "books"), ("audit", "dead-letters", "list"), ("audit", "dead-letters", "retry", "--all")],
    ids=" ".join,
)
def test_a_folder_of_something_else_has_no_books(run, tmp_path, command):
    """Neither balanced ones nor no dead letters, and nothing is made there."""
    other = tmp_path / "other"
    (other / "audit").mkdir(parents=True)
    result = run(*command, "--data-dir", str(other))
    assert result.exit_code == 2
    assert f"{other} is no data directory that a service has used." in result.stderr
    assert "--data-dir" in result.stderr
    assert [path.name for path in other.iterdir()] == ["audit"]


@pytest.mark.parametrize("options", [{"audit_enabled": False}, {"metrics_enabled": False}])
def test_a_service_that_keeps_less_has_books(run, make_rig, tmp_path, options):
    """Without audit, or without metrics, a service that has just started is known by its directory."""
    make_rig(data_dir=tmp_path, **options)
    assert run("audit", "books").exit_code == 0
    assert run("audit", "dead-letters", "list").exit_code == 0


@pytest.fixture
def refused(instance):
    """A data directory of which the store refused two of three predictions."""
    with closing(instance.open_writer()) as writer:
        for number in range(3):
            writer.append(instance.record(number))
    destination = RecordingDestination(AUDIT_STORE)
    destination.refuses = lambda entry: getattr(entry.body, "prediction_id", "") in {"p0001", "p0002"}
    instance.relay(destination).run(once=True)
    return instance


@pytest.mark.usefixtures("refused")
def test_dead_letters_are_listed(run):
    """Each with what it is, where it comes from, and why."""
    result = run("audit", "dead-letters", "list")
    assert result.exit_code == 0
    assert "audit-store refuses." in result.stdout
    first, second = (
        json.loads(line) for line in run("audit", "dead-letters", "list", "--format", "json").stdout.splitlines()
    )
    assert (first["destination"], first["kind"], first["life"], first["sequence"]) == (
        AUDIT_STORE,
        "record",
        "life-1",
        2,
    )
    assert (second["sequence"], second["reason"], second["requested"]) == (3, "refused", False)


@pytest.fixture
def refuse_all(instance, tmp_path):
    """Write bodies, encrypted or not, and have the store refuse them; a key file is made in either case."""
    key_file = tmp_path / "key"
    add_key(key_file)

    def refuse(*bodies, encrypted=False):
        cipher = FileCipher(key_file) if encrypted else None
        journal, life, size = instance.data_dir / "journal", instance.life("life-1"), 64 * 1024
        with closing(JournalWriter(journal, life, segment_bytes=size, record_bytes=size, cipher=cipher)) as writer:
            for body in bodies:
                writer.append(body)
        destination = RecordingDestination(AUDIT_STORE)
        destination.refuses = lambda entry: not isinstance(entry.body, Gap)
        delivery = Delivery(destination, instance.ledger, batch_size=10, cipher=cipher)
        options = {"poll_seconds": 0.01, "linger_seconds": None, "housekeeping": instance.tidy}
        Relay(instance.data_dir, [delivery], instance.ledger, **options).run(once=True)
        return [*instance.ledger.dead_letters.each()]

    return refuse


def letters_of(run):
    """Prediction and request id of each letter that is listed."""
    lines = run("audit", "dead-letters", "list", "--format", "json").stdout.splitlines()
    return [(each["prediction_id"], each["request_id"]) for each in map(json.loads, lines)]


@pytest.mark.parametrize("encrypted", [False, True])
def test_a_dead_letter_names_its_prediction(run, refuse_all, tmp_path, monkeypatch, encrypted):
    """That of a record, or of an event about one; what is encrypted is read with the key that the settings name."""
    monkeypatch.setenv("E2I_SERVING_ENCRYPTION_KEY_FILE", str(tmp_path / "key"))
    record = PredictionRecord("p1", 1, 0.1, Outcome.OK, 200, request_id="order-17")
    refuse_all(
        record,
        StreamEnd("p2", 0.5, Outcome.CANCELLED),
        OutcomeEvent("o3", 1, request_id="order-18", value=True),
        AccessEvent("a4", 1),
        encrypted=encrypted,
    )
    assert letters_of(run) == [("p1", "order-17"), ("p2", ""), ("", "order-18"), ("", "")]
    heading, first, *_ = run("audit", "dead-letters", "list").stdout.splitlines()
    assert "PREDICTION" in heading
    assert "p1" in first.split()


@pytest.mark.parametrize("key", ["", "missing", "another"])
def test_a_dead_letter_that_cannot_be_read_is_listed(run, refuse_all, tmp_path, monkeypatch, key):
    """Without its id, where the key is not there or the payload was erased."""
    add_key(tmp_path / "another")
    if key:
        monkeypatch.setenv("E2I_SERVING_ENCRYPTION_KEY_FILE", str(tmp_path / key))
    refuse_all(PredictionRecord("p1", 1, 0.1, Outcome.OK, 200, request_id="order-17"), encrypted=True)
    assert letters_of(run) == [("", "")]


def test_a_dead_letter_that_was_erased_is_listed(run, refuse_all, instance):
    """It stays in the books, and names nobody."""
    (letter,) = refuse_all(PredictionRecord("p1", 1, 0.1, Outcome.OK, 200))
    instance.ledger.dead_letters.replace_payload(letter, b"", 0)
    assert letters_of(run) == [("", "")]


def test_a_retry_without_a_relay_delivers_itself(run, refused):
    """What was asked for is stored when the command returns, and the books say so."""
    result = run("audit", "dead-letters", "retry", "--id", "1")
    assert result.exit_code == 0, result.output
    assert "1 delivered" in result.stdout
    with closing(SqlAuditQuery(sqlite_url(refused.data_dir / "audit.db"))) as query:
        assert [row["prediction_id"] for row in query.predictions(PredictionFilter())] == ["p0001"]
    (book,) = read_books(refused.data_dir)
    assert (book.stored, book.dead_lettered, book.balanced) == (2, 1, True)
    assert "1 delivered" in run("audit", "dead-letters", "retry", "--all").stdout


def test_a_retry_leaves_it_to_a_relay_that_runs(run, refused):
    """It takes up what is asked for at its next housekeeping."""
    with RelayLock(refused.data_dir) as lock:
        assert lock.acquire()
        result = run("audit", "dead-letters", "retry", "--all")
    assert result.exit_code == 0
    assert "2 asked for" in result.stdout
    with closing(Ledger(refused.data_dir, read_only=True)) as ledger:
        assert len([*ledger.dead_letters.each(requested=True)]) == 2


@pytest.mark.usefixtures("refused")
@pytest.mark.parametrize("options", [[], ["--id", "1", "--all"], ["--id", "99"]])
def test_a_retry_must_say_which(run, options):
    """Neither nothing nor everything by accident, and no letter that is not there."""
    assert run("audit", "dead-letters", "retry", *options).exit_code == 2


@pytest.mark.parametrize("options", [[], ["--id", "1", "--all"], ["--id", "99"]])
def test_what_is_discarded_must_be_said(run, refused, options):
    """Nothing is given up by accident."""
    assert run("audit", "dead-letters", "discard", *options).exit_code == 2
    assert len(refused.ledger.dead_letters.numbers()) == 2


def test_dead_letters_are_discarded(run, refused):
    """They are gone, and the books count them as dropped."""
    assert "1 discarded" in run("audit", "dead-letters", "discard", "--id", "1").stdout
    assert "1 discarded" in run("audit", "dead-letters", "discard", "--all").stdout
    assert refused.ledger.dead_letters.numbers() == []
    result = run("audit", "books")
    assert result.exit_code == 0
    assert "2 discarded" in result.stdout
