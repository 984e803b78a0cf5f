"""Where the features of a prediction came from."""

from __future__ import annotations

import msgspec


class ViewReading(msgspec.Struct, frozen=True, omit_defaults=True):
    """What one feature view gave for a request.

    Attributes:
        outcomes: How many values there were by what became of them: ``hit``, ``missing``, ``null``, ``stale``.
        statuses: One an item: the worst of its values, ``missing`` before ``null`` before ``stale`` before ``hit``.
        event_ns: One an item: when the oldest of its values was true, nanoseconds since the epoch; 0 when not known.
    """

    outcomes: dict[str, int] = {}
    statuses: tuple[str, ...] = ()
    event_ns: tuple[int, ...] = ()


class FeatureProvenance(msgspec.Struct, frozen=True, omit_defaults=True):
    """How the features of a request were fetched. The values themselves are its inputs.

    Attributes:
        store: The feature store's name.
        service: The feature service's name.
        registry: SHA-256, in hex, of the feature service's definition as the store had it.
        features: The references, ``view:feature``, in the order of the feature service.
        duration: Seconds from asking to having them.
        views: What each view gave, by its name; empty when nothing came.
        cache_hits: How many items came from the cache.
        cache_misses: How many items were not in the cache; both are 0 without one.
        error_type: Why nothing came: ``timeout``, ``overloaded``, ``invalid``, ``unavailable``; empty otherwise.
    """

    store: str
    service: str
    registry: str = ""
    features: tuple[str, ...] = ()
    duration: float = 0.0
    views: dict[str, ViewReading] = {}
    cache_hits: int = 0
    cache_misses: int = 0
    error_type: str = ""
