"""From the entities of a request to its instances, by way of a feature store."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from e2i_serving.exceptions import ServiceDefinitionError
from e2i_serving.features import FeaturePolicy, TimedFeatureStore
from e2i_serving.record import Values, column_values
from e2i_serving.runtime.observation import Observation
from e2i_serving.services.errors import invalid_request, refused_features
from e2i_serving.services.requests import PredictionRequest, refuse_texts

METHODS = ("open", "get_online_features", "refresh", "close")
"""What a feature store must have."""


class FeatureRetrieval:
    """Fills the instances of requests with what a feature store has.

    Args:
        store: The store, opened.
        is_numeric: Whether the model takes numbers only.
    """

    def __init__(self, store: TimedFeatureStore, *, is_numeric: bool = False) -> None:
        self._store = store
        self._is_numeric = is_numeric
        self.names = tuple(feature.name for feature in store.service.features)

    def fill(self, request: PredictionRequest, names: tuple[str, ...], current: Observation | None) -> None:
        """Put the features of a request's entities into its instances.

        Args:
            request: The request; instances that are whole already stay as they are.
            names: The model's features, which are all that is put there.
            current: What is gathered about the request; learns where the features came from.

        Raises:
            FeaturesRefused: They can't be had, and a policy refuses the prediction.
            pydantic.ValidationError: An instance gives some of what is fetched, names no entity, or holds text where
                the model takes numbers.
        """
        instances = request.instances
        data = self._store.service.request_data
        if self._is_numeric:
            refuse_texts(instances, {*data} - {*names})
        if not isinstance(instances[0], dict) or self._are_whole(instances):
            return
        if not request.entities:
            raise invalid_request("Entities are needed, by which the features are fetched", "entities")
        keys = self._keys(request)
        if current is not None:
            current.entities = request.entities
        rows = [dict(zip(request.entities, row, strict=True)) for row in zip(*keys, strict=True)]
        for at, (row, instance) in enumerate(zip(rows, instances, strict=True)):
            if not isinstance(instance, dict):
                raise invalid_request("Expected an object like the first instance", "instances", at)
            row.update({name: instance[name] for name in data if name in instance})
        retrieved = self._store.retrieve(rows)
        if current is not None:
            current.feature_provenance = retrieved.provenance
        if retrieved.error is not None:
            raise refused_features(retrieved.error)
        # What the service has and the model does not take stays out; what only the caller gave is checked later.
        left_out = {*self.names, *data} - {*names}
        request.fetched = frozenset(self.names)
        request.instances = [
            {
                name: value
                for name, value in {**instance, **dict(zip(self.names, values, strict=True))}.items()
                if name not in left_out
            }
            for instance, values in zip(instances, retrieved.rows, strict=True)
        ]

    def close(self) -> None:
        """Give back the store."""
        self._store.close()

    def _are_whole(self, instances: list[Any]) -> bool:
        """Whether instances give all that would be fetched; refuses one that gives a part of it."""
        given = [sum(name in instance for name in self.names) for instance in instances if isinstance(instance, dict)]
        if not any(given):
            return False
        if min(given) == len(self.names):
            return True
        at = next(at for at, number in enumerate(given) if number)
        name = next(name for name in self.names if name in instances[at])
        raise invalid_request("This is fetched by entity: leave it out, or give all features", "instances", at, name)

    def _keys(self, request: PredictionRequest) -> list[list[Any]]:
        keys = self._store.service.entities
        if request.entities.keys() == {"id"} and len(keys) == 1:
            request.entities = {keys[0]: request.entities["id"]}  # on record by the name that the store has it under
        items = len(request.instances)
        for name in keys:
            values = request.entities.get(name)
            if not isinstance(values, Values) or None in values.values:
                raise invalid_request(f"Each entity needs the keys {', '.join(keys)}; one lacks {name}", "entities")
        return [column_values(column, items) for column in request.entities.values()]


def refuse_wrong_features(cls: Any) -> None:
    """Refuse a class whose feature service and store don't go together.

    Raises:
        ServiceDefinitionError: One is missing, or is none.
    """
    service, store, policies = cls.feature_service, cls.feature_store, cls.feature_policies
    if not service and store is None:
        return
    if not isinstance(service, str) or not service or store is None:
        raise ServiceDefinitionError(
            f"{cls.__name__} needs both feature_service, the name of a feature service, and feature_store, where it is."
        )
    if absent := [name for name in METHODS if not callable(getattr(store, name, None))]:
        raise ServiceDefinitionError(
            f"{cls.__name__}.feature_store is no feature store: it has no {absent[0]}(). "
            "Set an InMemoryFeatureStore, a FeastFeatureStore or one of your own."
        )
    if not isinstance(policies, Mapping) or not all(isinstance(each, FeaturePolicy) for each in policies.values()):
        raise ServiceDefinitionError(f"{cls.__name__}.feature_policies must be FeaturePolicy objects by feature view.")
