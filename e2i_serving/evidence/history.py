"""What the signed log says, once it has proved to be whole: which chains there are, and what was removed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from e2i_serving.evidence.checkpoints import BEGIN, CHECKPOINT, ended_with, root_of
from e2i_serving.evidence.log import HoldNote, Line, LogEntry, Removal, log_files, read_lines
from e2i_serving.evidence.report import Problem
from e2i_serving.evidence.signing import PublicKeys
from e2i_serving.exceptions import EvidenceError

REMOVAL = "removal"
HOLD = "hold"


@dataclass(slots=True)
class KnownLife:
    """What the log says of a life.

    Attributes:
        anchors: Links by sequence number, as checkpoints have them, in hex.
        last: The largest sequence number among them.
        closed: Whether nothing may follow it.
    """

    anchors: dict[int, str] = field(default_factory=dict)
    last: int = 0
    closed: bool = False


@dataclass(slots=True)
class History:
    """What one or more logs say.

    Attributes:
        lives: The lives whose rows may be in the store.
        removals: What was purged and erased, by id.
        holds: What was said of each hold, by id, in order.
        signatures: How many entries each key signed, by its id.
        first_ns: Time of the oldest entry; 0 when there is none.
        checkpoint_ns: Time of the newest checkpoint; 0 when there is none.
        entries: How many entries there are.
        problems: What is wrong with the logs themselves.
    """

    lives: dict[str, KnownLife] = field(default_factory=dict)
    removals: dict[str, Removal] = field(default_factory=dict)
    holds: dict[str, list[HoldNote]] = field(default_factory=dict)
    signatures: Counter[str] = field(default_factory=Counter)
    first_ns: int = 0
    checkpoint_ns: int = 0
    entries: int = 0
    problems: list[Problem] = field(default_factory=list)


def read_history(folders: Sequence[Path], keys: PublicKeys) -> History:
    """Read logs and check each entry.

    Args:
        folders: The logs' folders.
        keys: The keys whose signatures count.

    Returns:
        What the entries with a right signature say, and what is wrong with the others.

    Raises:
        EvidenceError: A log can't be read.
    """
    history = History()
    for folder in folders:
        try:
            for entry in _checked(folder, keys, history):
                _take(entry, history)
        except OSError as error:
            raise EvidenceError(f"The checkpoints in {folder} can't be read: {error}.") from error
    return history


def _checked(folder: Path, keys: PublicKeys, history: History) -> Iterator[LogEntry]:
    """The entries whose signature is right; what is wrong with others, or with their order, is noted."""
    number, previous = 0, ""
    known: dict[str, tuple[int, str]] = {}
    for line in _lines(folder):
        entry = line.entry
        if entry is None:
            _note(history, line, "is no entry")
            number, previous = number + 1, line.digest
            continue
        is_right = keys.verify(entry.key, line.signed, line.signature)
        if is_right is None:
            _note(history, line, f"is signed with key {entry.key}, which is not among those given")
        elif not is_right:
            _note(history, line, "was altered: its signature is wrong")
        if entry.number != number + 1 or entry.previous != previous:
            _note(history, line, f"does not follow the line before: entry {number + 1} is missing or was altered")
        number, previous = entry.number, line.digest
        if is_right:
            if entry.kind == CHECKPOINT and not _is_consistent(entry, known):
                _note(history, line, "does not list every chain that its instance knew")
            yield entry


def _is_consistent(entry: LogEntry, known: dict[str, tuple[int, str]]) -> bool:
    lives, ended = known.get(entry.by, (0, ""))
    known[entry.by] = (entry.lives, entry.ended)
    return (
        entry.lives >= lives
        and entry.ended == ended_with(ended, entry.chains)
        and entry.root == root_of(entry.ended, entry.chains)
    )


def _take(entry: LogEntry, history: History) -> None:
    history.entries += 1
    history.signatures[entry.key] += 1
    history.first_ns = min(history.first_ns or entry.time_ns, entry.time_ns)
    if entry.kind == BEGIN:
        history.lives.setdefault(entry.life, KnownLife())
    elif entry.kind == CHECKPOINT:
        history.checkpoint_ns = max(history.checkpoint_ns, entry.time_ns)
        for life, chain in entry.chains.items():
            known = history.lives.setdefault(life, KnownLife())
            if chain.sequence:
                known.anchors[chain.sequence] = chain.link
                known.last = max(known.last, chain.sequence)
            known.closed |= chain.closed
    elif entry.kind == REMOVAL and entry.removal is not None:
        history.removals[entry.removal.id] = entry.removal
    elif entry.kind == HOLD and entry.hold is not None:
        history.holds.setdefault(entry.hold.id, []).append(entry.hold)


def _lines(folder: Path) -> Iterable[Line]:
    files = log_files(folder)
    if not files:
        raise EvidenceError(f"There are no checkpoints in {folder}. Name the folder that they are written to.")
    for path in files:
        yield from read_lines(path)


def _note(history: History, line: Line, what: str) -> None:
    history.problems.append(Problem(f"Line {line.place} of {line.file.name} in {line.file.parent} {what}."))
