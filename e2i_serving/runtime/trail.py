"""The audit trail in Python: ask what was predicted, for whom, by what, and how long it took."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final, Self

import msgspec

from e2i_serving.exceptions import ConfigurationError
from e2i_serving.record import ModelInfo, OutcomeFilter, PredictionFilter, Row
from e2i_serving.redaction import Redactor, redactor_of
from e2i_serving.runtime.accesses import AccessRecorder
from e2i_serving.runtime.catching_up import await_store
from e2i_serving.runtime.payloads import PayloadReader
from e2i_serving.runtime.places import Place, find_data_dir, locate
from e2i_serving.runtime.questions import entity_to_look_up, outcome_filter, prediction_filter, time_ns_of
from e2i_serving.runtime.rows import ITEM_ROWS, LATE_ROWS, OUTCOME_ROWS, PredictionRows
from e2i_serving.settings import Settings
from e2i_serving.stores.conditions import checked
from e2i_serving.typing import AuditQuery

logger = logging.getLogger("e2i_serving.audit")

__all__ = ["AuditTrail", "find_data_dir", "prediction_filter", "time_ns_of"]

_CHUNK: Final = 500
_PERCENTILES: Final = {"p50": 0.50, "p95": 0.95, "p99": 0.99}


class AuditTrail:
    """Reads an audit store. Use it as a context manager, or call ``close``.

    Example:
        ```python
        with AuditTrail.open() as trail:
            for row in trail.query(model="credit", outcome="error", since="1h"):
                print(row["request_id"], row["error_message"])
        ```

    Each look is recorded in the trail itself, unless ``record_accesses`` is off.

    Args:
        source: What to read.
        close: Gives back what ``source`` holds.
        accesses: Records who looked at what; nothing is recorded without.
        redactor: By which the trail was redacted, so that what was hashed can be asked for.
        payloads: Reads what was too large for the store; it is left out without.
        catch_up: Waits for what is on its way to the store, where a prediction is asked for that it does not have.
    """

    def __init__(
        self,
        source: AuditQuery,
        close: Callable[[], None] | None = None,
        *,
        accesses: AccessRecorder | None = None,
        redactor: Redactor | None = None,
        payloads: PayloadReader | None = None,
        catch_up: Callable[[], object] | None = None,
    ) -> None:
        self._source = source
        self._close = close
        self._accesses = accesses
        self._redactor = redactor
        self._payloads = payloads
        self._catch_up = catch_up

    @classmethod
    def open(cls, where: str | Path | None = None) -> Self:
        """Open an audit store for reading.

        Args:
            where: A data directory, an SQLite file, or an SQLAlchemy URL. None: the store that the settings name,
                else that of the only data directory under BentoML's home.

        Raises:
            ConfigurationError: Nothing says which store, or the URL is wrong.
            StoreError: There is no such file.
        """
        return cls.open_as(where, way="python")

    @classmethod
    def open_as(cls, where: str | Path | None, *, way: str, action: str = "") -> Self:
        """Open an audit store for reading, and say how it is looked at.

        Args:
            where: As in ``open``.
            way: How, such as ``cli``.
            action: What the command is that looks, if it is one.

        Raises:
            ConfigurationError: Nothing says which store, or the URL is wrong.
            StoreError: There is no such file.
        """
        return cls.open_place(locate(where), way=way, action=action)

    @classmethod
    def open_place(cls, place: Place, *, way: str, action: str = "") -> Self:
        """Open a store that was found, or is known, with the data directory beside it; as ``open_as`` else.

        Args:
            place: The store.
            way: How it is looked at.
            action: What the command is that looks, if it is one.

        Raises:
            ConfigurationError: The URL is wrong.
            StoreError: There is no such file.
        """
        source = place.source()
        settings = place.settings
        accesses = (
            AccessRecorder(place.data_dir, settings, way=way, action=action, delivers=place.is_reader_s_own)
            if settings.record_accesses
            else None
        )
        return cls(
            source,
            source.close,
            accesses=accesses,
            redactor=_redactor(settings),
            payloads=None if place.is_reader_s_own else PayloadReader(place.data_dir, settings),
            catch_up=None if place.is_reader_s_own else partial(await_store, place.data_dir),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back connections and files."""
        if self._accesses is not None:
            self._accesses.close()
        if self._close is not None:
            self._close()

    def await_recent(self) -> None:
        """Wait until the store has what is journaled now, where a relay runs; some seconds at most."""
        if self._catch_up is not None:
            self._catch_up()

    def query(
        self,
        where: PredictionFilter | None = None,
        *,
        limit: int | None = None,
        newest_first: bool = True,
        items: bool = True,
        outcomes: bool = False,
        **conditions: Any,
    ) -> PredictionRows:
        """Predictions that meet conditions.

        Args:
            where: Conditions; the keyword arguments come on top.
            limit: Most predictions.
            newest_first: By time of arrival, the newest or the oldest first.
            items: Also read each prediction's items, into the row's ``item_rows``.
            outcomes: Also read what turned out to be true of each, into the row's ``outcomes``: every version, the
                first recorded first.
            conditions: Fields of ``PredictionFilter``; ``since`` and ``until`` take what ``time_ns_of`` does.

        Raises:
            QueryError: A condition is unknown or can't be answered.
        """
        asked = checked(prediction_filter(where, **conditions), limit)
        chosen = self._as_stored(asked)
        parts = [self._add_items] * items + [self._add_outcomes] * outcomes

        def fetch() -> Iterator[Row]:
            rows = self._source.predictions(chosen, limit=limit, newest_first=newest_first)
            return self._completed(rows, parts) if parts else rows

        def note(number: int) -> None:
            self._note("query", asked, number, limit=limit)

        return PredictionRows(fetch, note, has_items=items, has_outcomes=outcomes)

    def get(self, prediction_id: str) -> Row | None:
        """One prediction by its prediction id; ``None`` when there is none.

        If the store does not have it, what the relay is about to bring is waited for, some seconds at most.

        Returns:
            Its row, with its items in ``item_rows``, its outcomes in ``outcomes``, and in ``events`` what its thread
            came to after the answer.
        """
        asked = checked(PredictionFilter(prediction_id=prediction_id))
        found = next(iter(self._matches([asked])), None)
        self._note("get", asked, int(found is not None))
        return found

    def find(self, any_id: str) -> list[Row]:
        """Every prediction with this prediction id, request id or trace id, as ``get`` gives it, newest first.

        A trace id may lack its leading zeros, as one of 64 bits does. If the store has none, what the relay is about
        to bring is waited for, some seconds at most.
        """
        request_id = self._redactor.request_id(any_id) if self._redactor is not None else any_id
        filters = (
            PredictionFilter(prediction_id=any_id),
            PredictionFilter(request_id=request_id),
            PredictionFilter(trace_id=any_id.lower().zfill(32)),  # B3 has short ones
        )
        found = self._matches([checked(where) for where in filters])
        self._note("find", PredictionFilter(), len(found), id=request_id)
        return sorted(found, key=lambda row: (row["time_ns"], row["prediction_id"]), reverse=True)

    def count(self, where: PredictionFilter | None = None, **conditions: Any) -> int:
        """How many predictions meet conditions; see ``query``."""
        asked = checked(prediction_filter(where, **conditions))
        number = self._source.count(self._as_stored(asked))
        self._note("count", asked, 0)
        return number

    def latency(
        self, where: PredictionFilter | None = None, **conditions: Any
    ) -> dict[tuple[str, str], dict[str, float]]:
        """Exact latency of the predictions that meet conditions, by (model, version).

        Args:
            where: As in ``query``.
            conditions: As in ``query``.

        Returns:
            For each model and version ``count``, and ``p50``, ``p95`` and ``p99`` in seconds, interpolated linearly
            between neighbouring observations, as NumPy does.
        """
        asked = checked(prediction_filter(where, **conditions))
        durations = self._source.durations(self._as_stored(asked))
        self._note("latency", asked, 0)
        return {
            model: {"count": len(values), **{name: _quantile(values, part) for name, part in _PERCENTILES.items()}}
            for model, values in sorted(durations.items())
        }

    def outcomes(
        self,
        where: OutcomeFilter | None = None,
        *,
        limit: int | None = None,
        prediction_id: str | None = None,
        request_id: str | None = None,
        **conditions: Any,
    ) -> list[Row]:
        """What turned out to be true, the last recorded first.

        Args:
            where: Conditions; the keyword arguments come on top.
            limit: Most outcomes.
            prediction_id: About this prediction.
            request_id: About the predictions with this request id.
            conditions: ``name`` and ``source``; ``since`` and ``until``, which take what ``time_ns_of`` does.

        Raises:
            QueryError: A condition is unknown or can't be answered.
        """
        asked = outcome_filter(where, prediction_id=prediction_id, request_id=request_id, **conditions)
        if asked.request_ids and self._redactor is not None:
            asked = msgspec.structs.replace(asked, request_ids=tuple(map(self._redactor.request_id, asked.request_ids)))
        chosen = asked
        if asked.request_ids:
            of_requests = [row["prediction_id"] for row in self._source.identities([], asked.request_ids)]
            chosen = msgspec.structs.replace(asked, prediction_ids=(*asked.prediction_ids, *of_requests))
        found = list(self._source.outcomes(chosen, limit=limit))
        self._note("outcomes", asked, len({row["prediction_id"] or row["request_id"] for row in found}), limit=limit)
        return found

    def accesses(
        self, since: str | datetime | None = None, until: str | datetime | None = None, *, limit: int | None = None
    ) -> list[Row]:
        """Who looked at the trail, the latest first. Looking at this list is not recorded.

        Args:
            since: At or after; what ``time_ns_of`` takes.
            until: Before; likewise.
            limit: Most accesses.

        Raises:
            QueryError: A time is none.
        """
        first = time_ns_of(since) if since is not None else None
        end = time_ns_of(until) if until is not None else None
        return list(self._source.accesses(since_ns=first, until_ns=end, limit=limit))

    def _matches(self, filters: Sequence[PredictionFilter]) -> list[Row]:
        """What meets any of the filters, in full; what is on its way to the store is waited for if nothing does."""

        def look() -> list[Row]:
            return list({row["prediction_id"]: row for where in filters for row in self._in_full(where)}.values())

        found = look()
        if not found and self._catch_up is not None:
            self.await_recent()
            found = look()
        return found

    def _in_full(self, where: PredictionFilter) -> Iterator[Row]:
        parts = [self._add_items, self._add_late_results, self._add_outcomes]
        return self._completed(self._source.predictions(where), parts)

    def _completed(self, rows: Iterator[Row], parts: Sequence[Callable[[list[Row]], None]]) -> Iterator[Row]:
        while chunk := list(islice(rows, _CHUNK)):
            for add in parts:
                add(chunk)
            yield from chunk

    def _add_items(self, rows: list[Row]) -> None:
        items = self._source.items([row["prediction_id"] for row in rows])
        for row in rows:
            row[ITEM_ROWS] = items[row["prediction_id"]]
            if self._payloads is not None:
                self._payloads.complete(row, row[ITEM_ROWS])

    def _add_late_results(self, rows: list[Row]) -> None:
        events = self._source.late_results([row["prediction_id"] for row in rows])
        for row in rows:
            row[LATE_ROWS] = events[row["prediction_id"]]

    def _add_outcomes(self, rows: list[Row]) -> None:
        where = OutcomeFilter(
            prediction_ids=tuple(row["prediction_id"] for row in rows),
            request_ids=tuple({row["request_id"] for row in rows if row["request_id"]}),
        )
        by_prediction: dict[str, list[Row]] = {}
        by_request: dict[str, list[Row]] = {}
        for outcome in reversed(list(self._source.outcomes(where))):
            if outcome["prediction_id"]:
                by_prediction.setdefault(outcome["prediction_id"], []).append(outcome)
            else:
                by_request.setdefault(outcome["request_id"], []).append(outcome)
        for row in rows:
            found = by_prediction.get(row["prediction_id"], []) + by_request.get(row["request_id"], [])
            row[OUTCOME_ROWS] = sorted(found, key=lambda outcome: (outcome["time_ns"], outcome["sequence"]))

    def _as_stored(self, where: PredictionFilter) -> PredictionFilter:
        """The filter in the words of the trail, where an entity or a request id may be hashed."""
        if self._redactor is None:
            return where
        changes: dict[str, str] = {}
        if where.entity is not None:
            changes["entity"] = entity_to_look_up(self._redactor, where.entity)
        if where.request_id is not None:
            changes["request_id"] = self._redactor.request_id(where.request_id)
        return msgspec.structs.replace(where, **changes)

    def _note(self, action: str, where: PredictionFilter | OutcomeFilter, number: int, **more: Any) -> None:
        if self._accesses is not None:
            asked = {name: value for name, value in more.items() if value is not None}
            self._accesses.note(action, {**msgspec.to_builtins(where), **asked}, number)


def _quantile(ordered: Sequence[float], part: float) -> float:
    place = part * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def _redactor(settings: Settings) -> Redactor | None:
    try:
        return redactor_of(settings, ModelInfo())
    except ConfigurationError as error:
        # Whoever only reads need not have the key.
        logger.warning("What was hashed before it was recorded can't be asked for in clear: %s", error)
        return None
