"""Which rows a question means: filters as SQL, and predictions merged with how their answers ended."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, and_, exists, func, or_, select, tuple_

from e2i_serving.record import OutcomeFilter, PredictionFilter
from e2i_serving.stores.conditions import entity_parts
from e2i_serving.stores.tables import entities, events, outcomes, predictions

_end: Final = events.alias("ended")
_earlier_end: Final = events.alias("ended_before")
_earlier_outcome: Final = outcomes.alias("recorded_before")

_ENDS: Final = and_(
    _end.c.prediction_id == predictions.c.prediction_id,
    _end.c.kind == "end",
    ~exists().where(
        _earlier_end.c.prediction_id == _end.c.prediction_id,
        _earlier_end.c.kind == "end",
        tuple_(_earlier_end.c.life, _earlier_end.c.sequence) < tuple_(_end.c.life, _end.c.sequence),
    ),
)
"""An answer ends once: should there be several, the first one holds."""

_MERGED: Final[dict[str, ColumnElement[Any]]] = {
    name: func.coalesce(_end.c[name], predictions.c[name], type_=predictions.c[name].type).label(name)
    for name in ("duration", "outcome", "status", "response_bytes", "error_type", "error_message")
}
"""What an end says better than the prediction's own row."""

_EQUAL: Final = (
    *("prediction_id", "request_id", "trace_id", "service"),
    *("model", "model_version", "endpoint"),
)


def with_ends(*columns: ColumnElement[Any]) -> Select[Any]:
    """A selection of predictions that knows how their answers ended.

    Args:
        columns: Columns of ``predictions``, or expressions.
    """
    chosen = [_MERGED.get(column.key or "", column) if _is_prediction_s(column) else column for column in columns]
    return select(*chosen).select_from(predictions.outerjoin(_end, _ENDS))


def matching_predictions(statement: Select[Any], where: PredictionFilter) -> Select[Any]:
    """The predictions among a selection that meet a filter; for outcome and status, made by ``with_ends``."""
    return statement.where(*_conditions(where))


def matching_outcomes(statement: Select[Any], where: OutcomeFilter) -> Select[Any]:
    """The outcomes among a selection that meet a filter."""
    about: list[ColumnElement[bool]] = []
    if where.prediction_ids:
        about.append(outcomes.c.prediction_id.in_(where.prediction_ids))
    if where.request_ids:
        about.append(and_(outcomes.c.request_id.in_(where.request_ids), outcomes.c.prediction_id.is_(None)))
    if about:
        statement = statement.where(or_(*about))
    if where.outcome_ids:
        statement = statement.where(outcomes.c.outcome_id.in_(where.outcome_ids))
    if where.name is not None:
        statement = statement.where(outcomes.c.name == where.name)
    if where.source is not None:
        statement = statement.where(outcomes.c.source == where.source)
    if where.since_ns is not None:
        statement = statement.where(outcomes.c.time_ns >= where.since_ns)
    if where.until_ns is not None:
        statement = statement.where(outcomes.c.time_ns < where.until_ns)
    return statement


def first_of_each() -> ColumnElement[bool]:
    """Whether an outcome is the first one recorded with its id."""
    own = tuple_(outcomes.c.time_ns, outcomes.c.life, outcomes.c.sequence)
    other = tuple_(_earlier_outcome.c.time_ns, _earlier_outcome.c.life, _earlier_outcome.c.sequence)
    return ~exists().where(_earlier_outcome.c.outcome_id == outcomes.c.outcome_id, other < own)


def _is_prediction_s(column: ColumnElement[Any]) -> bool:
    return getattr(column, "table", None) is predictions


def _conditions(where: PredictionFilter) -> Iterator[ColumnElement[bool]]:
    for name in _EQUAL:
        value = getattr(where, name)
        if value is not None:
            yield predictions.c[name] == value
    for name in ("outcome", "status"):
        value = getattr(where, name)
        if value is not None:
            yield func.coalesce(_end.c[name], predictions.c[name]) == value
    for name, value in where.labels.items():
        yield predictions.c.labels[name].as_string() == value
    if where.entity is not None:
        known = entities.c.value == where.entity
        parts = entity_parts(where.entity)
        if parts:
            known = or_(known, and_(entities.c.name == parts[0], entities.c.value == parts[1]))
        yield predictions.c.prediction_id.in_(select(entities.c.prediction_id).where(known))
    if where.since_ns is not None:
        yield predictions.c.time_ns >= where.since_ns
    if where.until_ns is not None:
        yield predictions.c.time_ns < where.until_ns
