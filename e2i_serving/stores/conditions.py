"""What a filter may ask, the same for every store."""

from __future__ import annotations

from typing import Final

import msgspec

from e2i_serving.exceptions import QueryError
from e2i_serving.record import Outcome, OutcomeFilter, PredictionFilter

_INT64: Final = 2**63
_INT32: Final = 2**31


def checked(where: PredictionFilter, limit: int | None = None) -> PredictionFilter:
    """A filter that every store can answer.

    Args:
        where: The filter.
        limit: Most predictions asked for.

    Returns:
        The same filter.

    Raises:
        QueryError: A condition can never be met, or can't be put to a database.
    """
    _check_limit(limit)
    outcomes = [outcome.value for outcome in Outcome]
    if where.outcome is not None and where.outcome not in outcomes:
        raise QueryError(f"There is no outcome {where.outcome!r}. Ask for one of {', '.join(outcomes)}.")
    for name, value in msgspec.structs.asdict(where).items():
        if isinstance(value, str):
            _check_text(value, name)
        elif isinstance(value, int) and not -_bound(name) <= value < _bound(name):
            raise QueryError(f"{name} is {value}, which is out of range.")
    for name, value in where.labels.items():
        _check_text(name, "a label's name")
        _check_text(value, f"label {name!r}")
        if '"' in name or "\\" in name:
            raise QueryError(f"A label's name can't hold quotes or backslashes: {name!r}.")
    return where


def checked_outcomes(where: OutcomeFilter, limit: int | None = None) -> OutcomeFilter:
    """A filter of outcomes that every store can answer.

    Args:
        where: The filter.
        limit: Most outcomes asked for.

    Returns:
        The same filter.

    Raises:
        QueryError: A condition can't be put to a database.
    """
    checked_range(where.since_ns, where.until_ns, limit)
    for name in ("prediction_ids", "request_ids", "outcome_ids"):
        for value in getattr(where, name):
            _check_text(value, name)
    for name in ("name", "source"):
        if (value := getattr(where, name)) is not None:
            _check_text(value, name)
    return where


def checked_range(since_ns: int | None, until_ns: int | None, limit: int | None) -> None:
    """See that a time range and a limit can be put to a database.

    Raises:
        QueryError: One of them can't.
    """
    _check_limit(limit)
    for name, value in (("since_ns", since_ns), ("until_ns", until_ns)):
        if value is not None and not -_INT64 <= value < _INT64:
            raise QueryError(f"{name} is {value}, which is out of range.")


def entity_parts(entity: str) -> tuple[str, str] | None:
    """The name and value of an entity filter written ``name=value``; ``None`` when it is a value alone."""
    name, separator, value = entity.partition("=")
    return (name, value) if separator and name else None


def _check_limit(limit: int | None) -> None:
    if limit is not None and not 0 <= limit < _INT64:
        raise QueryError(f"limit is {limit}; it must be 0 or more.")


def _bound(name: str) -> int:
    return _INT32 if name == "status" else _INT64


def _check_text(value: str, name: str) -> None:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise QueryError(f"{name} is not valid text: {value!r}.") from None
    if "\0" in value:
        raise QueryError(f"{name} can't hold the character NUL: {value!r}.")
