"""What became of the records that should be journaled, counted so that the sum must come out.

For every life: observed = accepted + sampled out + unjournaled, but for the one record that is on its way, and that
stays on its way for ever when its worker is killed over it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from e2i_serving.observers.metrics import families
from e2i_serving.observers.metrics.collection import Totals, collect, on_their_way
from e2i_serving.observers.metrics.families import Family
from e2i_serving.observers.metrics.series import Series, SeriesFile

_TRIES = 20
_PAUSE_SECONDS = 0.01


class AuditCounters:
    """A worker's counts of its records. Called on the event loop only.

    Args:
        file: Where the numbers stand.
    """

    def __init__(self, file: SeriesFile) -> None:
        self._file = file
        self._observed = file.series(families.OBSERVED)
        self._accepted = file.series(families.ACCEPTED)
        self._sampled_out = file.series(families.SAMPLED_OUT)
        self._unjournaled: dict[str, Series] = {}

    def observed(self) -> None:
        """Count a record, before anything is done with it."""
        self._observed.add()

    def accepted(self) -> None:
        """Count that it is in the journal."""
        self._accepted.add()

    def sampled_out(self) -> None:
        """Count that sampling left it out."""
        self._sampled_out.add()

    def unjournaled(self, reason: str) -> None:
        """Count that it could not be journaled."""
        series = self._unjournaled.get(reason)
        if series is None:
            series = self._unjournaled[reason] = self._file.series(families.UNJOURNALED, reason)
        series.add()


class ObservationBooks(NamedTuple):
    """What became of all records that were ever to be journaled here.

    Attributes:
        observed: Prediction requests that should be on record.
        accepted: Of these, written to the journal.
        sampled_out: Of these, left out by sampling.
        unjournaled: Of these, not written, by reason.
        interrupted: Of these, those that a worker was killed over.
        in_progress: Of these, those that a worker is at this moment writing.
    """

    observed: int
    accepted: int
    sampled_out: int
    unjournaled: Mapping[str, int]
    interrupted: int
    in_progress: int

    @property
    def balanced(self) -> bool:
        """Whether all that was observed is accounted for."""
        accounted = self.accepted + self.sampled_out + sum(self.unjournaled.values())
        return self.observed == accounted + self.interrupted + self.in_progress


def observation_books(folder: Path) -> ObservationBooks:
    """Read the counts of all workers that ever served here, whether or not they run.

    Args:
        folder: ``<data>/metrics``.

    Returns:
        The books; what is in progress of workers that are alive is at most one each.
    """
    books = _read(folder)
    for _ in range(_TRIES):
        # A worker at work counts on while its numbers are read; an imbalance that lasts is one.
        if books.balanced:
            break
        time.sleep(_PAUSE_SECONDS)
        books = _read(folder)
    return books


def _read(folder: Path) -> ObservationBooks:
    in_progress = on_their_way(folder)
    totals = collect(folder)
    unjournaled = {
        labels[0]: round(values[0])
        for (family, labels), values in totals.items()
        if family == families.UNJOURNALED.name and labels
    }
    return ObservationBooks(
        _sum(totals, families.OBSERVED),
        _sum(totals, families.ACCEPTED),
        _sum(totals, families.SAMPLED_OUT),
        unjournaled,
        _sum(totals, families.INTERRUPTED),
        in_progress,
    )


def _sum(totals: Totals, family: Family) -> int:
    return round(totals.get((family.name, ()), [0.0])[0])
