"""Objectives: what a service promises of its predictions, its features and its trail."""

from __future__ import annotations

from collections import Counter
from enum import StrEnum
from typing import Annotated, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

FASTEST_BOUND: Final = 1e-4
SLOWEST_BOUND: Final = 60.0
"""The bounds of a latency objective, in seconds: what the histogram of durations spans."""

LONGEST_LAG: Final = 86_400.0
"""The largest bound of an audit lag, in seconds."""

FAILED: Final = ("error", "timeout", "rejected")
"""Outcomes that are failures of the service, unless an objective says otherwise."""

Failure = Literal["error", "timeout", "rejected"]
Label = Annotated[str, Field(max_length=256)]


class Indicator(StrEnum):
    """What an objective measures."""

    AVAILABILITY = "availability"
    """Share of predictions that did not fail."""
    LATENCY = "latency"
    """Share of predictions that were answered within a time."""
    FEATURE_FRESHNESS = "feature-freshness"
    """Share of features found that were fresh."""
    AUDIT_LAG = "audit-lag"
    """Share of minutes in which a relay ran, and no record waited longer than a time for its destination."""

    @property
    def subject(self) -> str:
        """The label that names what has a budget of its own."""
        return _SUBJECTS[self]

    @property
    def has_bound(self) -> bool:
        """Whether an objective of it has a bound in seconds."""
        return self in {Indicator.LATENCY, Indicator.AUDIT_LAG}


_SUBJECTS: Final = {
    Indicator.AVAILABILITY: "model",
    Indicator.LATENCY: "model",
    Indicator.FEATURE_FRESHNESS: "view",
    Indicator.AUDIT_LAG: "destination",
}


class Objective(BaseModel):
    """One promise: of what is measured, this share is good over this window.

    Attributes:
        name: Its name, unique among the objectives.
        service: The service it belongs to, a label on its alerts.
        indicator: What is measured.
        target: The share that is to be good, at least 0.5 and below 1.
        bound: The longest time that is good, in seconds; of latency and audit lag only.
        days: Length of the rolling window, in days.
        subject: The model, feature view or destination it is of. Empty: each of them has a budget of its own.
        job: The Prometheus job it is of. Empty: each of them has a budget of its own.
        bad: The outcomes that are failures; of availability only. An outcome that is neither ``ok`` nor one of
            these does not count.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)

    name: str = Field(max_length=63, pattern=r"^[a-z0-9]([a-z0-9-]*[a-z0-9])?$")
    service: Label = ""
    indicator: Indicator
    target: float = Field(ge=0.5, lt=1)
    bound: float | None = None
    days: Literal[28, 30] = 30
    subject: Label = ""
    job: Label = ""
    bad: tuple[Failure, ...] = Field(FAILED, min_length=1)

    @model_validator(mode="after")
    def _bound_fits(self) -> Self:
        if not self.indicator.has_bound:
            if self.bound is not None:
                raise ValueError(f"an objective of {self.indicator} has no bound in seconds")
            return self
        least, most = (FASTEST_BOUND, SLOWEST_BOUND) if self.indicator is Indicator.LATENCY else (1.0, LONGEST_LAG)
        if self.bound is None or not least <= self.bound <= most:
            raise ValueError(f"an objective of {self.indicator} needs a bound of {least:g} to {most:g} seconds")
        return self

    @property
    def budget(self) -> float:
        """The share that may be bad."""
        return round(1 - self.target, 12)


class Objectives(BaseModel):
    """All objectives of a file.

    Attributes:
        items: The objectives, in the file's order.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    items: tuple[Objective, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _names_differ(self) -> Self:
        twice = [name for name, count in Counter(each.name for each in self.items).items() if count > 1]
        if twice:
            raise ValueError(f"two objectives are named {twice[0]!r}")
        return self

    def latency_bounds(self) -> tuple[float, ...]:
        """The bounds of all latency objectives in seconds, ascending: buckets that histograms must have."""
        bounds = {each.bound for each in self.items if each.indicator is Indicator.LATENCY and each.bound is not None}
        return tuple(sorted(bounds))


DEFAULT_OBJECTIVES: Final = Objectives(
    items=(
        Objective(name="availability", indicator=Indicator.AVAILABILITY, target=0.995),
        Objective(name="latency", indicator=Indicator.LATENCY, target=0.99, bound=0.5),
        Objective(name="feature-freshness", indicator=Indicator.FEATURE_FRESHNESS, target=0.99),
        Objective(name="audit-lag", indicator=Indicator.AUDIT_LAG, target=0.99, bound=60.0),
    )
)
"""What holds where there is no file: for every model, view and destination that there is."""
