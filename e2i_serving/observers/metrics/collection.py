"""One set of numbers out of many workers' files, the living and the dead."""

from __future__ import annotations

import fcntl
import logging
import os
from pathlib import Path

import msgspec

from e2i_serving.observers.metrics.families import FAMILIES, MetricType
from e2i_serving.observers.metrics.series import FILE_SUFFIX, read_series

logger = logging.getLogger("e2i_serving")

FOLDED_NAME = "folded.msgpack"
REMEMBERED_LIVES = 1000

Totals = dict[tuple[str, tuple[str, ...]], list[float]]
"""Numbers by (family, label values)."""

_KIND = {family.name: family.kind for family in FAMILIES}


class _Folded(msgspec.Struct):
    """The sum of dead workers' counters and histograms, and whose they are."""

    lives: set[str] = msgspec.field(default_factory=set)
    samples: list[tuple[str, tuple[str, ...], list[float]]] = msgspec.field(default_factory=list)


def collect(folder: Path) -> Totals:
    """Sum the numbers of all workers that ever counted here.

    Counters and histograms of dead workers stay in the sum for good; their gauges are left out.

    Args:
        folder: ``<data>/metrics``.
    """
    # The files first, what is folded after: a life that is folded in between is then in both and skipped here,
    # the other way round it could be in neither, and a counter would go back.
    contents = [(path.stem, *_read(path)) for path in sorted(folder.glob(f"*{FILE_SUFFIX}"))]
    folded = _read_folded(folder)
    totals: Totals = {(family, labels): list(values) for family, labels, values in folded.samples}
    for life, content, alive in contents:
        if life not in folded.lives:
            _add(totals, content, gauges=alive)
    return totals


def fold(folder: Path) -> int:
    """Fold the files of dead workers into one; called by the relay, the only one who does.

    Returns:
        How many files went.
    """
    folded = _read_folded(folder)
    totals: Totals = {(family, labels): list(values) for family, labels, values in folded.samples}
    dead: list[Path] = []
    for path in sorted(folder.glob(f"*{FILE_SUFFIX}")):
        content, alive = _read(path)
        if alive:
            continue
        dead.append(path)
        if path.stem not in folded.lives:
            _add(totals, content, gauges=False)
    if not dead:
        return 0
    # Remembered for a while after their files are gone, for a scrape that opened one before.
    lives = {*sorted(folded.lives)[-REMEMBERED_LIVES:], *(path.stem for path in dead)}
    folded = _Folded(lives, [(family, labels, values) for (family, labels), values in totals.items()])
    target = folder / FOLDED_NAME
    draft = target.with_suffix(".new")
    draft.write_bytes(msgspec.msgpack.encode(folded))
    draft.replace(target)
    for path in dead:
        path.unlink(missing_ok=True)
    return len(dead)


def _add(totals: Totals, content: bytes, *, gauges: bool) -> None:
    for family, labels, values in read_series(content):
        if _KIND.get(family) is MetricType.GAUGE and not gauges:
            continue
        known = totals.get((family, labels))
        if known is None or len(known) != len(values):
            totals[family, labels] = list(values)
        else:
            for index, value in enumerate(values):
                known[index] += value


def _read(path: Path) -> tuple[bytes, bool]:
    """A file's content, and whether the worker that writes it lives."""
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
        return os.pread(fd, os.fstat(fd).st_size, 0), alive
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
