"""Reads an audit store on SQLite or PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final

from sqlalchemy import ColumnElement, Select, Table, func, select

from e2i_serving.exceptions import StoreError
from e2i_serving.record import OutcomeFilter, PredictionFilter, Row
from e2i_serving.stores.conditions import checked, checked_outcomes, checked_range
from e2i_serving.stores.engine import existing_file, open_engine, store_errors
from e2i_serving.stores.migrations import HEAD, is_foreign, version_of
from e2i_serving.stores.selection import first_of_each, matching_outcomes, matching_predictions, with_ends
from e2i_serving.stores.tables import accesses, events, items, outcomes, predictions
from e2i_serving.stores.urls import masked_url

_CHUNK: Final = 500


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
        existing_file(url)
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
        return self._stream(matching_predictions(with_ends(*predictions.c), where).order_by(*order).limit(limit))

    def items(self, prediction_ids: Sequence[str]) -> dict[str, list[Row]]:
        """The items of predictions; see ``AuditQuery.items``."""
        return self._by_prediction(items, prediction_ids, items.c.item_index)

    def count(self, where: PredictionFilter) -> int:
        """How many predictions meet a filter."""
        checked(where)
        needs_ends = where.outcome is not None or where.status is not None
        counted = with_ends(func.count()) if needs_ends else select(func.count()).select_from(predictions)
        statement = matching_predictions(counted, where)
        if self._is_empty():
            return 0
        with store_errors(self._url, "read"), self._engine.connect() as connection:
            return int(connection.execute(statement).scalar_one())

    def durations(self, where: PredictionFilter) -> dict[tuple[str, str], list[float]]:
        """Durations in seconds by (model, version), sorted; see ``AuditQuery.durations``."""
        columns = (predictions.c.model, predictions.c.model_version, predictions.c.duration)
        statement = matching_predictions(with_ends(*columns), checked(where))
        found: dict[tuple[str, str], list[float]] = {}
        for row in self._stream(statement):
            found.setdefault((row["model"] or "", row["model_version"] or ""), []).append(row["duration"])
        for durations in found.values():
            durations.sort()
        return found

    def late_results(self, prediction_ids: Sequence[str]) -> dict[str, list[Row]]:
        """What threads came to after the answer; see ``AuditQuery.late_results``."""
        return self._by_prediction(events, prediction_ids, events.c.sequence, events.c.kind == "late")

    def outcomes(self, where: OutcomeFilter, *, limit: int | None = None) -> Iterator[Row]:
        """Outcomes that meet a filter; see ``AuditQuery.outcomes``. Fetched as they are asked for."""
        statement = matching_outcomes(select(outcomes), checked_outcomes(where, limit)).where(first_of_each())
        order = (outcomes.c.time_ns.desc(), outcomes.c.life.desc(), outcomes.c.sequence.desc())
        return self._stream(statement.order_by(*order).limit(limit))

    def accesses(
        self, *, since_ns: int | None = None, until_ns: int | None = None, limit: int | None = None
    ) -> Iterator[Row]:
        """Who looked at the trail; see ``AuditQuery.accesses``. Fetched as they are asked for."""
        checked_range(since_ns, until_ns, limit)
        statement = select(accesses)
        if since_ns is not None:
            statement = statement.where(accesses.c.time_ns >= since_ns)
        if until_ns is not None:
            statement = statement.where(accesses.c.time_ns < until_ns)
        return self._stream(statement.order_by(accesses.c.time_ns.desc(), accesses.c.access_id.desc()).limit(limit))

    def identities(self, prediction_ids: Sequence[str], request_ids: Sequence[str]) -> list[Row]:
        """The predictions with one of these ids; see ``AuditQuery.identities``."""
        names = ("prediction_id", "request_id", "items", "service")
        columns: list[ColumnElement[Any]] = [predictions.c[name] for name in names]
        found: dict[str, Row] = {}
        for column, wanted in ((predictions.c.prediction_id, prediction_ids), (predictions.c.request_id, request_ids)):
            for chunk in _chunks(wanted):
                for row in self._stream(select(*columns).where(column.in_(chunk))):
                    found[row["prediction_id"]] = row
        return list(found.values())

    def close(self) -> None:
        """Give back connections and files."""
        self._engine.dispose()

    def _by_prediction(
        self, table: Table, prediction_ids: Sequence[str], order: ColumnElement[Any], *also: ColumnElement[bool]
    ) -> dict[str, list[Row]]:
        found: dict[str, list[Row]] = {prediction_id: [] for prediction_id in prediction_ids}
        of = table.c.prediction_id
        for chunk in _chunks(prediction_ids):
            for row in self._stream(select(table).where(of.in_(chunk), *also).order_by(of, order)):
                found[row["prediction_id"]].append(row)
        return found

    def _is_empty(self) -> bool:
        """Whether the relay has yet to make the tables; it may be doing so while we look."""
        if not self._made:
            shown = masked_url(self._url)
            with store_errors(self._url, "read"), self._engine.connect() as connection:
                version = version_of(connection)
                if version is None and is_foreign(connection):
                    raise StoreError(f"{shown} is a database, but holds no audit store. Name another.")
            if version not in (None, HEAD):
                raise StoreError(
                    f"The audit store {shown} was made by an older release: its tables have version {version}, this "
                    f"release reads {HEAD}. Run `e2i-serving audit upgrade`, or let this release's relay do it."
                )
            self._made = version is not None
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


def _chunks(values: Sequence[str]) -> Iterator[list[str]]:
    wanted = list(dict.fromkeys(values))
    for start in range(0, len(wanted), _CHUNK):
        yield wanted[start : start + _CHUNK]
