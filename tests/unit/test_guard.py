"""The guard: faults of ours are counted, said now and then, and go no further."""

from __future__ import annotations

import logging

import pytest

from e2i_serving import guard as guard_module
from e2i_serving.guard import REPEAT_AFTER_SECONDS, FailureGuard


@pytest.fixture
def clock(monkeypatch):
    """A clock that a test moves."""
    now = [5000.0]
    monkeypatch.setattr(guard_module.time, "monotonic", lambda: now[0])
    return now


def test_a_fault_is_counted_and_goes_no_further():
    """Each part has its own count."""
    guard = FailureGuard()
    guard.caught("journal", OSError("full"))
    guard.caught("journal", ValueError("odd"))
    guard.caught("metrics", ValueError("odd"))
    assert guard.failures == {"journal": 2, "metrics": 1}


def test_a_fault_is_said_once_a_while(clock, caplog):
    """A part that fails all the time fills no log, and another part's first fault is said at once."""
    guard = FailureGuard()
    with caplog.at_level(logging.WARNING, "e2i_serving"):
        for _ in range(100):
            guard.caught("journal", OSError("full"))
        guard.caught("metrics", OSError("full"))
        clock[0] += REPEAT_AFTER_SECONDS
        guard.caught("journal", OSError("full"))
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 3
    assert said[0].startswith("The journal failed (1 times so far). Predictions go on")
    assert said[0].endswith("OSError: full")
    assert said[1].startswith("The metrics failed (1 times")
    assert said[2].startswith("The journal failed (101 times")
    assert caplog.records[0].exc_info is not None


def test_the_first_fault_is_said_on_a_machine_that_just_started(clock, caplog):
    """A monotonic clock near zero hides nothing."""
    clock[0] = 0.5
    with caplog.at_level(logging.WARNING, "e2i_serving"):
        FailureGuard().caught("journal", OSError("full"))
    assert len(caplog.records) == 1


def test_a_strict_guard_raises(caplog):
    """In tests a fault of ours fails the test, counted all the same."""
    guard = FailureGuard(strict=True)
    fault = OSError("full")
    with pytest.raises(OSError, match="full") as raised:
        guard.caught("journal", fault)
    assert raised.value is fault
    assert guard.failures == {"journal": 1}
    assert caplog.records == []
