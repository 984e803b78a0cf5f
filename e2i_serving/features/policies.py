"""What happens to a prediction whose features are not all there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from e2i_serving.exceptions import ConfigurationError, FeatureError
from e2i_serving.features.outcomes import HIT, ViewOutcomes
from e2i_serving.typing import Feature, OnlineFeatures

Action = Literal["fail", "default", "pass"]


@dataclass(frozen=True, slots=True)
class FeaturePolicy:
    """What is done, for one feature view, about values that are not as they should be.

    ``fail`` refuses the prediction and names the feature: 422 for what is missing, null or stale, 503 for what can't
    be fetched. ``default`` puts the feature's default in its place, null without one. ``pass`` leaves it.

    Attributes:
        missing: Of an entity that never had a value.
        null: Of a value that is null.
        stale: Of a value older than the view's time to live.
        unavailable: Of a store that is down, too slow or overloaded.
        defaults: Defaults by feature name.
    """

    missing: Action = "pass"
    null: Action = "pass"
    stale: Action = "pass"
    unavailable: Action = "fail"
    defaults: Mapping[str, Any] = field(default_factory=dict)


def apply_policies(
    online: OnlineFeatures,
    features: Sequence[Feature],
    views: Sequence[ViewOutcomes],
    policies: Mapping[str, FeaturePolicy],
    now_ns: int,
) -> list[Sequence[Any]]:
    """The values as the policies leave them.

    Args:
        online: What the store gave.
        features: The service's features.
        views: Their views, as ``views_of`` gives them: those with something that is no hit.
        policies: By view; a view without one has its values as they are.
        now_ns: The present, nanoseconds since the epoch.

    Raises:
        FeatureError: A policy refuses; its kind is the outcome.
    """
    rows = online.values
    for view in views:
        policy = policies.get(view.view)
        if policy is None or (policy.missing, policy.null, policy.stale) == ("pass", "pass", "pass"):
            continue
        changed = [list(row) for row in rows]
        for index, row in enumerate(changed):
            for at in view.places:
                outcome = view.outcome(row[at], online.event_ns[index][at], now_ns)
                action: Action = "pass" if outcome == HIT else getattr(policy, outcome)
                if action == "fail":
                    name = features[at].reference
                    raise FeatureError(f"The feature {name} of entity {index} is {outcome}.", outcome, (name,))
                if action == "default":
                    row[at] = policy.defaults.get(features[at].name)
        rows = list(changed)
    return rows


def without_store(
    error: FeatureError, entities: int, features: Sequence[Feature], policies: Mapping[str, FeaturePolicy]
) -> list[Sequence[Any]]:
    """The values of a store that gave none.

    Args:
        error: Why it gave none.
        entities: How many entities were asked about.
        features: The service's features.
        policies: By view; without one the prediction is refused.

    Raises:
        FeatureError: A policy refuses.
    """
    if error.kind == "invalid":
        raise error
    row: list[Any] = []
    needed: list[Feature] = []
    for feature in features:
        policy = policies.get(feature.view, FeaturePolicy())
        if policy.unavailable == "fail":
            needed.append(feature)
        row.append(policy.defaults.get(feature.name) if policy.unavailable == "default" else None)
    if needed:
        views = ", ".join(dict.fromkeys(feature.view for feature in needed))
        raise FeatureError(
            f"{error} The features of {views} are needed.", error.kind, tuple(feature.reference for feature in needed)
        ) from error
    return [row] * entities


def refuse_wrong_policies(policies: Mapping[str, FeaturePolicy], features: Sequence[Feature], service: str) -> None:
    """Refuse policies and defaults of what a feature service has not.

    Raises:
        ConfigurationError: A view or a feature is not in the service.
    """
    for view, policy in policies.items():
        names = {feature.name for feature in features if feature.view == view}
        if not names:
            known = ", ".join(sorted({feature.view for feature in features}))
            raise ConfigurationError(
                f"There is a feature policy for {view!r}, which is no view of the feature service {service!r}. "
                f"It has: {known}."
            )
        if unknown := sorted(policy.defaults.keys() - names):
            raise ConfigurationError(
                f"The feature policy for {view!r} has a default for {unknown[0]!r}, which the feature service "
                f"{service!r} does not take from there. It takes: {', '.join(sorted(names))}."
            )
