"""An audit store in memory, for tests of what writes to one or reads from one."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import msgspec

from e2i_serving.record import ChainEnd, OutcomeFilter, PredictionFilter, Row, RowBatch
from e2i_serving.stores.conditions import checked, checked_outcomes, checked_range, entity_parts

_JSON_COLUMNS: Final = (
    *("phases", "labels", "attributes", "redactions", "erased"),
    *("entity", "inputs", "outputs", "prediction", "value", "conditions"),
)


class InMemoryAuditStore:
    """An ``AuditStore`` and an ``AuditQuery`` that keep their rows in this object.

    It passes the same contract tests as the stores on databases. For one thread.
    """

    def __init__(self) -> None:
        self._predictions: dict[str, Row] = {}
        self._items: dict[str, dict[int, Row]] = {}
        self._entities: set[tuple[str, str, str]] = set()
        self._events: dict[tuple[str, int], Row] = {}
        self._outcomes: dict[tuple[str, int], Row] = {}
        self._accesses: dict[str, Row] = {}
        self._gaps: dict[tuple[str, int], Row] = {}

    def write(self, batch: RowBatch) -> int:
        """Store a batch; see ``AuditStore.write``."""
        before = len(self._predictions)
        for row in batch.predictions:
            self._predictions.setdefault(row["prediction_id"], _read_back(row))
        for row in batch.items:
            self._items.setdefault(row["prediction_id"], {}).setdefault(row["item_index"], _read_back(row))
        self._entities.update((row["prediction_id"], row["name"], row["value"]) for row in batch.entities)
        for row in batch.events:
            self._events.setdefault((row["life"], row["sequence"]), _read_back(row))
        for row in batch.outcomes:
            self._outcomes.setdefault((row["life"], row["sequence"]), _read_back(row))
        for row in batch.accesses:
            self._accesses.setdefault(row["access_id"], _read_back(row))
        for row in batch.gaps:
            self._gaps.setdefault((row["life"], row["last"]), dict(row))
        return len(self._predictions) - before

    def chain_end(self, life: str, *, since: int, until: int) -> ChainEnd | None:
        """The last row of a life that has a hash; see ``AuditStore.chain_end``."""
        rows = (*self._predictions.values(), *self._events.values(), *self._outcomes.values(), *self._accesses.values())
        found = [ChainEnd(row["sequence"], row["hash"]) for row in rows if row["life"] == life and row["hash"]]
        found += [
            ChainEnd(row["last"], row["hash"], row["reason"], row["digest"] or "")
            for row in self._gaps.values()
            if row["life"] == life and row["hash"]
        ]
        return max((end for end in found if since <= end.sequence <= until), default=None)

    def predictions(
        self, where: PredictionFilter, *, limit: int | None = None, newest_first: bool = True
    ) -> Iterator[Row]:
        """Predictions that meet a filter; see ``AuditQuery.predictions``."""
        found = sorted(
            self._matching(checked(where, limit)),
            key=lambda row: (row["time_ns"], row["prediction_id"]),
            reverse=newest_first,
        )
        return iter(found[:limit])

    def items(self, prediction_ids: Sequence[str]) -> dict[str, list[Row]]:
        """The items of predictions; see ``AuditQuery.items``."""
        found: dict[str, list[Row]] = {}
        for prediction_id in prediction_ids:
            rows = self._items.get(prediction_id, {})
            found[prediction_id] = [dict(rows[index]) for index in sorted(rows)]
        return found

    def count(self, where: PredictionFilter) -> int:
        """How many predictions meet a filter."""
        return len(self._matching(checked(where)))

    def durations(self, where: PredictionFilter) -> dict[tuple[str, str], list[float]]:
        """Durations in seconds by (model, version), sorted; see ``AuditQuery.durations``."""
        found: dict[tuple[str, str], list[float]] = {}
        for row in sorted(self._matching(checked(where)), key=lambda row: float(row["duration"])):
            found.setdefault((row["model"] or "", row["model_version"] or ""), []).append(row["duration"])
        return found

    def late_results(self, prediction_ids: Sequence[str]) -> dict[str, list[Row]]:
        """What threads came to after the answer; see ``AuditQuery.late_results``."""
        found: dict[str, list[Row]] = {prediction_id: [] for prediction_id in prediction_ids}
        for _, row in sorted(self._events.items()):
            if row["kind"] == "late" and row["prediction_id"] in found:
                found[row["prediction_id"]].append(dict(row))
        return found

    def outcomes(self, where: OutcomeFilter, *, limit: int | None = None) -> Iterator[Row]:
        """Outcomes that meet a filter; see ``AuditQuery.outcomes``."""
        checked_outcomes(where, limit)
        first: dict[str, Row] = {}
        for row in sorted(self._outcomes.values(), key=_recorded):
            first.setdefault(row["outcome_id"], row)
        found = sorted(filter(_meets(where), first.values()), key=_recorded, reverse=True)
        return iter([dict(row) for row in found[:limit]])

    def accesses(
        self, *, since_ns: int | None = None, until_ns: int | None = None, limit: int | None = None
    ) -> Iterator[Row]:
        """Who looked at the trail; see ``AuditQuery.accesses``."""
        checked_range(since_ns, until_ns, limit)
        found = [row for row in self._accesses.values() if _is_within(row, since_ns, until_ns)]
        found.sort(key=lambda row: (row["time_ns"], row["access_id"]), reverse=True)
        return iter([dict(row) for row in found[:limit]])

    def identities(self, prediction_ids: Sequence[str], request_ids: Sequence[str]) -> list[Row]:
        """The predictions with one of these ids; see ``AuditQuery.identities``."""
        return [
            {name: row[name] for name in ("prediction_id", "request_id", "items", "service")}
            for row in self._predictions.values()
            if row["prediction_id"] in prediction_ids or row["request_id"] in request_ids
        ]

    def close(self) -> None:
        """Keep everything: a closed store can still be looked at."""

    def _matching(self, where: PredictionFilter) -> list[Row]:
        equal = {
            name: value
            for name, value in msgspec.structs.asdict(where).items()
            if value is not None and name not in ("labels", "entity", "since_ns", "until_ns")
        }
        ends: dict[str, Row] = {}
        for _, event in sorted(self._events.items()):
            if event["kind"] == "end":
                ends.setdefault(event["prediction_id"], event)
        return [
            row
            for row in (_with_end(row, ends.get(row["prediction_id"], {})) for row in self._predictions.values())
            if all(row[name] == value for name, value in equal.items())
            and all((row["labels"] or {}).get(name) == value for name, value in where.labels.items())
            and _is_within(row, where.since_ns, where.until_ns)
            and (where.entity is None or self._has_entity(row["prediction_id"], where.entity))
        ]

    def _has_entity(self, prediction_id: str, entity: str) -> bool:
        parts = entity_parts(entity)
        return any(
            of == prediction_id and (value == entity or (name, value) == parts) for of, name, value in self._entities
        )


def _with_end(row: Row, end: Row) -> Row:
    names = ("duration", "outcome", "status", "response_bytes", "error_type", "error_message")
    return {**row, **{name: end[name] for name in names if end.get(name) is not None}}


def _meets(where: OutcomeFilter) -> Callable[[Row], bool]:
    def meets(row: Row) -> bool:
        is_about = row["prediction_id"] in where.prediction_ids or (
            row["prediction_id"] is None and row["request_id"] in where.request_ids
        )
        return (
            (is_about or not (where.prediction_ids or where.request_ids))
            and (not where.outcome_ids or row["outcome_id"] in where.outcome_ids)
            and where.name in (None, row["name"])
            and where.source in (None, row["source"])
            and _is_within(row, where.since_ns, where.until_ns)
        )

    return meets


def _is_within(row: Row, since_ns: int | None, until_ns: int | None) -> bool:
    return (since_ns is None or row["time_ns"] >= since_ns) and (until_ns is None or row["time_ns"] < until_ns)


def _recorded(row: Row) -> tuple[Any, ...]:
    return row["time_ns"], row["life"], row["sequence"]


def _read_back(row: Row) -> Row:
    return {
        name: msgspec.json.decode(value) if name in _JSON_COLUMNS and value is not None else value
        for name, value in row.items()
    }
