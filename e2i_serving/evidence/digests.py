"""Digests of rows as they are read back from a store, what was erased from them included."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from operator import itemgetter
from typing import Any, Final

import msgspec

from e2i_serving.evidence.commitments import (
    ACCESSES,
    EVENTS,
    ITEMS,
    OUTCOMES,
    PREDICTIONS,
    ChainedTable,
    commitment,
    counted,
    digest_of,
    erasure_key,
    packed_item,
)

SALT_DIGITS: Final = 32
NO_SALT: Final = "0" * SALT_DIGITS
"""What stands in place of the salt of a group that was erased."""

_BOOLEANS: Final[dict[Any, bool]] = {0: False, 1: True}
"""SQLite keeps booleans as these numbers; any other value is left, and does not match."""

_KEYS: Final = {"predictions": ("prediction_id",), "items": ("prediction_id", "item_index")}


class Erased(msgspec.Struct, frozen=True):
    """What is left of a group of columns that was erased.

    Attributes:
        by: Id of the signed entry that says so.
        commitment: The commitment to what stood there, in hex.
    """

    by: str
    commitment: str


_erased_decoder: Final = msgspec.json.Decoder(dict[str, Erased])


@dataclass(slots=True)
class Digested:
    """The digest of a row, and what was noticed on the way.

    Attributes:
        digest: 32 bytes; empty when the row is not of a form that was ever written.
        erased: How many rows it is made of had something erased.
        fault: What is wrong besides the digest; empty for nothing.
    """

    digest: bytes = b""
    erased: int = 0
    fault: str = ""


@dataclass(slots=True)
class Emptied:
    """What an erasure changes in a row.

    Attributes:
        place: The row's key, by column.
        columns: The new values, by column; empty when all was erased before.
        keys: What the signed entry is to list.
    """

    place: dict[str, Any]
    columns: dict[str, Any] = field(default_factory=dict)
    keys: list[str] = field(default_factory=list)


@dataclass(slots=True)
class RowReader:
    """Which columns of a table are read, and where they stand.

    Attributes:
        table: The table.
        booleans: Its columns of booleans.
        columns: The columns to read, in order: plain ones, groups, salt, what was erased, and what follows.
    """

    table: ChainedTable
    booleans: tuple[str, ...] = ()
    extra: tuple[str, ...] = ("hash",)
    columns: tuple[str, ...] = field(init=False)
    _groups: list[tuple[str, slice]] = field(init=False)
    _switches: list[int] = field(init=False)
    _plain: int = field(init=False)
    _salt: int = field(init=False)
    _key: Callable[[Sequence[Any]], Any] = field(init=False)

    def __post_init__(self) -> None:
        """Lay the columns out."""
        columns = list(self.table.plain)
        self._plain = len(columns)
        self._groups = []
        for name, group in self.table.groups.items():
            self._groups.append((name, slice(len(columns), len(columns) + len(group))))
            columns += group
        self._salt = len(columns)
        columns += ("salt", "erased", *self.extra)
        self.columns = tuple(columns)
        self._switches = [columns.index(name) for name in self.booleans]
        self._key = itemgetter(*map(columns.index, self._key_names()))

    def place(self, row: Sequence[Any]) -> tuple[Any, ...]:
        """The row's key."""
        key = self._key(row)
        return key if isinstance(key, tuple) else (key,)

    def values(self, row: Sequence[Any]) -> list[Any]:
        """The row's values, in the types that they were written with."""
        values = list(row)
        for at in self._switches:
            values[at] = _BOOLEANS.get(values[at], values[at])
        return values

    def plain(self, values: Sequence[Any]) -> Sequence[Any]:
        """Of a row's values, those of the plain columns."""
        return counted(values[: self._plain], self.table.added.get("", 0))

    def commitments(self, values: Sequence[Any], erasures: Mapping[str, frozenset[str]], into: Digested) -> list[bytes]:
        """The commitments to a row's groups.

        Args:
            values: The row's values.
            erasures: What the signed log lists as erased, by its ids.
            into: What is noticed.

        Raises:
            ValueError: The salt, or what was erased, is of no form that was ever written.
        """
        salt = values[self._salt]
        text = values[self._salt + 1]
        if len(salt) != SALT_DIGITS * len(self._groups):
            raise ValueError("The salt has another length.")
        if text is None:
            return [
                commitment(salt[at * SALT_DIGITS : (at + 1) * SALT_DIGITS], self._content(values, name, part))
                for at, (name, part) in enumerate(self._groups)
            ]
        erased = _erased_decoder.decode(text)
        if not erased:
            into.fault = "says that something was erased, and not what"
        into.erased += 1
        made: list[bytes] = []
        for at, (name, part) in enumerate(self._groups):
            left = erased.pop(name, None)
            if left is None:
                cut = slice(at * SALT_DIGITS, (at + 1) * SALT_DIGITS)
                made.append(commitment(salt[cut], self._content(values, name, part)))
                continue
            if salt[at * SALT_DIGITS : (at + 1) * SALT_DIGITS] != NO_SALT or any(
                value is not None for value in values[part]
            ):
                into.fault = "holds something where everything was erased"
            elif erasure_key(self.table.name, self.place(values), name, left.commitment) not in erasures.get(
                left.by, frozenset()
            ):
                into.fault = "was erased, and no signed entry says so"
            made.append(bytes.fromhex(left.commitment))
        if erased:
            into.fault = "names something erased that it never had"
        return made

    def erase(self, row: Sequence[Any], groups: Sequence[str], by: str) -> Emptied:
        """Empty groups of columns, and keep the commitments to them.

        Args:
            row: The row as it stands.
            groups: The groups' names.
            by: Id of the signed entry that will say so.
        """
        values = self.values(row)
        salt, text = values[self._salt], values[self._salt + 1]
        erased = _erased_decoder.decode(text) if text else {}
        place = self.place(values)
        emptied = Emptied(dict(zip(self._key_names(), place, strict=True)))
        for at, (name, part) in enumerate(self._groups):
            if name not in groups or name in erased:
                continue
            kept = ""
            if salt:  # a release without chains stored none
                cut = slice(at * SALT_DIGITS, (at + 1) * SALT_DIGITS)
                kept = commitment(salt[cut], self._content(values, name, part)).hex()
                salt = salt[: cut.start] + NO_SALT + salt[cut.stop :]
                emptied.keys.append(erasure_key(self.table.name, place, name, kept))
            erased[name] = Erased(by, kept)
            emptied.columns.update(dict.fromkeys(self.columns[part]))
        if emptied.columns:
            emptied.columns.update(salt=salt, erased=msgspec.json.encode(erased).decode())
        return emptied

    def _content(self, values: Sequence[Any], group: str, part: slice) -> Sequence[Any]:
        return counted(values[part], self.table.added.get(group, 0))

    def _key_names(self) -> tuple[str, ...]:
        return _KEYS.get(self.table.name, ("life", "sequence"))


PREDICTION_ROWS: Final = RowReader(PREDICTIONS, ("sampled",))
ITEM_ROWS: Final = RowReader(ITEMS, ("exploration",), ())

_ID: Final = PREDICTION_ROWS.columns.index("prediction_id")
_ITEMS: Final = PREDICTION_ROWS.columns.index("items")
_IMPOSSIBLE: Final = (ValueError, TypeError, OverflowError, AttributeError, msgspec.MsgspecError)


def digest_row(reader: RowReader, row: Sequence[Any], erasures: Mapping[str, frozenset[str]]) -> Digested:
    """The digest of a row other than a prediction's."""
    done = Digested()
    try:
        values = reader.values(row)
        commitments = reader.commitments(values, erasures, done)
        done.digest = digest_of(reader.table.name, reader.plain(values), commitments)
    except _IMPOSSIBLE:
        done.digest = b""
    return done


def digest_gap(values: Sequence[Any]) -> Digested:
    """The digest of a gap, of which nothing is ever erased."""
    try:
        return Digested(digest_of("gaps", values, ()))
    except _IMPOSSIBLE:
        return Digested()


def digest_predictions(
    predictions: Sequence[Sequence[Any]],
    items: Iterator[Sequence[Any]],
    erasures: Mapping[str, frozenset[str]],
) -> Iterator[tuple[Digested, int]]:
    """The digest of each prediction with its items, and how many of these there are.

    Args:
        predictions: Rows of ``PREDICTION_ROWS.columns``.
        items: Rows of ``ITEM_ROWS.columns``, in the order of their predictions and by index.
        erasures: What the signed log lists as erased.
    """
    groups = groupby(items, itemgetter(0))
    prediction_id, group = next(groups, (None, iter(())))
    for row in predictions:
        own: list[Sequence[Any]] = []
        if prediction_id is not None and prediction_id == row[_ID]:
            own = list(group)
            prediction_id, group = next(groups, (None, iter(())))
        yield _digest_prediction(row, own, erasures), len(own)


def _digest_prediction(
    row: Sequence[Any], items: Sequence[Sequence[Any]], erasures: Mapping[str, frozenset[str]]
) -> Digested:
    done = Digested()
    try:
        packed: list[bytes] = []
        for item in items:
            content = ITEM_ROWS.values(item)
            (made,) = ITEM_ROWS.commitments(content, erasures, done)
            packed.append(packed_item(ITEM_ROWS.plain(content), made))
        values = PREDICTION_ROWS.values(row)
        commitments = PREDICTION_ROWS.commitments(values, erasures, done)
        done.digest = digest_of("predictions", PREDICTION_ROWS.plain(values), commitments, packed)
    except _IMPOSSIBLE:
        done.digest = b""
    if isinstance(row[_ITEMS], int) and len(items) != max(row[_ITEMS], 0):
        done.fault = f"has {len(items)} items, where it says {row[_ITEMS]}"
    return done


EVENT_ROWS: Final = RowReader(EVENTS)
OUTCOME_ROWS: Final = RowReader(OUTCOMES)
ACCESS_ROWS: Final = RowReader(ACCESSES)
