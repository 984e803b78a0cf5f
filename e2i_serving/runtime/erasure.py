"""Erases one subject from a trail, so that what is left can still be verified."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import msgspec
import uuid_utils

from e2i_serving.encryption import cipher_of
from e2i_serving.evidence.digests import ACCESS_ROWS, EVENT_ROWS, ITEM_ROWS, OUTCOME_ROWS, PREDICTION_ROWS, RowReader
from e2i_serving.evidence.entities import entity_keys
from e2i_serving.evidence.history import REMOVAL
from e2i_serving.evidence.log import Removal
from e2i_serving.evidence.opening import open_log
from e2i_serving.exceptions import QueryError, StoreError
from e2i_serving.relay import Ledger
from e2i_serving.relay.audit_destination import AUDIT_STORE
from e2i_serving.runtime import traces
from e2i_serving.runtime.accesses import user_name
from e2i_serving.runtime.catching_up import catch_up
from e2i_serving.runtime.holds import holds_on, is_indexed, items_named
from e2i_serving.settings import Settings
from e2i_serving.stores.conditions import entity_parts
from e2i_serving.stores.maintenance import Hold, SqlMaintenance, StoreChange
from e2i_serving.typing import Cipher

DELIVERY_SECONDS: Final = 60.0
"""How long an erasure waits for what was recorded before it to be delivered."""

_PREDICTION: Final = {name: place for place, name in enumerate(PREDICTION_ROWS.columns)}
_ITEM: Final = {name: place for place, name in enumerate(ITEM_ROWS.columns)}
_OUTCOME: Final = {name: place for place, name in enumerate(OUTCOME_ROWS.columns)}


@dataclass(slots=True)
class Erasure:
    """What was erased, or would be.

    Attributes:
        erasure_id: Its id, which rows and the signed entry name.
        held_by: The holds because of which nothing was erased.
        rows: How many rows of each table something was erased from.
        frames: How many delivered frames were overwritten in journal segments.
        dead_letters: How many dead letters were emptied.
        payload_files: How many payload files were removed.
        elsewhere: Destinations that have the records too, and that this can't reach.
    """

    erasure_id: str
    held_by: list[Hold] = field(default_factory=list)
    rows: Counter[str] = field(default_factory=Counter)
    frames: int = 0
    dead_letters: int = 0
    payload_files: int = 0
    elsewhere: list[str] = field(default_factory=list)


def erase(settings: Settings, data_dir: Path, url: str, entity: str, *, dry_run: bool = False) -> Erasure:
    """Erase a subject from a store and from a data directory.

    Args:
        settings: The settings.
        data_dir: The data directory.
        url: The store.
        entity: Whom, as ``name=value``.
        dry_run: Only count.

    Returns:
        What was erased; ``held_by`` says why nothing was.

    Raises:
        QueryError: The entity is not ``name=value``.
        StoreError: The store refused, or what was recorded before is not delivered; it may be tried again.
        EvidenceError: The signed entry can't be written.
        EncryptionError: A frame or a dead letter can't be read, as its key is missing.
    """
    parts = entity_parts(entity)
    if parts is None or not parts[1]:
        raise QueryError(f"{entity!r} is no entity: write name=value.")
    if not dry_run:
        behind = catch_up(data_dir, DELIVERY_SECONDS, settings=settings)
        if behind:
            raise StoreError(
                f"Nothing was erased: records of {behind} journals are not delivered yet, and could hold the same "
                "subject. See that the relay runs and reaches every destination, then run the command again."
            )
    done = Erasure(str(uuid_utils.uuid7()))
    cipher = cipher_of(settings)
    refused = [each for each in traces.refused_records(data_dir, cipher) if traces.items_about(each.record, *parts)]
    with SqlMaintenance(url) as store:
        rows = _Rows(*parts, done)
        with store.transaction(keep=not dry_run) as change:
            rows.find(change, refused)
            done.held_by = holds_on(change, sorted(rows.indexes), *parts, refused)
            if done.held_by:
                return done
            rows.erase(change)
            places = traces.erased_places(data_dir, change)
            if not dry_run:
                traces.settle_payloads(data_dir, rows.payloads)
            if rows.keys and not dry_run:
                what = f"an entity named {parts[0]}"
                counts = dict(+done.rows)
                removal = Removal(
                    id=done.erasure_id, action="erase", what=what, rows=counts, keys=tuple(sorted(rows.keys))
                )
                # Before the commit: an entry without the erasure harms nobody, an erasure without the entry does.
                open_log(settings, data_dir).append(REMOVAL, by=user_name(), removal=removal)
        if not dry_run:
            subject = traces.Subject(*parts, rows.indexes, rows.requests, places)
            try:
                _erase_traces(data_dir, store, subject, cipher, done)
            finally:
                store.vacuum()
    return done


def _erase_traces(
    data_dir: Path, store: SqlMaintenance, subject: traces.Subject, cipher: Cipher | None, done: Erasure
) -> None:
    with store.transaction() as change:
        done.payload_files = traces.remove_files(traces.unreferred_payloads(data_dir, change))
    done.frames = traces.erase_frames(data_dir, subject, cipher)
    done.dead_letters = traces.erase_dead_letters(data_dir, subject, cipher)
    with closing(Ledger(data_dir, read_only=True)) as ledger:
        done.elsewhere = [name for name in ledger.destinations() if name != AUDIT_STORE]


class _Rows:
    """The rows about a subject.

    Attributes:
        indexes: The items that are about them, by prediction.
        requests: These items by the ids of the requests.
        keys: What the signed entry is to list.
        payloads: Digests of payload files that rows no longer refer to.
    """

    def __init__(self, name: str, value: str, done: Erasure) -> None:
        self.indexes: dict[str, set[int]] = {}
        self.requests: dict[str, set[int]] = {}
        self.keys: list[str] = []
        self.payloads: list[str] = []
        self._name = name
        self._value = value
        self._done = done

    def find(self, change: StoreChange, refused: Sequence[traces.RefusedRecord]) -> None:
        """See which items are about the subject, those of predictions that the store does not have included."""
        for prediction_id, index in self._items(change):
            self.indexes.setdefault(prediction_id, set()).add(index)
        for record, _ in refused:
            indexes = traces.items_about(record, self._name, self._value)
            self.indexes.setdefault(record.prediction_id, set()).update(indexes)
            if record.request_id:
                self.requests.setdefault(record.request_id, set()).update(indexes)

    def _items(self, change: StoreChange) -> list[tuple[str, int]]:
        table, parameters = items_named(self._name, self._value)
        found = change.all(f"SELECT prediction_id, item_index FROM {table} ORDER BY 1, 2", parameters)  # noqa: S608  # names
        if is_indexed(self._name, self._value):
            return [(prediction_id, index) for prediction_id, index in found]
        columns = ("prediction_id", "item_index", "entity")
        rows = change.rows("items", columns, "prediction_id", [prediction_id for prediction_id, _ in found])
        return [(prediction_id, index) for prediction_id, index, entity in rows if self._is_in(entity)]

    def _is_in(self, entity: str | None) -> bool:
        value = msgspec.json.decode(entity).get(self._name) if entity else None
        return (value if isinstance(value, str) else msgspec.json.encode(value).decode()) == self._value

    def erase(self, change: StoreChange) -> None:
        """Erase what they hold."""
        predictions = change.rows("predictions", PREDICTION_ROWS.columns, "prediction_id", self.indexes)
        for row in predictions:
            if (request_id := row[_PREDICTION["request_id"]]) is not None:
                self.requests.setdefault(request_id, set()).update(self.indexes[row[_PREDICTION["prediction_id"]]])
        shared = self._erase_items(change)
        for row in predictions:
            groups = ("free",) if row[_PREDICTION["prediction_id"]] in shared else ("free", "caller")
            if (payload := row[_PREDICTION["payload_digest"]]) is not None:
                self.payloads.append(payload)
            self._erase(change, PREDICTION_ROWS, row, groups)
        for row in change.rows("events", EVENT_ROWS.columns, "prediction_id", self.indexes):
            self._erase(change, EVENT_ROWS, row)
        about = {**self.requests, **self.indexes}
        found = change.rows("outcomes", OUTCOME_ROWS.columns, "prediction_id", self.indexes)
        found += change.rows(
            "outcomes",
            OUTCOME_ROWS.columns,
            "request_id",
            self.requests,
            where="prediction_id IS NULL",
        )
        for row in found:
            indexes = about[row[_OUTCOME["prediction_id"]] or row[_OUTCOME["request_id"]]]
            if traces.named_outcome(row[_OUTCOME["item_index"]], indexes):
                self._erase(change, OUTCOME_ROWS, row)
        self._erase_accesses(change)
        self._erase_holds(change)

    def _erase_items(self, change: StoreChange) -> set[str]:
        """Erase the items, and the ways to them; returns the predictions that are about others as well."""
        shared: set[str] = set()
        for row in change.rows("items", ITEM_ROWS.columns, "prediction_id", self.indexes):
            prediction_id, index = row[_ITEM["prediction_id"]], row[_ITEM["item_index"]]
            entity = row[_ITEM["entity"]]
            if index not in self.indexes[prediction_id]:
                if entity is not None:
                    shared.add(prediction_id)
                continue
            self._done.rows["entities"] += change.delete_entities(entity_keys(entity, prediction_id, index))
            self._erase(change, ITEM_ROWS, row)
        return shared

    def _erase_accesses(self, change: StoreChange) -> None:
        subject = traces.Subject(self._name, self._value)
        conditions = ACCESS_ROWS.columns.index("conditions")
        written = msgspec.json.encode(self._value).decode()[1:-1]
        for row in change.containing("accesses", ACCESS_ROWS.columns, "conditions", written):
            if subject.is_named_in(msgspec.json.decode(row[conditions])):
                self._erase(change, ACCESS_ROWS, row)

    def _erase_holds(self, change: StoreChange) -> None:
        for hold in change.holds(released=True):
            if hold.entity == f"{self._name}={self._value}":
                change.update("holds", {"hold_id": hold.hold_id}, {"entity": None, "reason": None})
                self._done.rows["holds"] += 1

    def _erase(self, change: StoreChange, reader: RowReader, row: Any, groups: Sequence[str] = ("content",)) -> None:
        emptied = reader.erase(row, groups, self._done.erasure_id)
        if emptied.columns:
            change.update(reader.table.name, emptied.place, emptied.columns)
            self.keys += emptied.keys
            self._done.rows[reader.table.name] += 1
