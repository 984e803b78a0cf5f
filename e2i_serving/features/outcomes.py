"""What became of each value that was asked for: stores' own statuses do not say."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from e2i_serving.record import ViewReading
from e2i_serving.typing import Feature, OnlineFeatures


class FeatureOutcome(StrEnum):
    """What became of a value that was asked for."""

    HIT = "hit"
    MISSING = "missing"
    """The entity has never had one."""
    NULL = "null"
    """It was stored as null, or computed to none."""
    STALE = "stale"
    """It is older than its view's time to live."""


HIT: Final = FeatureOutcome.HIT.value
MISSING: Final = FeatureOutcome.MISSING.value
NULL: Final = FeatureOutcome.NULL.value
STALE: Final = FeatureOutcome.STALE.value

_WORST: Final = (MISSING, NULL, STALE, HIT)


class ViewOutcomes:
    """What one view gave: the outcome of each of its values.

    Args:
        view: The view's name.
        places: Where its features stand among the service's.
        features: The service's features.
    """

    __slots__ = ("is_computed", "places", "ttl_ns", "view")

    def __init__(self, view: str, places: tuple[int, ...], features: Sequence[Feature]) -> None:
        self.view = view
        self.places = places
        self.ttl_ns = int(features[places[0]].ttl * 1e9)
        self.is_computed = features[places[0]].is_computed

    def outcome(self, value: object, event_ns: int, now_ns: int) -> str:
        """What became of one value.

        Args:
            value: The value; ``None`` for none.
            event_ns: When it was true, nanoseconds since the epoch; 0 when that is not known.
            now_ns: The present.
        """
        if value is None:
            return NULL if event_ns or self.is_computed else MISSING
        if self.ttl_ns and 0 < event_ns < now_ns - self.ttl_ns:
            return STALE
        return HIT

    def read(self, online: OnlineFeatures, now_ns: int) -> ViewReading:
        """What the view gave for all entities.

        Args:
            online: What the store gave.
            now_ns: The present, nanoseconds since the epoch.
        """
        counts: Counter[str] = Counter()
        statuses: list[str] = []
        times: list[int] = []
        places, outcome = self.places, self.outcome
        limit = now_ns - self.ttl_ns if self.ttl_ns else 0
        for values, events in zip(online.values, online.event_ns, strict=True):
            oldest = min([events[at] for at in places])
            if oldest >= limit and (oldest or self.is_computed) and None not in [values[at] for at in places]:
                counts[HIT] += len(places)
                statuses.append(HIT)
            else:
                found = [outcome(values[at], events[at], now_ns) for at in places]
                counts.update(found)
                statuses.append(next(status for status in _WORST if status in found))
            times.append(oldest)
        return ViewReading(dict(counts), tuple(statuses), tuple(times))


def views_of(features: Sequence[Feature]) -> tuple[ViewOutcomes, ...]:
    """The views of a service's features, in their order."""
    places: dict[str, list[int]] = {}
    for at, feature in enumerate(features):
        places.setdefault(feature.view, []).append(at)
    return tuple(ViewOutcomes(view, tuple(found), features) for view, found in places.items())
