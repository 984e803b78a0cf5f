"""A feature store in memory, for tests and demonstrations."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from e2i_serving.exceptions import ConfigurationError, FeatureError
from e2i_serving.typing import Feature, FeatureService, OnlineFeatures


class InMemoryFeatureStore:
    """Holds features in this process. Any thread may call it.

    Args:
        name: What it is called in metrics and records.

    Example:
        ```python
        store = InMemoryFeatureStore()
        store.define("churn_v1", ("customer",), ("usage:calls", "usage:minutes"), ttl={"usage": 86400})
        store.put("usage", {"customer": "c1"}, {"calls": 3, "minutes": 12.5})
        ```
    """

    def __init__(self, name: str = "memory") -> None:
        self._name = name
        self._services: dict[str, FeatureService] = {}
        self._kept: dict[tuple[str, tuple[tuple[str, str], ...]], tuple[int, dict[str, Any]]] = {}
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """What it is called in metrics and records."""
        return self._name

    def define(
        self,
        service: str,
        entities: Sequence[str],
        references: Sequence[str],
        *,
        ttl: Mapping[str, float] | None = None,
    ) -> None:
        """Define a feature service.

        Args:
            service: Its name.
            entities: The keys of an entity.
            references: Its features, each as ``view:feature``.
            ttl: Seconds after which values are stale, by view; the others never are.
        """
        features = []
        for reference in references:
            view, _, name = reference.partition(":")
            features.append(Feature(name, view, (ttl or {}).get(view, 0.0)))
        digest = hashlib.sha256(msgspec.json.encode((service, entities, features))).hexdigest()
        self._services[service] = FeatureService(service, tuple(entities), tuple(features), (), digest)

    def put(
        self, view: str, entity: Mapping[str, Any], values: Mapping[str, Any], *, event_ns: int | None = None
    ) -> None:
        """Store what is true of an entity.

        Args:
            view: The feature view.
            entity: The entity's keys.
            values: Values by feature name; ``None`` is null.
            event_ns: Since when, nanoseconds since the epoch; now by default.
        """
        with self._lock:
            self._kept[view, _key(entity, entity)] = (event_ns or time.time_ns(), dict(values))

    def open(self, service: str, timeout: float) -> FeatureService:  # noqa: ARG002  # the Protocol's
        """What a feature service consists of.

        Raises:
            ConfigurationError: It was not defined.
        """
        found = self._services.get(service)
        if found is None:
            raise ConfigurationError(f"The feature service {service!r} is not defined in the store {self._name!r}.")
        return found

    def get_online_features(self, service: FeatureService, entity_rows: Sequence[Mapping[str, Any]]) -> OnlineFeatures:
        """The features of entities.

        Raises:
            FeatureError: A key is missing.
        """
        values: list[Sequence[Any]] = []
        times: list[Sequence[int]] = []
        for row in entity_rows:
            if absent := [name for name in service.entities if row.get(name) is None]:
                raise FeatureError(f"An entity lacks the key {absent[0]!r}.", "invalid")
            key = _key(row, service.entities)
            with self._lock:
                found = [self._kept.get((feature.view, key), (0, {})) for feature in service.features]
            values.append([kept.get(feature.name) for feature, (_, kept) in zip(service.features, found, strict=True)])
            times.append([event_ns for event_ns, _ in found])
        return OnlineFeatures(values, times)

    def refresh(self) -> None:
        """Its definitions are those that were made last."""

    def close(self) -> None:
        """It holds nothing to give back."""


def _key(entity: Mapping[str, Any], names: Any) -> tuple[tuple[str, str], ...]:
    return tuple(sorted((name, str(entity[name])) for name in names))
