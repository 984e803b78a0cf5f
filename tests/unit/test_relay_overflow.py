"""Records that give way to newer ones on a disk that does not do what it is told."""

from __future__ import annotations

import errno
from contextlib import closing
from typing import Any

import pytest

from e2i_serving.record import Gap
from e2i_serving.relay import overflow
from e2i_serving.relay.audit_destination import AUDIT_STORE
from e2i_serving.relay.overflow import make_room
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
