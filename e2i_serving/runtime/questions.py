"""Conditions and times as people write them."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, Final, TypeVar

import msgspec

from e2i_serving.exceptions import QueryError
from e2i_serving.record import ModelInfo, OutcomeFilter, PredictionFilter
from e2i_serving.redaction import HASH_PREFIX, Redactor, redactor_of
from e2i_serving.settings import Settings
from e2i_serving.stores.conditions import entity_parts

_Filter = TypeVar("_Filter", PredictionFilter, OutcomeFilter)

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_AGO: Final = re.compile(r"(\d{1,9})\s*([smhdw])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def prediction_filter(where: PredictionFilter | None = None, **conditions: Any) -> PredictionFilter:
    """A filter from conditions by name.

    Args:
        where: Conditions to begin with.
        conditions: Fields of ``PredictionFilter``, and ``since`` and ``until``; ``None`` is no condition.

    Raises:
        QueryError: A name is unknown, or a value is of the wrong type.
    """
    return _filter(where or PredictionFilter(), conditions)


def outcome_filter(
    where: OutcomeFilter | None = None,
    *,
    prediction_id: str | None = None,
    request_id: str | None = None,
    **conditions: Any,
) -> OutcomeFilter:
    """A filter of outcomes from conditions by name.

    Args:
        where: Conditions to begin with.
        prediction_id: About this prediction.
        request_id: About this request.
        conditions: Fields of ``OutcomeFilter``, and ``since`` and ``until``; ``None`` is no condition.

    Raises:
        QueryError: A name is unknown, or a value is of the wrong type.
    """
    if prediction_id is not None:
        conditions["prediction_ids"] = (prediction_id,)
    if request_id is not None:
        conditions["request_ids"] = (request_id,)
    return _filter(where or OutcomeFilter(), conditions)


def _filter(where: _Filter, conditions: Mapping[str, Any]) -> _Filter:
    fields: dict[str, Any] = msgspec.structs.asdict(where)
    for name, value in conditions.items():
        if value is None:
            continue
        if name in ("since", "until"):
            fields[f"{name}_ns"] = time_ns_of(value)
        elif name in fields:
            fields[name] = value
        else:
            close = difflib.get_close_matches(name, [*fields, "since", "until"], n=1)
            mend = f"Did you mean {close[0]!r}?" if close else f"There are {', '.join(fields)}, since and until."
            raise QueryError(f"There is no condition {name!r}. {mend}")
    try:
        return msgspec.convert(fields, type(where))
    except msgspec.ValidationError as error:
        raise QueryError(f"A condition has a wrong value: {error}.") from error


def entity_as_stored(settings: Settings, entity: str) -> str:
    """An entity in the words of the trail, where its value may be hashed: to erase it, or to hold it.

    Args:
        settings: By which the trail was redacted.
        entity: ``name=value``; a value that is a hash already is left as it is.

    Raises:
        ConfigurationError: It takes the key that values were hashed with, and that is not set.
        QueryError: What the trail keeps of it stands for others as well.
    """
    redactor = redactor_of(settings, ModelInfo())
    parts = _in_clear(entity)
    if redactor is None or parts is None:
        return entity
    if not redactor.tells_apart(*parts):
        raise _stands_for_others(parts[0])
    return f"{parts[0]}={redactor.entity(*parts)}"


def entity_to_look_up(redactor: Redactor, entity: str) -> str:
    """As ``entity_as_stored``, to look it up: who asks for what the trail keeps, though of others too, gets it.

    Args:
        redactor: By which the trail was redacted.
        entity: ``name=value``, or a value alone, which is left as it is.

    Raises:
        QueryError: What the trail keeps of it stands for others as well, and is not what was asked for.
    """
    parts = _in_clear(entity)
    if parts is None:
        return entity
    stored = redactor.entity(*parts)
    if stored != parts[1] and not redactor.tells_apart(*parts):
        raise _stands_for_others(parts[0])
    return f"{parts[0]}={stored}"


def _in_clear(entity: str) -> tuple[str, str] | None:
    parts = entity_parts(entity)
    return None if parts is None or parts[1].startswith(HASH_PREFIX) else parts


def _stands_for_others(name: str) -> QueryError:
    return QueryError(
        f"Redaction masks, rounds or leaves out this {name}, so that what the trail keeps of it stands for others as "
        "well. Name an entity that is kept or hashed, or go by model and time; a redaction rule that hashes "
        f"entities.{name} tells people apart in what is recorded from then on."
    )


def time_ns_of(value: str | datetime) -> int:
    """A point in time as nanoseconds since the epoch.

    Args:
        value: A datetime; or a text, either ISO 8601 or how long ago, such as ``30m``, ``1h`` or ``7d`` (units s, m,
            h, d and w). What has no time zone is in UTC.

    Raises:
        QueryError: It is neither.
    """
    moment = value
    if isinstance(moment, str):
        text = moment.strip()
        ago = _AGO.fullmatch(text)
        try:
            if ago:
                moment = datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
            else:
                moment = datetime.fromisoformat(text)
        except (ValueError, OverflowError):
            raise QueryError(
                f"{value!r} is no time. Write it as 2030-01-31T12:00:00Z, or how long ago: 30m, 1h, 7d."
            ) from None
    if not isinstance(moment, datetime):
        raise QueryError(f"A time is a datetime or a text, not {type(value).__name__}.")
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000
