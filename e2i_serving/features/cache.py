"""A read-through cache of features, by entity."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from e2i_serving.exceptions import ConfigurationError
from e2i_serving.typing import OnlineFeatures

Fetch = Callable[[Sequence[Mapping[str, Any]]], OnlineFeatures]


class FeatureCache:
    """Keeps the features of the entities last asked about. Any thread may call it.

    What a store has nothing of is not kept, so that a new entity is found as soon as it has features.

    Args:
        seconds: How long.
        entities: Of how many at most.
        timer: The clock, in seconds.

    Raises:
        ConfigurationError: cachetools is not installed.
    """

    def __init__(self, seconds: float, entities: int, timer: Callable[[], float] = time.monotonic) -> None:
        try:
            from cachetools import TTLCache  # noqa: PLC0415  # of an extra
        except ImportError as error:
            raise ConfigurationError("A feature cache needs cachetools. Install e2i-serving[feast].") from error
        self._kept: Any = TTLCache(entities, seconds, timer)
        self._lock = threading.Lock()

    def through(self, rows: Sequence[Mapping[str, Any]], fetch: Fetch) -> tuple[OnlineFeatures, int]:
        """The features of entities, of which only those that are not kept are fetched.

        Args:
            rows: The entities' rows.
            fetch: Fetches rows.

        Returns:
            The features, and how many of the rows were kept.
        """
        keys = [_key(row) for row in rows]
        with self._lock:
            found = [self._kept.get(key) if key is not None else None for key in keys]
        places = [at for at, kept in enumerate(found) if kept is None]
        if places:
            fetched = fetch([rows[at] for at in places])
            with self._lock:
                for at, values, events in zip(places, fetched.values, fetched.event_ns, strict=True):
                    found[at] = (values, events)
                    if keys[at] is not None and any(events):
                        self._kept[keys[at]] = (values, events)
        pairs = [pair for pair in found if pair is not None]
        return OnlineFeatures([pair[0] for pair in pairs], [pair[1] for pair in pairs]), len(rows) - len(places)


def _key(row: Mapping[str, Any]) -> Hashable:
    key = tuple(sorted(row.items(), key=lambda item: item[0]))
    try:
        hash(key)
    except TypeError:
        return None
    # 1, 1.0 and True are one key to a dictionary, and not to a store.
    return tuple((name, type(value), value) for name, value in key)
