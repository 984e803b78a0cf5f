"""Legal holds: what they cover is neither erased nor purged. Each one, and its release, is a signed entry too."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Any, Final

import msgspec
import uuid_utils

from e2i_serving.evidence.commitments import pack
from e2i_serving.evidence.entities import LONGEST_KEY
from e2i_serving.evidence.history import HOLD
from e2i_serving.evidence.log import EvidenceLog, HoldNote
from e2i_serving.evidence.report import Problem
from e2i_serving.exceptions import QueryError
from e2i_serving.record import PredictionFilter
from e2i_serving.runtime.accesses import user_name
from e2i_serving.runtime.traces import RefusedRecord, items_about
from e2i_serving.stores.chains import SqlChains
from e2i_serving.stores.conditions import checked, entity_parts
from e2i_serving.stores.maintenance import Hold, SqlMaintenance, StoreChange

_COVERS: Final = ("entity", "model", "since_ns", "until_ns")


def add_hold(
    store: SqlMaintenance,
    log: EvidenceLog,
    *,
    reason: str,
    entity: str | None = None,
    model: str | None = None,
    since_ns: int | None = None,
    until_ns: int | None = None,
) -> Hold:
    """Set a hold. It covers what meets all of its conditions.

    Args:
        store: The store.
        log: Where it is signed.
        reason: Why.
        entity: An entity, as ``name=value``.
        model: A model's name.
        since_ns: Predictions at or after, nanoseconds since the epoch.
        until_ns: Predictions before, likewise.

    Raises:
        QueryError: It has no condition, one that can't be put to a store, or the entity is not ``name=value``.
        StoreError: The store refused; nothing is signed then.
    """
    if entity is None and model is None and since_ns is None and until_ns is None:
        raise QueryError("A hold on everything is none: give an entity, a model or a time.")
    if entity is not None and entity_parts(entity) is None:
        raise QueryError(f"{entity!r} is no entity: write name=value.")
    checked(PredictionFilter(entity=entity, model=model, since_ns=since_ns, until_ns=until_ns))
    hold = Hold(
        hold_id=str(uuid_utils.uuid7()),
        time_ns=time.time_ns(),
        entity=entity,
        model=model,
        reason=reason,
        principal=user_name(),
        since_ns=since_ns,
        until_ns=until_ns,
    )
    with store.transaction() as change:
        note = HoldNote(id=hold.hold_id, action="hold", digest=_digest(hold))
        change.insert("holds", msgspec.structs.asdict(hold))
        # Last before the commit: a signed hold without its row would be an alarm for good.
        log.append(HOLD, by=user_name(), hold=note)
    return hold


def release_hold(store: SqlMaintenance, log: EvidenceLog, hold_id: str) -> Hold:
    """Release a hold.

    Raises:
        QueryError: There is no such hold, or it was released before.
    """
    with store.transaction() as change:
        hold = next((hold for hold in change.holds() if hold.hold_id == hold_id), None)
        if hold is None:
            raise QueryError(f"There is no hold {hold_id}. `e2i-serving audit hold list` lists them.")
        if hold.released_ns is not None:
            raise QueryError(f"Hold {hold_id} was released before, by {hold.released_by}.")
        released = {"released_ns": time.time_ns(), "released_by": user_name()}
        change.update("holds", {"hold_id": hold_id}, released)
        log.append(HOLD, by=user_name(), hold=HoldNote(id=hold_id, action="release", digest=_digest(hold)))
    return msgspec.structs.replace(hold, **released)


def holds_on(
    change: StoreChange, prediction_ids: Sequence[str], name: str, value: str, refused: Sequence[RefusedRecord] = ()
) -> list[Hold]:
    """The holds in force that keep a subject from being erased.

    Args:
        change: A transaction.
        prediction_ids: The predictions that are about the subject.
        name: The entity's name.
        value: Its value.
        refused: Predictions about the subject that the store does not have.
    """
    found = []
    for hold in change.holds(released=False):
        is_subject = hold.entity == f"{name}={value}"
        where, parameters = condition_of(hold)
        is_refused = any(_covers(hold, each) for each in refused)
        if is_subject or is_refused or _any(change, prediction_ids, where, parameters):
            found.append(hold)
    return found


def condition_of(hold: Hold) -> tuple[str, list[Any]]:
    """What a hold covers, as SQL on ``predictions`` with ``?``."""
    parts: list[str] = []
    parameters: list[Any] = []
    if hold.entity is not None:
        items, more = items_named(*(entity_parts(hold.entity) or ("", hold.entity)))
        parts.append(f"prediction_id IN (SELECT prediction_id FROM {items})")  # noqa: S608  # built here
        parameters += more
    if hold.model is not None:
        parts.append("coalesce(model, '') = ?")
        parameters.append(hold.model)
    if hold.since_ns is not None:
        parts.append("time_ns >= ?")
        parameters.append(hold.since_ns)
    if hold.until_ns is not None:
        parts.append("time_ns < ?")
        parameters.append(hold.until_ns)
    return f"({' AND '.join(parts) or '1 = 1'})", parameters


def is_indexed(name: str, value: str) -> bool:
    """Whether an entity has rows in ``entities``, or is too long for that."""
    return len(name) <= LONGEST_KEY and len(value) <= LONGEST_KEY


def items_named(name: str, value: str) -> tuple[str, list[str]]:
    """The items that an entity names, as a table and its condition in SQL with ``?``.

    One that is not indexed is looked for in every item, and is found too in those that hold it inside another value.
    """
    if is_indexed(name, value):
        return "entities WHERE name = ? AND value = ?", [name, value]
    member = msgspec.json.encode({name: value})[1:-1].decode()
    plain = f"{msgspec.json.encode(name).decode()}:{value}"  # of a value that is no text
    text = "CAST(entity AS TEXT)"
    return f"items WHERE replace(replace({text}, ?, ''), ?, '') <> {text}", [member, plain]


def covered(store: SqlMaintenance, hold: Hold) -> int:
    """How many predictions in a store a hold covers."""
    where, parameters = condition_of(hold)
    with store.transaction() as change:
        number: int = change.all(f"SELECT count(*) FROM predictions WHERE {where}", parameters)[0][0]  # noqa: S608  # built here
    return number


def verify_holds(rows: Iterable[Mapping[str, Any]], notes: Mapping[str, Sequence[HoldNote]]) -> list[Problem]:
    """Compare the holds in a store with what was signed of them.

    Args:
        rows: The rows of ``holds``.
        notes: What the log says of each, in order.
    """
    problems: list[Problem] = []
    there = {row["hold_id"]: row for row in rows}
    for hold_id, said in notes.items():
        row = there.get(hold_id)
        is_released = any(note.action == "release" for note in said)
        if row is None:
            problems.append(Problem(f"Hold {hold_id} is gone: its row stays, released or not."))
        elif (row["released_ns"] is not None) != is_released:
            problems.append(Problem(f"Hold {hold_id} was altered: its release is not what was signed."))
        elif said[0].digest != _digest(Hold(**row)) and not (is_released and _is_erased(row)):
            problems.append(Problem(f"Hold {hold_id} was altered."))
    problems += [Problem(f"Hold {hold_id} is in no signed entry.") for hold_id in there.keys() - notes.keys()]
    return problems


def _is_erased(row: Mapping[str, Any]) -> bool:
    """Whether an erasure took out whom a hold was about; it does so with released ones."""
    return row["entity"] is None and row["reason"] is None


def verify_stored_holds(url: str, notes: Mapping[str, Sequence[HoldNote]]) -> list[Problem]:
    """Compare the holds in a store with what was signed of them; see ``verify_holds``.

    Raises:
        StoreError: The store can't be read.
    """
    with SqlChains(url) as source:
        return verify_holds(source.holds(), notes)


def _digest(hold: Hold) -> str:
    """The id in it is all the salt there is; who reads the log can test a guess of whom a hold is about."""
    return sha256(pack([hold.hold_id, hold.reason, *(getattr(hold, name) for name in _COVERS)])).hexdigest()


def _covers(hold: Hold, refused: RefusedRecord) -> bool:
    record, model = refused
    parts = entity_parts(hold.entity) if hold.entity is not None else None
    return (
        (parts is None or bool(items_about(record, *parts)))
        and hold.model in (None, model)
        and (hold.since_ns is None or record.time_ns >= hold.since_ns)
        and (hold.until_ns is None or record.time_ns < hold.until_ns)
    )


def _any(change: StoreChange, prediction_ids: Sequence[str], where: str, parameters: Sequence[Any]) -> bool:
    wanted = set(prediction_ids)
    if not wanted:
        return False
    rows = change.all(f"SELECT prediction_id FROM predictions WHERE {where}", parameters)  # noqa: S608  # built above
    return any(row[0] in wanted for row in rows)
