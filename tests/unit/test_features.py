"""Features: fetched in time, explained value by value, and refused where a policy says so."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

from e2i_serving.exceptions import ConfigurationError
from e2i_serving.features import FeaturePolicy, InMemoryFeatureStore, TimedFeatureStore

HOUR = 3_600_000_000_000


@pytest.fixture
def store() -> InMemoryFeatureStore:
    """A store with a view whose values are stale after an hour."""
    made = InMemoryFeatureStore()
    made.define("churn_v1", ("customer",), ("usage:calls", "usage:minutes", "plan:price"), ttl={"usage": 3600})
    made.put("usage", {"customer": "fresh"}, {"calls": 3, "minutes": 1.5})
    made.put("plan", {"customer": "fresh"}, {"price": 9.0})
    made.put("usage", {"customer": "old"}, {"calls": 4, "minutes": 2.5}, event_ns=time.time_ns() - 2 * HOUR)
    made.put("plan", {"customer": "old"}, {"price": None})
    return made


def rows(*customers: str) -> list[dict[str, Any]]:
    """Entity rows."""
    return [{"customer": name} for name in customers]


def timed(store: Any, **options: Any) -> TimedFeatureStore:
    """A timed store that refreshes nothing."""
    return TimedFeatureStore(store, "churn_v1", refresh_seconds=0, **options)


def test_each_value_has_an_outcome(store) -> None:
    """Hit, missing, null and stale are told apart, by view and by entity."""
    found = timed(store).retrieve(rows("fresh", "old", "nobody"))
    assert [list(row) for row in found.rows] == [[3, 1.5, 9.0], [4, 2.5, None], [None, None, None]]
    usage, plan = found.provenance.views["usage"], found.provenance.views["plan"]
    assert usage.outcomes == {"hit": 2, "stale": 2, "missing": 2}
    assert usage.statuses == ("hit", "stale", "missing")
    assert plan.outcomes == {"hit": 1, "null": 1, "missing": 1}
    assert plan.statuses == ("hit", "null", "missing")
    assert usage.event_ns[2] == 0 < usage.event_ns[1] < usage.event_ns[0]
    assert found.provenance.features == ("usage:calls", "usage:minutes", "plan:price")
    assert len(found.provenance.registry) == 64
    assert found.provenance.duration > 0


@pytest.mark.parametrize(
    ("policy", "customer", "kind", "said"),
    [
        (FeaturePolicy(missing="fail"), "nobody", "missing", "usage:calls of entity 1 is missing"),
        (FeaturePolicy(stale="fail"), "old", "stale", "usage:calls of entity 1 is stale"),
    ],
)
def test_a_policy_refuses_and_names_the_feature(store, policy, customer, kind, said) -> None:
    """What a policy refuses is said by feature and entity, and what was fetched is still explained."""
    found = timed(store, policies={"usage": policy}).retrieve(rows("fresh", customer))
    assert found.error is not None
    assert found.error.kind == kind
    assert said in str(found.error)
    assert found.provenance.views["usage"].statuses[1] == kind


def test_defaults_take_the_place_of_what_is_missing(store) -> None:
    """A default stands where nothing was; the outcome is recorded as it was."""
    policy = FeaturePolicy(missing="default", stale="pass", defaults={"calls": 0})
    found = timed(store, policies={"usage": policy}).retrieve(rows("nobody", "old"))
    assert [list(row) for row in found.rows] == [[0, None, None], [4, 2.5, None]]
    assert found.provenance.views["usage"].statuses == ("missing", "stale")


class Hanging(InMemoryFeatureStore):
    """A store that answers when it is let go."""

    def __init__(self) -> None:
        super().__init__("hanging")
        self.let_go = threading.Event()
        self.calls = 0

    def get_online_features(self, service: Any, entity_rows: Any) -> Any:
        self.calls += 1
        self.let_go.wait(30)
        return super().get_online_features(service, entity_rows)


@pytest.fixture
def hanging():
    """A store that hangs until the test is over."""
    made = Hanging()
    made.define("churn_v1", ("customer",), ("usage:calls",))
    yield made
    made.let_go.set()


def test_a_store_that_hangs_is_not_waited_for(hanging) -> None:
    """The policy acts within the timeout."""
    bounded = timed(hanging, timeout=0.05, threads=1)
    found = bounded.retrieve(rows("a"))
    assert found.error is not None
    assert (found.error.kind, found.provenance.error_type) == ("timeout", "timeout")
    policy = FeaturePolicy(unavailable="default", defaults={"calls": 7})
    filled = timed(hanging, timeout=0.05, policies={"usage": policy}).retrieve(rows("a", "b"))
    assert (filled.error, [list(row) for row in filled.rows]) == (None, [[7], [7]])


def test_a_store_that_hung_is_left_alone_for_as_long(hanging) -> None:
    """What comes shortly after is refused without waiting; later the store is asked again, and is well."""
    bounded = timed(hanging, timeout=0.2, threads=2)
    kinds = [found.error.kind for found in (bounded.retrieve(rows("a")) for _ in range(5)) if found.error]
    assert kinds == ["timeout", *["unavailable"] * 4]
    assert hanging.calls == 1
    hanging.let_go.set()
    end = time.monotonic() + 30
    while bounded.retrieve(rows("a")).error is not None:
        assert time.monotonic() < end
        time.sleep(0.01)
    assert hanging.calls == 2


def test_a_store_that_is_down_is_unavailable(store) -> None:
    """Whatever a store raises, the error's type is one of a few."""
    down = timed(store)

    def broken(*_: Any) -> Any:
        raise ConnectionResetError("gone")

    store.get_online_features = broken
    found = down.retrieve(rows("fresh"))
    assert found.error is not None
    assert found.error.kind == "unavailable"


def test_the_cache_fetches_only_what_it_has_not(store) -> None:
    """Entities with features are kept; one without is asked for again."""
    pytest.importorskip("cachetools")
    cached = timed(store, cache_seconds=60)
    first = cached.retrieve(rows("fresh", "nobody")).provenance
    assert (first.cache_hits, first.cache_misses) == (0, 2)
    second = cached.retrieve(rows("fresh", "nobody", "old"))
    assert (second.provenance.cache_hits, second.provenance.cache_misses) == (1, 2)
    assert list(second.rows[0]) == [3, 1.5, 9.0]


@pytest.mark.parametrize(
    ("policies", "said"),
    [
        ({"usages": FeaturePolicy()}, "no view of the feature service 'churn_v1'"),
        ({"usage": FeaturePolicy(defaults={"price": 1})}, "a default for 'price'"),
    ],
)
def test_wrong_policies_are_refused_at_start_up(store, policies, said) -> None:
    """A policy for what is not there is a mistake."""
    with pytest.raises(ConfigurationError, match=said):
        timed(store, policies=policies)


def test_an_unknown_service_is_refused_at_start_up(store) -> None:
    """A feature service that the store does not have keeps the worker from starting."""
    with pytest.raises(ConfigurationError, match="'churn_v2' is not defined"):
        TimedFeatureStore(store, "churn_v2")


class TimeKeeping(Hanging):
    """A store that says it ends its calls in time, and notes the threads it is called in."""

    def __init__(self) -> None:
        super().__init__()
        self.threads: list[str] = []
        self.let_go.set()

    def open(self, service: str, timeout: float) -> Any:
        return super().open(service, timeout)._replace(keeps_time=True)

    def get_online_features(self, service: Any, entity_rows: Any) -> Any:
        self.threads.append(threading.current_thread().name)
        return super().get_online_features(service, entity_rows)


def test_a_store_that_keeps_time_is_asked_in_the_requests_thread_while_it_is_well() -> None:
    """One that has not answered yet, or has just been late, is asked where it may hang."""
    store = TimeKeeping()
    store.define("churn_v1", ("customer",), ("usage:calls",))
    bounded = timed(store, timeout=0.2, threads=1)
    own = threading.current_thread().name
    for _ in range(2):
        assert bounded.retrieve(rows("a")).error is None
    assert store.threads == ["e2i-features-0", own]
    store.let_go.clear()
    threading.Timer(0.4, store.let_go.set).start()
    assert bounded.retrieve(rows("a")).error is None
    assert store.threads[2] == own
    store.let_go.clear()
    found = bounded.retrieve(rows("a"))
    assert found.error is not None
    assert (found.error.kind, store.threads[3]) == ("timeout", "e2i-features-0")
    store.let_go.set()
