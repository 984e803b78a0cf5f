"""One set of numbers out of many workers' files, the living and the dead."""

from __future__ import annotations

import fcntl
import logging
import os
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from pathlib import Path

import msgspec

from e2i_serving.observers.metrics.buckets import rebucketed
from e2i_serving.observers.metrics.exemplars import Exemplar
from e2i_serving.observers.metrics.families import (
    ACCEPTED,
    DURATION,
    INTERRUPTED,
    OBSERVED,
    SAMPLED_OUT,
    TIMED,
    UNJOURNALED,
    Across,
    Family,
    MetricType,
)
from e2i_serving.observers.metrics.series import FILE_SUFFIX, HEAD, HEAD_SIZE, Sample, read_entries

logger = logging.getLogger("e2i_serving")

FOLDED_NAME = "folded.msgpack"
REMEMBERED_LIVES = 1000
RELAY_SUFFIX = ".relay"
"""How the file of the relay's numbers ends, of which there is one: its counters are of all time, not of a life."""

_ACCOUNTED = frozenset({ACCEPTED.name, SAMPLED_OUT.name, UNJOURNALED.name})

Key = tuple[str, tuple[str, ...]]


class Totals(dict[Key, list[float]]):
    """Numbers by (family, label values).

    Attributes:
        families: The families by name, as the latest worker counts them. Histograms have its buckets.
        exemplars: Of a histogram's series, the latest example of each bucket, by the bucket's index.
    """

    def __init__(self) -> None:
        super().__init__()
        self.families: dict[str, Family] = {}
        self.exemplars: dict[Key, dict[int, Exemplar]] = {}

    def put(self, family: Family, labels: tuple[str, ...], value: float) -> None:
        """Set a gauge that is known where it is asked for."""
        self.families[family.name] = family
        self[family.name, labels] = [value]


class _Group(msgspec.Struct):
    """Sums of dead workers that counted a family alike."""

    family: Family
    samples: list[tuple[tuple[str, ...], list[float]]]


class _Folded(msgspec.Struct):
    """The sum of dead workers' counters and histograms, and whose they are."""

    lives: set[str] = msgspec.field(default_factory=set)
    groups: list[_Group] = msgspec.field(default_factory=list)


class _File:
    """What one worker counted: its families, and its samples."""

    def __init__(self, content: bytes, *, alive: bool) -> None:
        self.alive = alive
        self.families: dict[str, Family] = {}
        self.samples: list[Sample] = []
        for entry in read_entries(content):
            if isinstance(entry, Family):
                self.families[entry.name] = entry
            elif entry.family in self.families:
                self.samples.append(entry)
        if not alive and self.on_its_way:
            self.families[INTERRUPTED.name] = INTERRUPTED
            self.samples.append(Sample(INTERRUPTED.name, (), (1.0,)))

    @property
    def on_its_way(self) -> int:
        """How many records were observed, and nothing more was counted of them: none or one.

        Any other difference is a fault of the books, and left to show.
        """
        observed = sum(sample.values[0] for sample in self.samples if sample.family == OBSERVED.name)
        accounted = sum(sample.values[0] for sample in self.samples if sample.family in _ACCOUNTED)
        return int(observed - accounted == 1)


class _Sums:
    """Sums of counters and histograms, kept apart by how they were counted.

    So nothing is lost when the buckets of a service's histograms change and change back.
    """

    def __init__(self, groups: Iterable[_Group]) -> None:
        self._samples: dict[tuple[str, tuple[str, ...], tuple[float, ...]], dict[tuple[str, ...], list[float]]] = {}
        self._families: dict[tuple[str, tuple[str, ...], tuple[float, ...]], Family] = {}
        for group in groups:
            self._of(group.family).update((labels, list(values)) for labels, values in group.samples)

    def add(self, file: _File) -> None:
        """Add what a worker counted."""
        for sample in file.samples:
            family = file.families[sample.family]
            if family.kind is MetricType.GAUGE or len(sample.values) != family.width:
                continue
            known = self._of(family)
            before = known.get(sample.labels)
            values = sample.values if before is None else map(sum, zip(before, sample.values, strict=True))
            known[sample.labels] = list(values)

    def groups(self) -> list[_Group]:
        """The sums, as they are kept."""
        return [_Group(self._families[key], list(samples.items())) for key, samples in self._samples.items()]

    def _of(self, family: Family) -> dict[tuple[str, ...], list[float]]:
        key = (family.name, family.labels, family.buckets)
        self._families[key] = family
        return self._samples.setdefault(key, {})


def collect(folder: Path) -> Totals:
    """Sum the numbers of all workers that ever counted here, and the relay's.

    Counters and histograms of dead workers stay in the sum for good; their gauges are left out.

    Args:
        folder: ``<data>/metrics``.
    """
    # The files first, what is folded after: a life that is folded in between is then in both and skipped here,
    # the other way round it could be in neither, and a counter would go back.
    read = [(path.stem, _read(path)) for path in _files(folder)]
    relay = [_read(path) for path in sorted(folder.glob(f"*{RELAY_SUFFIX}"))]
    folded = _read_folded(folder)
    files = [file for life, file in read if life not in folded.lives]
    totals = Totals()
    for group in folded.groups:
        totals.families[group.family.name] = group.family
    for file in [*files, *relay]:  # the latest comes last, as lives are named by their time
        totals.families.update(file.families)
    _bound_by_all(totals, [file for file in files if file.alive] or files)
    for group in folded.groups:
        for labels, values in group.samples:
            _add(totals, group.family, labels, values)
    for file in [*files, *relay]:
        for sample in file.samples:
            family = file.families[sample.family]
            if family.kind is MetricType.GAUGE and not file.alive:
                continue
            _add(totals, family, sample.labels, sample.values)
            if sample.exemplars and family.buckets == totals.families[family.name].buckets:
                _add_exemplars(totals, sample)
    _add_timed(totals)
    return totals


def on_their_way(folder: Path) -> int:
    """How many records the living workers have observed and are at this moment writing: at most one each."""
    return sum(file.on_its_way for file in map(_read, _files(folder)) if file.alive)


def fold(folder: Path) -> int:
    """Fold the files of dead workers into one; called by the relay, the only one who does.

    Returns:
        How many files went.
    """
    folded = _read_folded(folder)
    sums = _Sums(folded.groups)
    dead: list[Path] = []
    for path in _files(folder):
        file = _read(path)
        if file.alive:
            continue
        dead.append(path)
        if path.stem not in folded.lives:
            sums.add(file)
    if not dead:
        return 0
    # Remembered for a while after their files are gone, for a scrape that opened one before.
    lives = {*sorted(folded.lives)[-REMEMBERED_LIVES:], *(path.stem for path in dead)}
    folded = _Folded(lives, sums.groups())
    target = folder / FOLDED_NAME
    draft = target.with_suffix(".new")
    draft.write_bytes(msgspec.msgpack.encode(folded))
    draft.replace(target)
    for path in dead:
        path.unlink(missing_ok=True)
    return len(dead)


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob(f"*{FILE_SUFFIX}"))


def _add(totals: Totals, family: Family, labels: tuple[str, ...], values: Sequence[float]) -> None:
    latest = totals.families[family.name]
    # What another release counted under other labels can't be shown under these.
    if family.labels != latest.labels or family.kind is not latest.kind or len(values) != family.width:
        return
    if family.buckets != latest.buckets:
        values = rebucketed(values, family.buckets, latest.buckets)
    known = totals.get((family.name, labels))
    if known is None:
        totals[family.name, labels] = list(values)
    elif latest.across is Across.MIN:
        known[0] = min(known[0], values[0])
    elif latest.across is Across.MAX:
        known[0] = max(known[0], values[0])
    else:
        for index, value in enumerate(values):
            if value:
                known[index] += value


def _bound_by_all(totals: Totals, files: Iterable[_File]) -> None:
    """Give histograms the bounds that any of these files asks for, as services may be side by side."""
    asked: dict[str, set[float]] = {}
    for file in files:
        for family in file.families.values():
            asked.setdefault(family.name, set()).update(family.asked)
    for name, bounds in asked.items():
        if bounds:
            totals.families[name] = totals.families[name].bounded_by(tuple(sorted(bounds)))


def _add_exemplars(totals: Totals, sample: Sample) -> None:
    latest = totals.exemplars.setdefault((sample.family, sample.labels), {})
    for index, exemplar in sample.exemplars.items():
        if index not in latest or latest[index].time < exemplar.time:
            latest[index] = exemplar


def _add_timed(totals: Totals) -> None:
    """Count durations by the bounds that are asked for.

    What is within a bound and what is not begin together, as a bucket of a new bound and its histogram's count do not.
    """
    family = totals.families.get(DURATION.name)
    if family is None or not family.asked:
        return
    totals.families[TIMED.name] = TIMED
    counted = [(labels, values) for (name, labels), values in totals.items() if name == family.name]
    for labels, values in counted:
        for bound in family.asked:
            within = sum(values[: bisect_right(family.buckets, bound)])
            totals[TIMED.name, (*labels, f"{bound:.12g}", "yes")] = [within]
            totals[TIMED.name, (*labels, f"{bound:.12g}", "no")] = [sum(values[:-1]) - within]


def _read(path: Path) -> _File:
    """What stands in a file, and whether the process that writes it lives."""
    content, alive = _read_bytes(path)
    return _File(content, alive=alive)


def _read_bytes(path: Path) -> tuple[bytes, bool]:
    try:
        fd = os.open(path, os.O_RDONLY)
    except FileNotFoundError:
        return b"", False
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            alive = False
        except BlockingIOError:
            alive = True
        size = os.fstat(fd).st_size
        head = os.pread(fd, HEAD_SIZE, 0)
        # Most of a file is room that is not used yet.
        used = HEAD.unpack_from(head)[1] if len(head) == HEAD_SIZE else size
        return os.pread(fd, min(used, size), 0), alive
    finally:
        os.close(fd)


def _read_folded(folder: Path) -> _Folded:
    path = folder / FOLDED_NAME
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=_Folded)
    except FileNotFoundError:
        return _Folded()
    except msgspec.DecodeError:
        # Kept for whoever wants to look; without it the numbers of dead workers are lost, those of the living are not.
        path.replace(path.with_suffix(".damaged"))
        logger.exception("%s is damaged and was put aside; counters of former workers start again.", path)
        return _Folded()
