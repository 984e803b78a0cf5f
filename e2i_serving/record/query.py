"""What an auditor can ask for."""

from __future__ import annotations

import msgspec


class PredictionFilter(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Conditions that a prediction must meet, all of them. An empty filter meets everything.

    Attributes:
        prediction_id: This one prediction.
        request_id: Every prediction made for this request id.
        trace_id: Every prediction of this trace, 32 hex digits.
        service: The BentoML service's name.
        model: The model's name.
        model_version: The model's version.
        outcome: One of the outcomes, such as ``"error"``.
        status: The HTTP status.
        endpoint: The API method's name.
        labels: Label values, all of which must match.
        entity: An entity: ``"value"`` for any key, or ``"name=value"``.
        since_ns: At or after, nanoseconds since the epoch.
        until_ns: Before, nanoseconds since the epoch.
    """

    prediction_id: str | None = None
    request_id: str | None = None
    trace_id: str | None = None
    service: str | None = None
    model: str | None = None
    model_version: str | None = None
    outcome: str | None = None
    status: int | None = None
    endpoint: str | None = None
    labels: dict[str, str] = {}
    entity: str | None = None
    since_ns: int | None = None
    until_ns: int | None = None


class OutcomeFilter(msgspec.Struct, frozen=True, omit_defaults=True, kw_only=True):
    """Conditions that an outcome must meet. An empty filter meets everything.

    Attributes:
        prediction_ids: About one of these predictions, or about one of ``request_ids``; a few hundred at most.
        request_ids: About one of these requests, as far as their prediction was not known; likewise.
        outcome_ids: One of these; likewise.
        name: What was observed, such as ``truth``.
        source: Who or what said so.
        since_ns: Recorded at or after, nanoseconds since the epoch.
        until_ns: Recorded before, nanoseconds since the epoch.
    """

    prediction_ids: tuple[str, ...] = ()
    request_ids: tuple[str, ...] = ()
    outcome_ids: tuple[str, ...] = ()
    name: str | None = None
    source: str | None = None
    since_ns: int | None = None
    until_ns: int | None = None
