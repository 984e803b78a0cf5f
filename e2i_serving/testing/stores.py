"""An audit store in memory, for tests of what writes to one or reads from one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec

from e2i_serving.record import Outcome, PredictionFilter, Row, RowBatch
from e2i_serving.stores.conditions import checked, entity_parts

_JSON_COLUMNS: Final = (
    *("phases", "labels", "attributes", "redactions"),
    *("entity", "inputs", "outputs", "prediction"),
)


class InMemoryAuditStore:
    """An ``AuditStore`` and an ``AuditQuery`` that keep their rows in this object.

    It passes the same contract tests as the stores on databases. For one thread.
    """

    def __init__(self) -> None:
        self._predictions: dict[str, Row] = {}
        self._items: dict[str, dict[int, Row]] = {}
        self._entities: set[tuple[str, str, str]] = set()

    def write(self, batch: RowBatch) -> int:
        """Store a batch; see ``AuditStore.write``."""
        before = len(self._predictions)
        for row in batch.predictions:
            self._predictions.setdefault(row["prediction_id"], _read_back(row))
        for row in batch.items:
            self._items.setdefault(row["prediction_id"], {}).setdefault(row["item_index"], _read_back(row))
        self._entities.update((row["prediction_id"], row["name"], row["value"]) for row in batch.entities)
        for end in batch.stream_ends:
            prediction = self._predictions.get(end["prediction_id"])
            if prediction is not None and prediction["outcome"] == Outcome.INTERRUPTED:
                prediction.update({name: value for name, value in end.items() if value is not None})
        return len(self._predictions) - before

    def predictions(
        self, where: PredictionFilter, *, limit: int | None = None, newest_first: bool = True
    ) -> Iterator[Row]:
        """Predictions that meet a filter; see ``AuditQuery.predictions``."""
        found = sorted(
            self._matching(checked(where, limit)),
            key=lambda row: (row["time_ns"], row["prediction_id"]),
            reverse=newest_first,
        )
        return iter([dict(row) for row in found[:limit]])

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

    def close(self) -> None:
        """Keep everything: a closed store can still be looked at."""

    def _matching(self, where: PredictionFilter) -> list[Row]:
        equal = {
            name: value
            for name, value in msgspec.structs.asdict(where).items()
            if value is not None and name not in ("labels", "entity", "since_ns", "until_ns")
        }
        return [
            row
            for row in self._predictions.values()
            if all(row[name] == value for name, value in equal.items())
            and all((row["labels"] or {}).get(name) == value for name, value in where.labels.items())
            and (where.since_ns is None or row["time_ns"] >= where.since_ns)
            and (where.until_ns is None or row["time_ns"] < where.until_ns)
            and (where.entity is None or self._has_entity(row["prediction_id"], where.entity))
        ]

    def _has_entity(self, prediction_id: str, entity: str) -> bool:
        parts = entity_parts(entity)
        return any(
            of == prediction_id and (value == entity or (name, value) == parts) for of, name, value in self._entities
        )


def _read_back(row: Row) -> Row:
    return {
        name: msgspec.json.decode(value) if name in _JSON_COLUMNS and value is not None else value
        for name, value in row.items()
    }
