"""Reads an audit store on SQLite or PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, and_, func, inspect, or_, select

from e2i_serving.exceptions import StoreError
from e2i_serving.record import PredictionFilter, Row
from e2i_serving.stores.conditions import checked, entity_parts
from e2i_serving.stores.engine import file_of, open_engine, store_errors
from e2i_serving.stores.tables import entities, items, metadata, predictions
from e2i_serving.stores.urls import masked_url

_CHUNK: Final = 500

_EQUAL: Final = (
    "prediction_id",
    "request_id",
    "trace_id",
    "service",
    "model",
    "model_version",
    "outcome",
    "status",
    "endpoint",
)


class SqlAuditQuery:
    """An ``AuditQuery`` on SQLite or PostgreSQL. It reads while a relay writes, and changes nothing."""

    def __init__(self, url: str) -> None:
        """Prepare to read a store.

        Args:
            url: An SQLAlchemy URL, of SQLite (a file) or PostgreSQL.

        Raises:
            ConfigurationError: The URL is wrong, or its driver is not installed.
            StoreError: There is no such SQLite file.
        """
        path = file_of(url)
        if path is not None and not path.is_file():
            raise StoreError(
                f"There is no audit store at {path}. It is made when the relay stores a service's first prediction: "
                "see that the service runs with auditing on, or name another data directory or URL."
            )
        self._url = url
        self._engine = open_engine(url, read_only=True)
        self._made = False

    def predictions(
        self, where: PredictionFilter, *, limit: int | None = None, newest_first: bool = True
    ) -> Iterator[Row]:
        """Predictions that meet a filter; see ``AuditQuery.predictions``. Fetched as they are asked for."""
        checked(where, limit)
        keys = (predictions.c.time_ns, predictions.c.prediction_id)
        order = [key.desc() for key in keys] if newest_first else keys
        return self._stream(_matching(select(predictions), where).order_by(*order).limit(limit))

    def items(self, prediction_ids: Sequence[str]) -> dict[str, list[Row]]:
        """The items of predictions; see ``AuditQuery.items``."""
        wanted = list(dict.fromkeys(prediction_ids))
        found: dict[str, list[Row]] = {prediction_id: [] for prediction_id in wanted}
        for start in range(0, len(wanted), _CHUNK):
            chosen = items.c.prediction_id.in_(wanted[start : start + _CHUNK])
            ordered = select(items).where(chosen).order_by(items.c.prediction_id, items.c.item_index)
            for row in self._stream(ordered):
                found[row["prediction_id"]].append(row)
        return found

    def count(self, where: PredictionFilter) -> int:
        """How many predictions meet a filter."""
        statement = _matching(select(func.count()).select_from(predictions), checked(where))
        if self._is_empty():
            return 0
        with store_errors(self._url, "read"), self._engine.connect() as connection:
            return int(connection.execute(statement).scalar_one())

    def durations(self, where: PredictionFilter) -> dict[tuple[str, str], list[float]]:
        """Durations in seconds by (model, version), sorted; see ``AuditQuery.durations``."""
        columns = (predictions.c.model, predictions.c.model_version, predictions.c.duration)
        statement = _matching(select(*columns), checked(where)).order_by(predictions.c.duration)
        found: dict[tuple[str, str], list[float]] = {}
        for row in self._stream(statement):
            found.setdefault((row["model"] or "", row["model_version"] or ""), []).append(row["duration"])
        return found

    def close(self) -> None:
        """Give back connections and files."""
        self._engine.dispose()

    def _is_empty(self) -> bool:
        """Whether the relay has yet to make the tables; it may be doing so while we look."""
        if not self._made:
            with store_errors(self._url, "read"):
                there = inspect(self._engine).get_table_names()
            self._made = metadata.tables.keys() <= set(there)
            if there and not metadata.tables.keys() & set(there):
                raise StoreError(f"{masked_url(self._url)} is a database, but holds no audit store. Name another.")
        return not self._made

    def _stream(self, statement: Select[Any]) -> Iterator[Row]:
        if self._is_empty():
            return
        with (
            store_errors(self._url, "read"),
            self._engine.connect() as connection,
            connection.execution_options(yield_per=_CHUNK).execute(statement) as result,
        ):
            for row in result.mappings():
                yield dict(row)


def _matching(statement: Select[Any], where: PredictionFilter) -> Select[Any]:
    return statement.where(*_conditions(where))


def _conditions(where: PredictionFilter) -> Iterator[ColumnElement[bool]]:
    for name in _EQUAL:
        value = getattr(where, name)
        if value is not None:
            yield predictions.c[name] == value
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
