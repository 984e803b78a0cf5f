"""Verification: every chain computed anew from the rows, and compared with the rows and with the signed log."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple, Protocol

from e2i_serving.evidence.commitments import GAPS, Place, first_link, gaps_digest, next_link
from e2i_serving.evidence.digests import (
    ACCESS_ROWS,
    EVENT_ROWS,
    ITEM_ROWS,
    OUTCOME_ROWS,
    PREDICTION_ROWS,
    Digested,
    digest_gap,
    digest_predictions,
    digest_row,
)
from e2i_serving.evidence.history import History, KnownLife
from e2i_serving.evidence.report import MOST_PROBLEMS, Problem, Report

DEAD_LETTERED: Final = "dead-lettered"
PURGED: Final = "purged"

GAP_COLUMNS: Final = (*GAPS.plain, "removal", "hash")
_READERS: Final = (EVENT_ROWS, OUTCOME_ROWS, ACCESS_ROWS)


class Span(NamedTuple):
    """A part of a chain: the rows of a life whose sequence numbers are in a range, both ends included."""

    life: str
    first: int
    last: int


class ChainRows(Protocol):
    """Reads the rows of chains from a store, as they stand there."""

    def rows(self, table: str, columns: Sequence[str], span: Span) -> Sequence[Sequence[Any]]:
        """Rows of a table by sequence, JSON as its stored text; of predictions, by id where the sequence is equal."""

    def items(self, columns: Sequence[str], span: Span) -> Iterator[Sequence[Any]]:
        """The items of the predictions in a span, in the order of these and by index."""

    def misplaced(self, limit: int) -> list[tuple[str, str]]:
        """Rows that have no place in any chain: their table, and their life as text."""

    def before(self, life: str, first: int) -> tuple[int, str | None] | None:
        """Sequence number and hash of the last row or gap before a sequence number; ``None`` at the beginning."""


class Signed(NamedTuple):
    """What is needed of the signed log to verify spans.

    Attributes:
        lives: What is known of each life.
        erasures: What was erased, by the entry's id.
        first_ns: Time of the first entry.
    """

    lives: Mapping[str, KnownLife]
    erasures: Mapping[str, frozenset[str]]
    first_ns: int


class _Link(NamedTuple):
    """One row or gap of a chain."""

    end: int
    start: int
    table: str
    hash: str | None
    digested: Digested
    prediction_id: str = ""
    removal: str | None = None
    reason: str = ""
    gap_digest: str | None = None
    records: int = 0
    time_ns: int = 0


def what_was_signed(history: History) -> Signed:
    """What is needed of the signed log to verify spans."""
    erasures = {removal.id: frozenset(removal.keys) for removal in history.removals.values()}
    return Signed(history.lives, erasures, history.first_ns)


def verify_span(source: ChainRows, span: Span, signed: Signed) -> Report:
    """Verify a part of one chain. The link before its first row is taken from the row before.

    Args:
        source: The store.
        span: The part.
        signed: What the log says.
    """
    report = Report()
    # A row whose place is no number is found by ``ChainRows.misplaced``, and by its absence.
    links = [link for link in _links(source, span, signed, report) if type(link.end) is int is type(link.start)]
    links.sort(key=_order)
    _Walk(source, span, signed, report).over(links)
    return report


def verify_places(source: ChainRows) -> Report:
    """Verify that every row has a place in a chain."""
    report = Report()
    for table, life in source.misplaced(MOST_PROBLEMS):
        report.note(Problem(f"{_NAMES[table]} was inserted or altered: it has no place in a chain.", life))
    return report


def verify_whole(spans: Iterable[Span], history: History, report: Report) -> None:
    """Verify what no part of a chain shows: that none is missing at its end, and that each purge left what it says.

    Args:
        spans: Of each life, from the first to the last row in the store.
        history: What the log says.
        report: What was found in all spans; added to.
    """
    ends = {span.life: span.last for span in spans}
    report.chains = len(ends)
    for life, known in history.lives.items():
        end = ends.get(life, 0)
        if end < known.last:
            report.note(Problem(f"Rows are missing: a checkpoint lists them up to {known.last}.", life, end + 1))
    for removal_id, places in report.purges.items():
        removal = history.removals.get(removal_id)
        if removal is None or removal.gaps != gaps_digest(places):
            life, first, last, *_ = min(places)
            what = f"Rows {first} to {last} are gone, and no signed entry says so, or what stands before was altered."
            report.note(Problem(what, life, first))
    for problem in history.problems:
        report.note(problem)
    report.keys = history.signatures
    report.checkpoint_ns = history.checkpoint_ns
    report.trim()


def _links(source: ChainRows, span: Span, signed: Signed, report: Report) -> Iterator[_Link]:
    names = PREDICTION_ROWS.columns
    own, end, linked = (names.index(name) for name in ("prediction_id", "sequence", "hash"))
    when = names.index("time_ns")
    predictions = source.rows("predictions", names, span)
    items = source.items(ITEM_ROWS.columns, span)
    for row, (digested, count) in zip(
        predictions, digest_predictions(predictions, items, signed.erasures), strict=True
    ):
        report.rows["items"] += count
        yield _Link(row[end], row[end], "predictions", row[linked], digested, row[own], time_ns=row[when])
    for reader in _READERS:
        table, names = reader.table.name, reader.columns
        end, linked = names.index("sequence"), names.index("hash")
        about = names.index("prediction_id") if "prediction_id" in names else None
        for row in source.rows(table, names, span):
            prediction_id = (row[about] or "") if about is not None else ""
            yield _Link(row[end], row[end], table, row[linked], digest_row(reader, row, signed.erasures), prediction_id)
    for row in source.rows("gaps", GAP_COLUMNS, span):
        life, first, last, records, reason, digest, removal, link = row
        made = digest_gap((life, first, last, records, reason, digest))
        yield _Link(last, first, "gaps", link, made, "", removal, reason, digest, records)


def _order(link: _Link) -> tuple[int, bool, str]:
    return link.end, link.table != "gaps", link.table


class _Walk:
    """From link to link along a chain."""

    def __init__(self, source: ChainRows, span: Span, signed: Signed, report: Report) -> None:
        self._life = span.life
        self._report = report
        self._known = signed.lives.get(span.life)
        self._first_ns = signed.first_ns
        self._first_anchor = min(self._known.anchors, default=sys.maxsize) if self._known else 0
        before = source.before(span.life, span.first)
        self._end, before_hash = before or (0, None)
        self._unchained = before_hash is None
        self._before = before_hash or ""
        self._link = _bytes_of(before_hash) or first_link(span.life)
        self._gap: _Link | None = None
        self._without_hash: _Link | None = None

    def over(self, links: Sequence[_Link]) -> None:
        """Walk."""
        # Who looks at the trail from another machine signs there: such a life is without an anchor here, and no more.
        if self._known is None and any(link.hash is not None and link.table != "accesses" for link in links):
            self._note("The life is in no signed entry: all its rows were made up, or its checkpoints are missing", 0)
        for link in links:
            self._step(link)

    def _step(self, link: _Link) -> None:
        self._count(link)
        if self._is_redelivered(link):
            return
        if link.start <= self._end:
            self._at(link, "was inserted: another row has its place in the chain")
            return
        missing = link.start > self._end + 1
        if missing:
            last = link.start - 1
            what = f"Row {last} is" if last == self._end + 1 else f"Rows {self._end + 1} to {last} are"
            self._note(f"{what} missing", self._end + 1)
        self._end = link.end
        if link.hash is None:
            self._pass_unchained(link)
            return
        self._unchained = False
        if link.table == "gaps":
            self._gap = link
        self._follow(link, missing=missing)
        self._check_anchor(link)

    def _count(self, link: _Link) -> None:
        if link.table == "gaps":
            self._report.gaps[link.reason] += link.end - link.start + 1
        else:
            self._report.rows[link.table] += 1
            self._report.erased += link.digested.erased
        if link.digested.fault:
            self._at(link, link.digested.fault)

    def _follow(self, link: _Link, *, missing: bool) -> None:
        report = self._report
        if link.removal is not None:
            report.purged += link.end - link.start + 1
            place = Place(self._life, link.start, link.end, link.records, self._before, link.hash or "")
            report.purges.setdefault(link.removal, []).append(place)
            if link.reason != PURGED or link.gap_digest is not None:
                self._at(link, "was altered: a purge leaves another one")
        elif not missing and not link.digested.fault:
            made = next_link(self._link, link.end, link.digested.digest) if link.digested.digest else b""
            if made.hex() != link.hash and self._without_hash is not None:
                self._at(self._without_hash, "has lost its link to the chain")
            elif made.hex() != link.hash:
                self._at(link, "was altered: its content is not what the chain says")
        self._without_hash = None
        self._before = link.hash or ""
        self._link = _bytes_of(link.hash) or bytes(32)

    def _check_anchor(self, link: _Link) -> None:
        known = self._known
        if known is None:
            self._report.unanchored += 1
            return
        anchor = known.anchors.get(link.end)
        if anchor is not None and anchor != link.hash:
            self._at(link, "is not what the checkpoint there says: the chain was made anew")
        if link.end > link.start and link.removal is None and _has_anchor(known, link.start, link.end):
            self._at(link, "has the place of rows that a checkpoint lists")
        if link.end > known.last:
            self._report.unanchored += 1
            if known.closed:
                self._at(link, "was added after its life had ended")

    def _pass_unchained(self, link: _Link) -> None:
        """A row without a hash: stored by a release without chains, or one whose hash was taken away."""
        is_older = link.time_ns < self._first_ns if self._known is None else link.end < self._first_anchor
        if self._unchained and is_older:
            self._report.unchained += 1
            self._without_hash = self._without_hash or link
        else:
            self._at(link, "has lost its link to the chain")

    def _is_redelivered(self, link: _Link) -> bool:
        """Whether a row was refused first, and stored later in the place that a gap keeps for it."""
        gap = self._gap
        if gap is None or gap.end != link.end or link.table == "gaps":
            return False
        if gap.reason != DEAD_LETTERED or gap.removal is not None:
            return False
        if link.hash is None:
            self._report.unproved += 1
        elif link.hash != gap.hash or not gap.gap_digest or link.digested.digest.hex() != gap.gap_digest:
            self._at(link, "was altered: it is not what was refused when its place was kept")
        self._gap = None
        return True

    def _at(self, link: _Link, what: str) -> None:
        name = _NAMES[link.table]
        self._report.note(Problem(f"{name} {what}.", self._life, link.end, link.prediction_id))

    def _note(self, what: str, sequence: int) -> None:
        self._report.note(Problem(f"{what}.", self._life, sequence))


_NAMES: Final = {
    "predictions": "The prediction",
    "events": "The event",
    "outcomes": "The outcome",
    "accesses": "The access",
    "gaps": "The gap",
}


def _has_anchor(known: KnownLife, first: int, last: int) -> bool:
    if last - first < len(known.anchors):
        return any(sequence in known.anchors for sequence in range(first, last))
    return any(first <= sequence < last for sequence in known.anchors)


def _bytes_of(link: str | None) -> bytes:
    try:
        return bytes.fromhex(link or "")
    except (ValueError, TypeError):
        return b""
