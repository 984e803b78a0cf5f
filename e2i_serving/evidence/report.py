"""What a verification found."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Final

from e2i_serving.evidence.commitments import Place

MOST_PROBLEMS: Final = 100
"""How many problems are kept; the others are counted."""


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that is not as it was written.

    Attributes:
        what: What is wrong, as a sentence.
        life: The life it was found in; empty for the log itself.
        sequence: Where in its chain.
        prediction_id: The prediction, where there is one.
    """

    what: str
    life: str = ""
    sequence: int = 0
    prediction_id: str = ""


@dataclass(slots=True)
class Report:
    """What a verification found, of a part of the trail or of all of it.

    Attributes:
        problems: What is wrong, in the order of the trail; at most ``MOST_PROBLEMS``.
        found: How many problems there are.
        rows: How many rows were verified, by table.
        gaps: How many frames have no row, by reason.
        erased: How many rows had something erased from them.
        purged: How many rows were purged.
        unanchored: Rows behind the last checkpoint of their life: they are in order, but nothing signed says so yet.
        unchained: Rows that a release without chains stored: nothing is proved of them.
        unproved: Rows that were stored again after they had been refused, in another form: likewise.
        purges: Where each purge left gaps, by its id.
        chains: How many chains there are.
        keys: How many entries of the log each key signed.
        checkpoint_ns: Time of the newest checkpoint.
    """

    problems: list[Problem] = field(default_factory=list)
    found: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    gaps: Counter[str] = field(default_factory=Counter)
    erased: int = 0
    purged: int = 0
    unanchored: int = 0
    unchained: int = 0
    unproved: int = 0
    purges: dict[str, list[Place]] = field(default_factory=dict)
    chains: int = 0
    keys: Counter[str] = field(default_factory=Counter)
    checkpoint_ns: int = 0

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.found

    @property
    def first(self) -> Problem | None:
        """The first thing that is wrong."""
        return self.problems[0] if self.problems else None

    def note(self, problem: Problem) -> None:
        """Add a problem."""
        self.found += 1
        self.problems.append(problem)
        if len(self.problems) > 2 * MOST_PROBLEMS:
            self.trim()

    def trim(self) -> None:
        """Keep the first problems, in order."""
        # SQLite keeps anything in any column, so not even an id is sure to be a text.
        self.problems.sort(key=lambda each: (str(each.life), int(each.sequence), str(each.prediction_id)))
        del self.problems[MOST_PROBLEMS:]

    def add(self, other: Report) -> None:
        """Add what was found in another part of the trail."""
        self.problems += other.problems
        self.found += other.found
        self.rows.update(other.rows)
        self.gaps.update(other.gaps)
        for removal, places in other.purges.items():
            self.purges.setdefault(removal, []).extend(places)
        for name in ("erased", "purged", "unanchored", "unchained", "unproved"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.trim()
