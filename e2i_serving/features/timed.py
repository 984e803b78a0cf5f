"""Any feature store, timed, bounded and explained."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from e2i_serving.exceptions import ConfigurationError, FeatureError
from e2i_serving.features.cache import FeatureCache
from e2i_serving.features.outcomes import HIT, views_of
from e2i_serving.features.policies import FeaturePolicy, apply_policies, refuse_wrong_policies, without_store
from e2i_serving.features.threads import FeatureThreads
from e2i_serving.record import FeatureProvenance, ViewReading
from e2i_serving.typing import FeatureStore, OnlineFeatures

logger = logging.getLogger("e2i_serving")


_ALL_ITS_TIME = 0.9
"""Part of the timeout after which a store that failed counts as one that hangs."""


class Retrieved(NamedTuple):
    """What a request gets of a feature store.

    Attributes:
        names: The features' names, in the order of the feature service.
        rows: One an entity: its values in that order, as the policies left them; none when one refused.
        provenance: How they were fetched.
        error: Why a policy refuses the prediction; ``None`` when none does.
    """

    names: tuple[str, ...]
    rows: list[Sequence[Any]]
    provenance: FeatureProvenance
    error: FeatureError | None = None


class TimedFeatureStore:
    """Fetches features from a store in time, applies policies, and says where each value came from.

    ``retrieve`` may be called in any number of threads, and blocks for ``timeout`` seconds at most.

    Args:
        store: The store.
        service: Name of the feature service.
        policies: What is done about values that are not as they should be, by feature view.
        timeout: Seconds a retrieval may take.
        threads: Most retrievals at once.
        cache_seconds: How long features of an entity are kept; 0 for no cache.
        cache_entities: Of how many entities at most.
        refresh_seconds: How often the store's definitions are looked at again; 0 for never.

    Raises:
        ConfigurationError: There is no such store or feature service, or a policy is for what it has not.
    """

    def __init__(
        self,
        store: FeatureStore,
        service: str,
        *,
        policies: Mapping[str, FeaturePolicy] | None = None,
        timeout: float = 1.0,
        threads: int = 4,
        cache_seconds: float = 0.0,
        cache_entities: int = 10_000,
        refresh_seconds: float = 60.0,
    ) -> None:
        if timeout <= 0 or threads < 1:
            raise ConfigurationError("A feature store needs a timeout above 0 and at least one thread.")
        self._store = store
        self.service = store.open(service, timeout)
        self._policies = dict(policies or {})
        features = self.service.features
        refuse_wrong_policies(self._policies, features, service)
        self._timeout = timeout
        self._views = views_of(features)
        self._names = tuple(feature.name for feature in features)
        self._references = tuple(feature.reference for feature in features)
        self._cache = FeatureCache(cache_seconds, cache_entities) if cache_seconds else None
        self._is_well = False
        self._ask_again_at = 0.0
        self._threads: FeatureThreads[OnlineFeatures] = FeatureThreads(threads, 16 * threads)
        self._closed = threading.Event()
        if refresh_seconds:
            threading.Thread(
                target=self._refresh, args=(refresh_seconds,), name="e2i-features-refresh", daemon=True
            ).start()

    def retrieve(self, entity_rows: Sequence[Mapping[str, Any]]) -> Retrieved:
        """The features of entities.

        Args:
            entity_rows: One an entity: its keys, and the request data.
        """
        began = time.perf_counter()
        hits = 0
        try:
            online, hits = self._online(entity_rows)
        except FeatureError as error:
            failed = self._provenance({}, time.perf_counter() - began, 0, 0, error.kind)
            try:
                rows = without_store(error, len(entity_rows), self.service.features, self._policies)
            except FeatureError as refused:
                return Retrieved(self._names, [], failed, refused)
            return Retrieved(self._names, rows, failed)
        duration = time.perf_counter() - began
        now_ns = time.time_ns()
        readings = {view.view: view.read(online, now_ns) for view in self._views}
        misses = len(entity_rows) - hits if self._cache is not None else 0
        provenance = self._provenance(readings, duration, hits, misses)
        rows = online.values
        if self._policies:
            amiss = [view for view in self._views if readings[view.view].outcomes.keys() != {HIT}]
            try:
                rows = apply_policies(online, self.service.features, amiss, self._policies, now_ns)
            except FeatureError as error:
                return Retrieved(self._names, [], provenance, error)
        return Retrieved(self._names, rows, provenance)

    def close(self) -> None:
        """End the threads and give back the store's connections."""
        self._closed.set()
        self._threads.close()
        self._store.close()

    def _online(self, entity_rows: Sequence[Mapping[str, Any]]) -> tuple[OnlineFeatures, int]:
        try:
            if self._cache is not None:
                return self._cache.through(entity_rows, self._fetch)
            return self._fetch(entity_rows), 0
        except FeatureError:
            raise
        except Exception as error:
            logger.warning("Features of %s can't be fetched: %s: %s", self.service.name, type(error).__name__, error)
            raise FeatureError("The feature store can't be reached.", "unavailable") from error

    def _fetch(self, entity_rows: Sequence[Mapping[str, Any]]) -> OnlineFeatures:
        # Requests wait behind each other, as a worker has few threads. If each of them waited for a store that hangs,
        # the last one would wait for all; so after one that took all its time, the store is left alone for as long.
        began = time.monotonic()
        if began < self._ask_again_at:
            raise FeatureError("The feature store did not answer in time shortly before.", "unavailable")
        try:
            return self._ask(entity_rows)
        except Exception:
            now = time.monotonic()
            if now - began >= _ALL_ITS_TIME * self._timeout:
                self._ask_again_at = now + self._timeout
            raise

    def _ask(self, entity_rows: Sequence[Mapping[str, Any]]) -> OnlineFeatures:
        service, store = self.service, self._store
        if not service.keeps_time:
            return self._threads.call(lambda: store.get_online_features(service, entity_rows), self._timeout)
        # What a store promises of its time leaves out what happens on the way to a connection, such as looking up
        # names. So one that has just failed or been late is asked in a thread that may hang, until it is well again.
        began = time.perf_counter()
        try:
            found = (
                store.get_online_features(service, entity_rows)
                if self._is_well
                else self._threads.call(lambda: store.get_online_features(service, entity_rows), self._timeout)
            )
        except Exception:
            self._is_well = False
            raise
        self._is_well = time.perf_counter() - began <= self._timeout
        return found

    def _provenance(
        self, views: dict[str, ViewReading], duration: float, hits: int, misses: int, error: str = ""
    ) -> FeatureProvenance:
        service = self.service
        return FeatureProvenance(
            self._store.name, service.name, service.registry, self._references, duration, views, hits, misses, error
        )

    def _refresh(self, seconds: float) -> None:
        while not self._closed.wait(seconds):
            try:
                self._store.refresh()
            except Exception as error:  # noqa: BLE001  # it goes on with the definitions it has
                logger.warning("The feature registry can't be refreshed: %s: %s", type(error).__name__, error)
