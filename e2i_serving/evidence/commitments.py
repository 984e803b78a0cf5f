"""What a row of the trail is hashed to: salted commitments, digests, and the links of a life's chain.

Each row has a digest, made of its plain columns and of one commitment for each group of columns that can be erased::

    commitment = SHA-256(salt of the group, 32 hex digits | columns of the group)
    digest     = SHA-256(name of the table | plain columns and commitments [| item, item, ...])
    link       = SHA-256(link before | sequence, 8 bytes big-endian | digest)

Columns are a MessagePack array of their values in the order given here; JSON stands as its stored text, -0.0 as 0.0.
An item is the array of its own plain columns and its commitment. Before the first link stands the SHA-256 of 32 zero
bytes and the life's id. When a group is erased, its commitment stays in the row, so that the digest stays what it was.

The order of columns is part of the format: it never changes. A column that a later release adds must not count where
it is NULL.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from hashlib import sha256, shake_256
from operator import itemgetter
from typing import Any, Final, NamedTuple

import msgspec

from e2i_serving.exceptions import RefusedError
from e2i_serving.record import Row, RowBatch
from e2i_serving.record.rows import ITEM_OUTPUT_COLUMNS

LINK_BYTES: Final = 32
SALT_BYTES: Final = 16
"""Length of a group's salt."""


class ChainedTable(NamedTuple):
    """How the rows of a table are hashed.

    Attributes:
        name: The table's name.
        plain: The columns that stay for good.
        groups: The columns that are erased together, by the group's name; a row's salt holds one salt a group, in
            this order.
        added: How many columns at the end of a group, or under "" of the plain ones, came in a later release: those
            that are NULL at the very end do not count.
    """

    name: str
    plain: tuple[str, ...]
    groups: Mapping[str, tuple[str, ...]]
    added: Mapping[str, int] = {}


PREDICTIONS: Final = ChainedTable(
    "predictions",
    (
        *("prediction_id", "time_ns", "duration", "outcome", "status", "service", "endpoint", "route", "method"),
        *("trace_id", "span_id", "parent_span_id", "sampled", "phases"),
        *("model", "model_version", "model_digest", "code_digest", "task", "bento", "bento_version"),
        *("environment", "namespace", "pod", "revision", "arm", "error_type", "items", "request_bytes"),
        *("response_bytes", "sampling_fraction", "redactions", "release", "schema_version", "life", "sequence"),
        *("retention", "lineage"),
    ),
    {
        "caller": ("request_id", "parent_request_id", "principal", "principal_source", "labels"),
        "free": ("attributes", "error_message", "payload_digest", "feature_provenance"),
    },
    {"": 1, "free": 1},
)
ITEMS: Final = ChainedTable(
    "items",
    ("prediction_id", "item_index", "time_ns", "model", "model_version"),
    {"content": ("entity", "inputs", "outputs", *ITEM_OUTPUT_COLUMNS)},
)
EVENTS: Final = ChainedTable(
    "events",
    (
        *("life", "sequence", "prediction_id", "kind", "duration", "outcome", "status", "response_bytes"),
        *("error_type", "redactions"),
    ),
    {"content": ("error_message", "outputs")},
)
OUTCOMES: Final = ChainedTable(
    "outcomes",
    ("outcome_id", "time_ns", "prediction_id", "item_index", "name", "observed_ns", "life", "sequence"),
    {"content": ("value", "score", "comment", "source", "request_id")},
)
ACCESSES: Final = ChainedTable(
    "accesses",
    ("access_id", "time_ns", "principal", "source", "way", "action", "predictions", "life", "sequence"),
    {"content": ("conditions",)},
)
GAPS: Final = ChainedTable("gaps", ("life", "first", "last", "records", "reason", "digest"), {})

_pack_values: Final = msgspec.msgpack.Encoder().encode
_MINUS_ZERO: Final = b"\xcb\x80\0\0\0\0\0\0\0"
_ZERO: Final = b"\xcb\0\0\0\0\0\0\0\0"


def prediction_salt(salt: bytes) -> str:
    """The salts of a prediction's two groups, from its record's salt: 64 hex digits."""
    return sha256(salt + b"/prediction").hexdigest()


def item_salts(salt: bytes, items: int) -> list[str]:
    """The salts of a prediction's items, from its record's salt: 32 hex digits an item.

    Who knows one of them knows nothing of the others.
    """
    if items <= 0:
        return []
    text = shake_256(salt + b"/items").hexdigest(SALT_BYTES * items)
    return [text] if items == 1 else [text[at : at + 32] for at in range(0, len(text), 32)]


def event_salt(salt: bytes) -> str:
    """The salt of anything else, from its record's salt: 32 hex digits."""
    return sha256(salt + b"/event").hexdigest()[:32]


def first_link(life: str) -> bytes:
    """What stands before the first link of a life's chain, 32 bytes."""
    return sha256(bytes(LINK_BYTES) + life.encode()).digest()


def next_link(link: bytes, sequence: int, digest: bytes) -> bytes:
    """The link of a row, 32 bytes, from the link before and the row's digest."""
    return sha256(link + sequence.to_bytes(8, "big") + digest).digest()


def pack(values: Sequence[Any]) -> bytes:
    """Values of columns as bytes, the same before they were stored and after they were read back."""
    packed = _pack_values(values)
    # Text holds no NUL, so these bytes are a number's, and databases disagree on whether it has a sign.
    return packed.replace(_MINUS_ZERO, _ZERO) if _MINUS_ZERO in packed else packed


def counted(values: Sequence[Any], added: int) -> Sequence[Any]:
    """The values that count: of the last ``added`` ones, those that are NULL at the very end do not."""
    end = len(values)
    while added and values[end - 1] is None:
        end -= 1
        added -= 1
    return values if end == len(values) else values[:end]


def commitment(salt: str, values: Sequence[Any]) -> bytes:
    """The commitment to a group of columns, 32 bytes.

    Args:
        salt: The group's salt, 32 hex digits.
        values: The values of its columns, in order.
    """
    return sha256(salt.encode() + pack(values)).digest()


def packed_item(plain: Sequence[Any], content: bytes) -> bytes:
    """An item as it goes into its prediction's digest.

    Args:
        plain: The values of its plain columns.
        content: The commitment to its content.
    """
    return pack((*plain, content))


def digest_of(table: str, plain: Sequence[Any], commitments: Sequence[bytes], items: Iterable[bytes] = ()) -> bytes:
    """The digest of a row, 32 bytes.

    Args:
        table: The table's name.
        plain: The values of the row's plain columns, in order.
        commitments: One for each of its groups, in order.
        items: For a prediction, its packed items by index.
    """
    return sha256(b"".join((table.encode(), pack((*plain, *commitments)), *items))).digest()


def erasure_key(table: str, place: Sequence[Any], group: str, kept: str) -> str:
    """What stands in a signed entry for a group of columns that was erased, 32 hex digits.

    Args:
        table: The table's name.
        place: The row's key.
        group: The group's name.
        kept: The commitment that was kept, in hex.
    """
    return sha256(pack((table, *place, group, kept))).hexdigest()[:32]


class Place(NamedTuple):
    """Where a purge left a gap, and what the chain was on both sides of it.

    Attributes:
        life: The life.
        first: First sequence number of what is gone.
        last: The last.
        records: How many predictions are among it.
        before: Link of the row before, in hex; empty where the chain begins.
        link: Link of the last row that is gone, in hex.
    """

    life: str
    first: int
    last: int
    records: int
    before: str
    link: str


def gaps_digest(places: Iterable[Place]) -> str:
    """What stands in a signed entry for the gaps that a purge left, 64 hex digits.

    Args:
        places: Of each, in any order.
    """
    return sha256(pack(sorted(places))).hexdigest()


def seal(batch: RowBatch, life: str, link: bytes) -> bytes:
    """Link the rows of one life to its chain: set ``hash`` on each.

    Args:
        batch: Rows of the life, as they are stored. Those of each table are in the order of their sequence.
        life: The life's id.
        link: The link of the row before; empty at the start of the chain.

    Returns:
        The last link, 32 bytes.

    Raises:
        RefusedError: A value can't be hashed, and so can't be stored either.
    """
    link = link or first_link(life)
    try:
        digests = _digests(batch)
    except (OverflowError, ValueError, TypeError) as error:
        raise RefusedError(f"A row of life {life} holds a value that no column takes: {error}") from error
    for sequence, digest, row in digests:
        link = next_link(link, sequence, digest)
        row["hash"] = link.hex()
    return link


def entry_digest(batch: RowBatch) -> bytes:
    """The digest of the only chained row of a batch, 32 bytes; empty when it can't be made.

    Args:
        batch: The rows of one entry.
    """
    try:
        return next((digest for _, digest, _ in _digests(batch)), b"")
    except (OverflowError, ValueError, TypeError):
        return b""


def _values_of(names: Sequence[str]) -> Callable[[Row], tuple[Any, ...]]:
    if len(names) == 1:
        (name,) = names
        return lambda row: (row[name],)
    return itemgetter(*names)


_Digest = Callable[[Row], bytes]


def _digest_function(table: ChainedTable) -> _Digest:
    name, plain_of = table.name, _values_of(table.plain)
    groups = [_values_of(columns) for columns in table.groups.values()]

    def digest(row: Row) -> bytes:
        salt = row["salt"] if groups else ""
        commitments = [commitment(salt[at * 32 : at * 32 + 32], of(row)) for at, of in enumerate(groups)]
        return digest_of(name, plain_of(row), commitments)

    return digest


_prediction_plain: Final = _values_of(PREDICTIONS.plain)
_caller: Final = _values_of(PREDICTIONS.groups["caller"])
_free: Final = _values_of(PREDICTIONS.groups["free"])
_item_plain: Final = _values_of(ITEMS.plain)
_item_content: Final = _values_of(ITEMS.groups["content"])

_OTHERS: Final[tuple[tuple[str, str, _Digest], ...]] = (
    ("events", "sequence", _digest_function(EVENTS)),
    ("outcomes", "sequence", _digest_function(OUTCOMES)),
    ("accesses", "sequence", _digest_function(ACCESSES)),
    ("gaps", "last", _digest_function(GAPS)),
)


def _digests(batch: RowBatch) -> list[tuple[int, bytes, Row]]:
    """Sequence, digest and row of each chained row, by sequence."""
    digests = list(_prediction_digests(batch)) if batch.predictions else []
    tables = int(bool(digests))
    for table, number, digest in _OTHERS:
        rows: list[Row] = getattr(batch, table)
        if rows:
            tables += 1
            digests += [(row[number], digest(row), row) for row in rows]
    if tables > 1:
        digests.sort(key=itemgetter(0))
    return digests


def _prediction_digests(batch: RowBatch) -> Iterable[tuple[int, bytes, Row]]:
    items, at = batch.items, 0
    for row in batch.predictions:
        prediction_id = row["prediction_id"]
        packed: list[bytes] = []
        while at < len(items) and items[at]["prediction_id"] == prediction_id:
            item = items[at]
            packed.append(packed_item(_item_plain(item), commitment(item["salt"], _item_content(item))))
            at += 1
        salt = row["salt"]
        commitments = (commitment(salt[:32], _caller(row)), commitment(salt[32:], counted(_free(row), 1)))
        plain = counted(_prediction_plain(row), 1)
        yield row["sequence"], digest_of("predictions", plain, commitments, packed), row
