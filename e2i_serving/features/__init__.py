"""Features of entities: fetched from a feature store, timed, and explained."""

from e2i_serving.features.feast import FeastFeatureStore
from e2i_serving.features.memory import InMemoryFeatureStore
from e2i_serving.features.policies import FeaturePolicy
from e2i_serving.features.timed import Retrieved, TimedFeatureStore

__all__ = ["FeastFeatureStore", "FeaturePolicy", "InMemoryFeatureStore", "Retrieved", "TimedFeatureStore"]
