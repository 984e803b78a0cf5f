"""What an erasure finds besides the store's rows, and what one that was killed leaves to the next."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from evidence_instance import Instance
from evidence_trail import record

from e2i_serving.encryption import add_key
from e2i_serving.evidence.opening import open_log
from e2i_serving.record import LateResult, Outcome, OutcomeEvent, PredictionRecord, StreamEnd, Values
from e2i_serving.runtime.erasure import Erasure, erase
from e2i_serving.runtime.holds import add_hold, release_hold
from e2i_serving.stores.maintenance import SqlMaintenance

SECRET = "Erika-Mustermann-4711"
SUBJECT = f"customer={SECRET}"

KILLED_IN = """
import os, signal, sys
from pathlib import Path
from e2i_serving.relay import dead_letters
from e2i_serving.runtime import traces
from e2i_serving.runtime.erasure import erase
from e2i_serving.settings import load_settings

data_dir, url, entity, name, call = sys.argv[1:]
owner, _, name = name.rpartition(".")
owner = getattr(dead_letters, owner) if owner else traces
function, calls = getattr(owner, name), int(call)

def killed(*arguments):
    global calls
    calls -= 1
    if not calls:
        os.kill(os.getpid(), signal.SIGKILL)
    return function(*arguments)

setattr(owner, name, killed)
erase(load_settings({"data_dir": data_dir}).settings, Path(data_dir), url, entity)
"""

KILLED_REENCRYPTING = """
import os, pathlib, signal, sys
from e2i_serving.encryption import FileCipher
from e2i_serving.runtime.reencryption import reencrypt

pathlib.Path.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
reencrypt(pathlib.Path(sys.argv[1]), FileCipher(pathlib.Path(sys.argv[2])))
"""


def killed(program: str, *arguments: object) -> None:
    """Run a program that is killed on its way."""
    ended = subprocess.run([sys.executable, "-c", program, *map(str, arguments)], check=False)
    assert ended.returncode == -signal.SIGKILL


def about(number: int, **changes: Any) -> PredictionRecord:
    """A prediction about the secret's bearer."""
    return record(number, **{"entities": {"customer": Values([SECRET])}, "inputs": {"n": Values([SECRET])}, **changes})


def what_follows(number: int) -> list[Any]:
    """What comes after a prediction and holds the secret."""
    prediction_id = f"p{number:05d}"
    late = {"reason": Values([f"for {SECRET}"])}
    return [
        StreamEnd(prediction_id, 1.0, Outcome.ERROR, error_message=SECRET, salt=b"e" * 16),
        LateResult(prediction_id, 9.0, Outcome.OK, items=1, outputs=late, salt=b"a" * 16),
        OutcomeEvent(f"o{number}", 1, prediction_id, 0, value={"name": SECRET}, salt=b"o" * 16),
        OutcomeEvent(f"r{number}", 1, "", request_id=f"request-{number}", value=SECRET, salt=b"r" * 16),
    ]


@pytest.fixture
def instance(tmp_path):
    """An instance with a prediction about someone that was stored, and a later one that the store refused."""
    made = Instance(tmp_path)
    with closing(made.writer):
        made.journal(about(1, inputs={"text": Values([f"{SECRET} " * 1000])}), *what_follows(1), record(2))
        made.deliver()
        with closing(sqlite3.connect(made.data_dir / "audit.db")) as connection:
            refusal = (
                "BEFORE INSERT ON predictions WHEN NEW.prediction_id = 'p00003' BEGIN SELECT RAISE(ABORT, 'no'); END"
            )
            connection.execute(f"CREATE TRIGGER no {refusal}")
        made.journal(about(3), *what_follows(3))
        made.deliver()
        with closing(sqlite3.connect(made.data_dir / "audit.db")) as connection:
            connection.execute("DROP TRIGGER no")
        yield made


def erased(instance: Instance, entity: str = SUBJECT) -> Erasure:
    """Erase someone from an instance."""
    return erase(instance.settings, instance.data_dir, instance.url, entity)


def test_what_follows_a_refused_prediction_is_erased(instance):
    """Where the record is a dead letter, its end, late result and outcomes are stored all the same, and go too."""
    assert instance.rows("SELECT prediction_id FROM predictions ORDER BY 1") == [("p00001",), ("p00002",)]
    done = erased(instance)
    assert (done.dead_letters, done.rows["events"], done.rows["outcomes"]) == (1, 4, 4)
    assert instance.files_with(SECRET) == []
    report = instance.verify()
    assert report.passed, report.problems


def test_a_hold_covers_a_refused_prediction(instance):
    """What a hold by model or time covers is not erased, though the store does not have it."""
    entity = "customer=refused"
    instance.journal(about(1003, entities={"customer": Values(["refused"])}))
    with closing(sqlite3.connect(instance.data_dir / "audit.db")) as connection:
        connection.execute("CREATE TRIGGER no BEFORE INSERT ON predictions BEGIN SELECT RAISE(ABORT, 'no'); END")
    instance.deliver()
    when = record(1003).time_ns
    with SqlMaintenance(instance.url) as store:
        log = open_log(instance.settings, instance.data_dir)
        add_hold(store, log, reason="later", since_ns=when + 1)
        add_hold(store, log, reason="other model", model="none")
        hold = add_hold(store, log, reason="case", since_ns=when, until_ns=when + 1)
        assert [each.hold_id for each in erased(instance, entity).held_by] == [hold.hold_id]
        release_hold(store, log, hold.hold_id)
    assert erased(instance, entity).dead_letters == 1


@pytest.mark.parametrize(
    ("name", "call"),
    [
        *(("remove_files", 1), ("erase_frames", 1), ("_erased", 2), ("_erased", 7), ("erase_dead_letters", 1)),
        *(("DeadLetter.frame", 2), ("_truncate_log", 1)),
    ],
)
def test_a_killed_erasure_is_finished_by_the_next(instance, name, call):
    """Wherever it was killed, running it again leaves no trace."""
    killed(KILLED_IN, instance.data_dir, instance.url, SUBJECT, name, call)
    assert instance.files_with(SECRET) != []
    erased(instance)
    assert instance.files_with(SECRET) == []
    assert payloads(instance) == []
    report = instance.verify()
    assert report.passed, report.problems


def test_what_a_killed_reencryption_left_goes_with_the_subject(instance, tmp_path):
    """The file that was written beside the payload's holds the same, and is removed with it."""
    add_key(tmp_path / "keys")
    killed(KILLED_REENCRYPTING, instance.data_dir, tmp_path / "keys")
    assert len(payloads(instance)) == 2
    assert erased(instance).payload_files == 2
    assert payloads(instance) == []


def test_a_purge_sweeps_what_was_begun_long_ago(instance, tmp_path):
    """A file that somebody began beside a payload's and did not end goes; one that is being written stays."""
    add_key(tmp_path / "keys")
    killed(KILLED_REENCRYPTING, instance.data_dir, tmp_path / "keys")
    (left,) = [path for path in payloads(instance) if path.name.startswith(".")]
    instance.purge(older_than="100000d")
    assert left.exists()
    os.utime(left, (0, 0))
    assert instance.purge(older_than="100000d").payload_files == 1
    assert [path.name.startswith(".") for path in payloads(instance)] == [False]


def payloads(instance: Instance) -> list[Path]:
    """The files of payloads, those that were begun included."""
    return sorted((instance.data_dir / "payloads").glob("*/*"))
