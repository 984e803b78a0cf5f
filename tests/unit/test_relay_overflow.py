"""Records that give way to newer ones on a disk that does not do what it is told."""

from __future__ import annotations

import errno
from contextlib import closing
from typing import Any

import pytest

from e2i_serving.evidence import open_checkpointer
from e2i_serving.record import Gap, RowBatch
from e2i_serving.relay import overflow
from e2i_serving.relay.audit_destination import AUDIT_STORE, AuditDestination
from e2i_serving.relay.overflow import make_room
from e2i_serving.runtime.verification import read_signed_history, verify_trail
from e2i_serving.settings import Settings
from e2i_serving.stores.engine import sqlite_url
from e2i_serving.stores.sql import SqlAuditStore
from e2i_serving.testing.destinations import RecordingDestination

pytestmark = pytest.mark.usefixtures("short_pauses")

RECORDS = 120


@pytest.fixture
def recording():
    """A destination in the audit store's place."""
    return RecordingDestination(AUDIT_STORE)


@pytest.fixture
def filled(instance):
    """An instance with a dead life of several segments."""
    with closing(instance.open_writer()) as writer:
        for number in range(RECORDS):
            writer.append(instance.record(number, 3000))
    return instance


def refuse(*_: Any) -> None:
    """What a full disk says."""
    raise OSError(errno.ENOSPC, "No space left on device")


def give_up(relay: Any, instance: Any) -> int:
    """Have all given up that may be; returns how many segments were."""
    return make_room(relay._lives, relay._deliveries, instance.ledger, 1)


def assert_lost(instance, recording, lost: int) -> None:
    """So many records are lost, and no other; what is lost is delivered as a gap and as nothing else."""
    assert instance.balanced() == (RECORDS, RECORDS - lost, 0, {"overflow": lost})
    holes = [entry.body for entry in recording.entries if isinstance(entry.body, Gap)]
    assert {hole.reason for hole in holes} == {"overflow"}
    assert sum(hole.records for hole in holes) == lost
    assert len([name for name in recording.ids if name.startswith("p")]) == RECORDS - lost


@pytest.mark.parametrize("delivered_before", [0, 1])
def test_a_segment_that_can_not_be_cut_is_lost_alone_and_once(filled, recording, monkeypatch, delivered_before):
    """No more is given up than makes room, what is counted as lost is not delivered, and the relay goes on."""
    relay = filled.relay(recording, batch_size=10)
    for _ in range(delivered_before):
        relay.round()
    relay._look()
    with monkeypatch.context() as patch:
        patch.setattr(overflow.os, "truncate", refuse)
        assert [give_up(relay, filled) for _ in range(3)] == [1, 0, 0]
        lost = filled.balanced()[3]["overflow"]
        assert 0 < lost < RECORDS / 2
        relay.run(once=True)
    assert_lost(filled, recording, lost)
    assert filled.lives() == []


def test_a_segment_that_could_not_be_cut_is_cut_later(filled, recording, monkeypatch):
    """Once the disk does what it is told, the room is made that was meant to be made."""
    relay = filled.relay(recording, batch_size=10)
    relay._look()
    path = filled.lives()[0].segment(1)
    with monkeypatch.context() as patch:
        patch.setattr(overflow.os, "truncate", refuse)
        assert give_up(relay, filled) == 1
    assert path.stat().st_size > 3000
    assert give_up(relay, filled) > 0
    assert path.stat().st_size < 3000
    lost = filled.balanced()[3]["overflow"]
    assert lost == RECORDS
    relay.run(once=True)
    assert_lost(filled, recording, lost)


def test_a_relay_starts_though_what_was_given_up_can_not_be_cut(filled, recording, monkeypatch):
    """What is lost stays so in the next relay, which delivers the rest."""
    relay = filled.relay(recording)
    relay._look()
    with monkeypatch.context() as patch:
        patch.setattr(overflow.os, "truncate", refuse)
        assert give_up(relay, filled) == 1
        lost = filled.balanced()[3]["overflow"]
        filled.relay(recording, batch_size=7).run(once=True)
    assert_lost(filled, recording, lost)


class DiedError(BaseException):
    """Stands for the end of the process between two instructions."""


class Dying(SqlAuditStore):
    """A store whose relay dies when a batch is stored, before the ledger knows."""

    def write(self, batch: RowBatch) -> int:
        super().write(batch)
        raise DiedError


def test_what_a_relay_that_died_may_have_stored_is_not_given_up(filled):
    """The next relay makes room by what follows, before it has asked the store, and the trail is verified."""
    url = sqlite_url(filled.data_dir / "audit.db")
    checkpoints = open_checkpointer(Settings(), filled.data_dir)
    with closing(Dying(url)) as dying, pytest.raises(DiedError):
        filled.relay(AuditDestination(dying, intents=filled.ledger), batch_size=30).round()
    with closing(AuditDestination(SqlAuditStore(url), checkpoints=checkpoints, intents=filled.ledger)) as destination:
        relay = filled.relay(destination, batch_size=30)
        relay._look()
        assert give_up(relay, filled) > 0
        lost = filled.balanced()[3]["overflow"]
        assert 0 < lost <= RECORDS - 30
        relay.run(once=True)
    assert filled.balanced() == (RECORDS, RECORDS - lost, 0, {"overflow": lost})
    report = verify_trail(url, read_signed_history([filled.data_dir / "checkpoints"]))
    assert report.problems == []
    assert report.rows["predictions"] == RECORDS - lost
