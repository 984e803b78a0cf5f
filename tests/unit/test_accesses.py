"""Who looked at the trail stands in the trail."""

from __future__ import annotations

import json
import logging
import os
import pwd
import socket
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from e2i_serving.journal import list_lives
from e2i_serving.record import Entry, Life, ModelInfo, Outcome, PredictionRecord, Values
from e2i_serving.redaction import redactor_of
from e2i_serving.relay.explode import explode
from e2i_serving.runtime.places import locate
from e2i_serving.runtime.relay_process import run_relay
from e2i_serving.runtime.trail import AuditTrail
from e2i_serving.settings import load_settings
from e2i_serving.stores.engine import sqlite_url
from e2i_serving.stores.sql import SqlAuditStore
from e2i_serving.testing.stores import InMemoryAuditStore

LIFE = Life(life="life-1", service="credit", started_ns=1, pid=1, model=ModelInfo(name="scorer", version="v1"))


def entry(number: int) -> Entry:
    """A prediction about someone."""
    fields: dict[str, Any] = {"request_id": f"r{number}", "items": 1, "entities": {"customer": Values([f"c{number}"])}}
    return Entry(LIFE, number, PredictionRecord(f"p{number}", number, 0.1, Outcome.OK, 200, **fields))


@pytest.fixture
def data_dir(tmp_path, monkeypatch) -> Path:
    """A data directory whose store holds two predictions."""
    monkeypatch.setenv("BENTOML_HOME", str(tmp_path / "home"))
    folder = tmp_path / "data"
    (folder / "journal").mkdir(parents=True)
    with closing(SqlAuditStore(sqlite_url(folder / "audit.db"))) as store:
        store.write(explode([entry(1), entry(2)]))
    return folder


def relay(data_dir: Path) -> None:
    """Deliver what is in the journal."""
    assert run_relay(load_settings().settings, data_dir, once=True)


def recorded(data_dir: Path) -> list[dict[str, Any]]:
    """The accesses in the store, the first one first."""
    relay(data_dir)
    with AuditTrail.open(data_dir) as trail:
        return trail.accesses()[::-1]


def test_each_look_is_recorded(data_dir):
    """Who, from where, how, at what, and how many predictions were shown."""
    with AuditTrail.open(data_dir) as trail:
        trail.query(model="scorer", limit=1).rows()
        trail.get("p1")
        trail.get("nobody")
        trail.find("r2")
        trail.count(entity="customer=c1")
        trail.latency(since="1970-01-01")
        trail.outcomes(prediction_id="p1")
        assert len(list_lives(data_dir / "journal")) == 1
    rows = recorded(data_dir)
    assert {(row["principal"], row["source"], row["way"]) for row in rows} == {
        (pwd.getpwuid(os.geteuid()).pw_name, socket.gethostname(), "python")
    }
    assert [(row["action"], row["conditions"], row["predictions"]) for row in rows] == [
        ("query", {"model": "scorer", "limit": 1}, 1),
        ("get", {"prediction_id": "p1"}, 1),
        ("get", {"prediction_id": "nobody"}, 0),
        ("find", {"id": "r2"}, 1),
        ("count", {"entity": "customer=c1"}, 0),
        ("latency", {"since_ns": 0}, 0),
        ("outcomes", {"prediction_ids": ["p1"]}, 0),
    ]


def test_rows_read_one_after_another_are_recorded_before_the_first(data_dir):
    """A look counts when it begins: nobody reads half the trail unseen. Nothing asked is nothing recorded."""
    with AuditTrail.open(data_dir) as trail:
        rows = trail.query()
        assert list_lives(data_dir / "journal") == []
        next(iter(rows))
        assert len(list_lives(data_dir / "journal")) == 1
    assert [row["predictions"] for row in recorded(data_dir)] == [-1]


def test_recording_can_be_turned_off(data_dir, monkeypatch):
    """With the setting off, looking leaves nothing behind."""
    monkeypatch.setenv("E2I_SERVING_RECORD_ACCESSES", "false")
    with AuditTrail.open(data_dir) as trail:
        assert len(trail.query().rows()) == 2
    assert list_lives(data_dir / "journal") == []


def test_a_look_that_can_not_be_recorded_goes_on(data_dir, caplog):
    """The answer is given, and one warning says that it was not recorded."""
    (data_dir / "journal").rmdir()
    (data_dir / "journal").write_text("in the way")
    with caplog.at_level(logging.WARNING), AuditTrail.open(data_dir) as trail:
        assert len(trail.query().rows()) == 2
        assert trail.count() == 2
    warnings = [record.message for record in caplog.records if "can't be recorded" in record.message]
    assert len(warnings) == 1


def test_what_was_asked_is_redacted(data_dir, monkeypatch):
    """A condition names nobody whom the trail does not name, however the question is put."""
    monkeypatch.setenv("E2I_SERVING_REDACTION_KEY", "a key of sixteen characters")
    rules = [{"path": path, "action": "hash"} for path in ("entities.customer", "request_id", "labels.tier")]
    monkeypatch.setenv("E2I_SERVING_REDACTION_RULES", json.dumps(rules))
    with AuditTrail.open(data_dir) as trail:
        trail.count(entity="customer=s3cret")
        trail.count(request_id="s3cret", labels={"tier": "s3cret"})
        trail.find("s3cret")
        trail.outcomes(request_id="s3cret")
    rows = recorded(data_dir)
    assert [row["action"] for row in rows] == ["count", "count", "find", "outcomes"]
    assert all("hmac:" in json.dumps(row["conditions"]) for row in rows)
    assert "s3cret" not in json.dumps(rows)


def test_what_was_hashed_can_be_asked_for(tmp_path, monkeypatch):
    """A question is put in the words of the trail: by the same key, the same hash."""
    monkeypatch.setenv("E2I_SERVING_REDACTION_KEY", "a key of sixteen characters")
    rules = [{"path": path, "action": "hash"} for path in ("entities.customer", "request_id")]
    monkeypatch.setenv("E2I_SERVING_REDACTION_RULES", json.dumps(rules))
    redactor = redactor_of(load_settings().settings, ModelInfo())
    assert redactor is not None
    body = entry(1).body
    assert isinstance(body, PredictionRecord)
    store = InMemoryAuditStore()
    store.write(explode([Entry(LIFE, 1, redactor.record(body))]))
    trail = AuditTrail(store, redactor=redactor)
    assert trail.count(entity="customer=c1") == trail.count(request_id="r1") == len(trail.find("r1")) == 1
    assert trail.count(entity="customer=c2") == trail.count(request_id="r2") == 0


def test_a_store_without_a_data_directory_gets_accesses_too(data_dir, tmp_path):
    """A reader of a store alone records through a data directory of its own, and delivers when it closes."""
    copy = tmp_path / "archive.db"
    copy.write_bytes((data_dir / "audit.db").read_bytes())
    with AuditTrail.open(copy) as trail:
        assert trail.count() == 2
    place = locate(copy)
    assert place.is_reader_s_own
    assert place.data_dir.is_relative_to(tmp_path / "home" / "e2i" / "_readers")
    assert list_lives(place.data_dir / "journal") == []
    with AuditTrail.open(copy) as trail:
        assert [row["action"] for row in trail.accesses()] == ["count"]


@pytest.mark.parametrize("way", ["directory", "file", "url"])
def test_a_store_in_a_data_directory_is_recognised(data_dir, way):
    """However it is named, what is recorded goes through the service's own journal."""
    where = {"directory": data_dir, "file": data_dir / "audit.db", "url": sqlite_url(data_dir / "audit.db")}[way]
    place = locate(where)
    assert (place.data_dir, place.is_reader_s_own) == (data_dir, False)


def test_the_store_that_the_settings_name_belongs_to_their_data_directory(data_dir, monkeypatch):
    """A service's own URL is read through its data directory; another reader of it has its own."""
    url = "postgresql://ann@127.0.0.1:1/audit"
    monkeypatch.setenv("E2I_SERVING_AUDIT_URL", url)
    assert locate(None).is_reader_s_own
    monkeypatch.setenv("E2I_SERVING_DATA_DIR", str(data_dir))
    place = locate(None)
    assert (place.url, place.data_dir, place.is_reader_s_own) == (url, data_dir, False)
    other = locate(url + "2")
    assert other.is_reader_s_own
    assert other.settings.audit_url == url + "2"
    assert other.data_dir != locate(url + "3").data_dir
