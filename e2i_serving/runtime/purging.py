"""Purges what is older than it is to be kept, and leaves a signed gap in its place."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import uuid_utils

from e2i_serving.evidence.commitments import Place, gaps_digest
from e2i_serving.evidence.entities import entity_keys
from e2i_serving.evidence.history import REMOVAL
from e2i_serving.evidence.log import EvidenceLog, Removal
from e2i_serving.evidence.verification import DEAD_LETTERED, PURGED
from e2i_serving.exceptions import ConfigurationError
from e2i_serving.runtime import traces
from e2i_serving.runtime.accesses import user_name
from e2i_serving.runtime.holds import condition_of
from e2i_serving.settings import Settings
from e2i_serving.stores.maintenance import SqlMaintenance, StoreChange

BATCH: Final = 2000
"""Most predictions a transaction."""

ACCESSES: Final = "accesses"
"""The class of those who looked at the trail."""

_AGE: Final = re.compile(r"(\d{1,6})\s*([smhdwy])")
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}


@dataclass(slots=True)
class Purge:
    """What was purged, or would be.

    Attributes:
        rows: How many rows of each table.
        held: How many predictions were left because of a hold.
        payload_files: How many payload files were removed.
        purge_ids: The ids of the signed entries.
    """

    rows: Counter[str] = field(default_factory=Counter)
    held: int = 0
    payload_files: int = 0
    purge_ids: list[str] = field(default_factory=list)


class _Condition(NamedTuple):
    """SQL on ``predictions`` with ``?``, and what stands for these."""

    where: str
    parameters: tuple[Any, ...]


class _Row(NamedTuple):
    """A row of a chain that goes."""

    life: str
    sequence: int
    hash: str | None
    is_prediction: bool


def age_seconds(text: str) -> int:
    """An age such as ``400d`` in seconds.

    Raises:
        ConfigurationError: It is none.
    """
    matched = _AGE.fullmatch(text.strip())
    if matched is None:
        raise ConfigurationError(f"{text!r} is no age: write a number and s, m, h, d, w or y, such as 400d.")
    return int(matched[1]) * _SECONDS[matched[2]]


def cutoffs(settings: Settings, older_than: str | None, retention_class: str | None) -> dict[str | None, int]:
    """Until when what is purged, by class; ``None`` for every class.

    Args:
        settings: Their ``retention`` says it where no age is given.
        older_than: An age for all, or for the class.
        retention_class: Only this class.

    Raises:
        ConfigurationError: An age is none, or nothing says how long to keep the class.
    """
    now = time.time_ns()
    if older_than is not None:
        return {retention_class: now - age_seconds(older_than) * 10**9}
    kept = settings.retention
    if retention_class is not None:
        if retention_class not in kept:
            raise ConfigurationError(
                f"Nothing says how long the class {retention_class!r} is kept: give --older-than, or set retention."
            )
        kept = {retention_class: kept[retention_class]}
    if not kept:
        raise ConfigurationError("Nothing says how long anything is kept: give --older-than, or set retention.")
    return {name: now - age_seconds(age) * 10**9 for name, age in kept.items()}


def purge(
    settings: Settings,
    data_dir: Path,
    store: SqlMaintenance,
    log: EvidenceLog | None,
    until: Mapping[str | None, int],
    *,
    progress: Callable[[int], None] | None = None,
) -> Purge:
    """Purge a store, some predictions a transaction.

    Args:
        settings: The settings; their retention class is that of rows that name none.
        data_dir: Whose payload files go, as far as no row refers to them.
        store: The store.
        log: Where each transaction is signed before it is committed; ``None`` to count only.
        until: As ``cutoffs`` gives it.
        progress: Told how many more predictions were purged, after each transaction.

    Raises:
        StoreError: The store refused; what was purged before stays so.
        EvidenceError: The signed entry can't be written.
    """
    done = Purge()
    work = _Purging(done, data_dir, log, progress)
    for name, before_ns in until.items():
        if name != ACCESSES:
            expired = _expired(name, before_ns, settings.retention_class)
            work.predictions(store, expired, _described(name, before_ns))
        if name in (None, ACCESSES):
            work.others(store, before_ns, _described(ACCESSES, before_ns))
    if log is not None:
        with store.transaction() as change:
            done.payload_files = traces.remove_files(traces.unreferred_payloads(data_dir, change))
    return done


class _Purging:
    """Purges batch after batch."""

    def __init__(
        self, done: Purge, data_dir: Path, log: EvidenceLog | None, progress: Callable[[int], None] | None
    ) -> None:
        self._done = done
        self._data_dir = data_dir
        self._log = log
        self._progress = progress
        self._gone: list[_Condition] = []
        """Predictions that are there and count as purged, where nothing is but counted."""

    def predictions(self, store: SqlMaintenance, condition: _Condition, what: str) -> None:
        """Purge predictions that meet a condition, with all that is about them, unless a hold covers them."""
        if self._log is None:
            self._count_predictions(store, condition)
            return
        while self._batch(store, condition, what):
            pass

    def _count_predictions(self, store: SqlMaintenance, condition: _Condition) -> None:
        # Counted, not tried and taken back: that would be one transaction of any size, and a relay would wait for it.
        with store.transaction() as change:
            held, free = _apart(change, condition)
            self._done.held += _count(change, held)
            self._done.rows["predictions"] += _count(change, free)
        chosen = f"prediction_id IN (SELECT prediction_id FROM predictions WHERE {free.where})"  # noqa: S608  # built here
        for table in ("items", "entities", "events", "outcomes"):
            with store.transaction() as change:
                statement = f"SELECT count(*) FROM {table} WHERE {chosen}"  # noqa: S608  # built here
                self._done.rows[table] += change.all(statement, free.parameters)[0][0]
        self._gone.append(_Condition(chosen, free.parameters))

    def _batch(self, store: SqlMaintenance, condition: _Condition, what: str) -> bool:
        with store.transaction() as change:
            held, free = _apart(change, condition)  # anew each time: a hold may be set while a purge runs
            found = change.all(
                "SELECT prediction_id, life, sequence, hash, payload_digest FROM predictions "  # noqa: S608  # built here
                f"WHERE {free.where} ORDER BY time_ns, prediction_id LIMIT {BATCH}",
                free.parameters,
            )
            is_last = len(found) < BATCH
            if is_last:
                self._done.held += _count(change, held)
            ids = [row[0] for row in found]
            rows = [_Row(life, sequence, link, is_prediction=True) for _, life, sequence, link, _ in found]
            counts = Counter({"predictions": len(ids)})
            if not ids:
                return False
            for table in ("events", "outcomes"):
                about = change.rows(table, ("life", "sequence", "hash"), "prediction_id", ids)
                rows += [_Row(life, sequence, link, is_prediction=False) for life, sequence, link in about]
                # By their places: a relay may add one of these predictions' meanwhile, which no gap would stand for.
                counts[table] = change.delete_places(table, [(life, sequence) for life, sequence, _ in about])
            named = change.rows("items", ("entity", "prediction_id", "item_index"), "prediction_id", ids)
            counts["entities"] = change.delete_entities([key for row in named for key in entity_keys(*row)])
            for table in ("items", "predictions"):
                counts[table] = change.delete(table, "prediction_id", ids)
            traces.settle_payloads(self._data_dir, [row[4] for row in found if row[4] is not None])
            self._sign(change, rows, counts, what)
        self._done.rows.update(counts)
        if self._progress is not None:
            self._progress(len(found))
        return not is_last

    def others(self, store: SqlMaintenance, before_ns: int, what: str) -> None:
        """Purge accesses, and outcomes of predictions that are not there, by their own age."""
        # What names a prediction that counts as purged was counted with it; what names its request was not.
        stays = "".join(f" AND NOT p.{each.where}" for each in self._gone)
        orphans = (
            "NOT EXISTS (SELECT 1 FROM predictions p WHERE p.prediction_id = outcomes.prediction_id) AND NOT EXISTS "  # noqa: S608  # built here
            "(SELECT 1 FROM predictions p WHERE outcomes.prediction_id IS NULL AND p.request_id = outcomes.request_id"
            f"{stays})"
        )
        for table, where in (("accesses", "1 = 1"), ("outcomes", orphans)):
            found = f"FROM {table} WHERE time_ns < ? AND {where}"
            if self._log is None:
                more = [value for each in self._gone for value in each.parameters] if table == "outcomes" else []
                with store.transaction() as change:
                    self._done.rows[table] += change.all(f"SELECT count(*) {found}", (before_ns, *more))[0][0]
                continue
            full = True
            while full:
                with store.transaction() as change:
                    chosen = change.all(
                        f"SELECT life, sequence, hash {found} ORDER BY time_ns LIMIT {BATCH}",
                        (before_ns,),
                    )
                    full = len(chosen) == BATCH
                    rows = [_Row(life, sequence, link, is_prediction=False) for life, sequence, link in chosen]
                    counts = Counter({table: change.delete_places(table, [row[:2] for row in rows])})
                    if rows:
                        self._sign(change, rows, counts, what)
                self._done.rows.update(counts)

    def _sign(self, change: StoreChange, rows: Iterable[_Row], counts: Counter[str], what: str) -> None:
        """Leave gaps in the place of rows, and sign for them."""
        if self._log is None:
            return
        purge_id = str(uuid_utils.uuid7())
        kept = set(change.all(f"SELECT life, last FROM gaps WHERE reason = '{DEAD_LETTERED}'"))  # noqa: S608  # a constant
        gaps = list(_gaps(row for row in rows if (row.life, row.sequence) not in kept))
        places = list(_places(change, gaps))
        for gap in gaps:
            change.insert("gaps", {**gap, "reason": PURGED, "removal": purge_id})
        removal = Removal(
            id=purge_id, action="purge", what=what, rows=dict(+counts), gaps=gaps_digest(places) if places else ""
        )
        # Before the commit: an entry without the deletion harms nobody, a deletion without the entry does.
        self._log.append(REMOVAL, by=user_name(), removal=removal)
        self._done.purge_ids.append(purge_id)


def _gaps(rows: Iterable[_Row]) -> Iterator[dict[str, Any]]:
    """A gap for each run of rows that follow each other; rows without a link have gaps of their own."""
    gap: dict[str, Any] | None = None
    for row in sorted(rows, key=lambda row: row[:2]):
        follows = (
            gap is not None
            and (gap["life"], gap["last"] + 1) == (row.life, row.sequence)
            and (gap["hash"] is None) == (row.hash is None)
        )
        if gap is None or not follows:
            if gap is not None:
                yield gap
            gap = {"life": row.life, "first": row.sequence, "records": 0}
        gap["last"], gap["hash"] = row.sequence, row.hash
        gap["records"] += row.is_prediction
    if gap is not None:
        yield gap


def _places(change: StoreChange, gaps: Sequence[dict[str, Any]]) -> Iterator[Place]:
    """What is signed of gaps: without the link before, a chain could be made anew up to them, or its links taken."""
    linked = [gap for gap in gaps if gap["hash"] is not None]
    by_life: dict[str, list[int]] = {}
    for gap in linked:
        if gap["first"] > 1:  # else there is none: of lives of one outcome each, most of the statements
            by_life.setdefault(gap["life"], []).append(gap["first"] - 1)
    links = {life: change.links(life, numbers) for life, numbers in by_life.items()}
    for gap in linked:
        life, first = gap["life"], gap["first"]
        yield Place(life, first, gap["last"], gap["records"], links.get(life, {}).get(first - 1, ""), gap["hash"])


def _expired(name: str | None, before_ns: int, default: str) -> _Condition:
    if name is None:
        return _Condition("time_ns < ?", (before_ns,))
    return _Condition("time_ns < ? AND coalesce(retention, ?) = ?", (before_ns, default, name))


def _count(change: StoreChange, condition: _Condition) -> int:
    statement = f"SELECT count(*) FROM predictions WHERE {condition.where}"  # noqa: S608  # built here
    number: int = change.all(statement, condition.parameters)[0][0]
    return number


def _apart(change: StoreChange, condition: _Condition) -> tuple[_Condition, _Condition]:
    """Of predictions that meet a condition, those that holds in force cover, and the others."""
    parts: list[str] = []
    parameters: list[Any] = []
    for hold in change.holds(released=False):
        where, more = condition_of(hold)
        parts.append(where)
        parameters += more
    held, both = f"({' OR '.join(parts) or '1 = 0'})", (*condition.parameters, *parameters)
    return _Condition(f"{condition.where} AND {held}", both), _Condition(f"{condition.where} AND NOT {held}", both)


def _described(name: str | None, before_ns: int) -> str:
    moment = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(before_ns // 10**9))
    return f"{'every class' if name is None else f'class {name}'}, before {moment}"
