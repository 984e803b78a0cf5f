"""Redaction of columns: an array stays an array as long as all that is left in it are numbers."""

from __future__ import annotations

import logging
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from e2i_serving.record import Column, Constant, Matrix, Values
from e2i_serving.record.kept import PLAIN_TYPES, as_kept
from e2i_serving.redaction.actions import Findings
from e2i_serving.redaction.paths import State
from e2i_serving.redaction.values import ALLOW_LIST, ValueRedactor

logger = logging.getLogger("e2i_serving")

UNNAMED: Final = "unnamed-parts"
"""The name under which a record says that a column was left out, as nobody knows which of its parts a rule means."""

_EXACT: Final = 2**53
_PLANS: Final = 256
_UNHEARD_OF: Final = "\0"
"""A name that no path spells out: what ends there ends at ``*`` or ``**``."""


class Place(NamedTuple):
    """Where in the paths a column stands.

    Attributes:
        state: Where the paths of rules have come to.
        allowed: Where the paths of the allow-list have come to; ``None`` if there is no such list.
        names: Names of the parts of each item, where the column has none of its own.
        unplaced: Names in rules that are no other column, so that they must be parts of this one.
    """

    state: State
    allowed: State | None = None
    names: tuple[str, ...] = ()
    unplaced: frozenset[str] = frozenset()


class _Plan(NamedTuple):
    """What is done to the named parts of an array: where each stands, what paths say; ``None`` if not allowed."""

    parts: tuple[tuple[int, State | None], ...]
    forbids: bool
    """Whether none of the parts is allowed."""


class ColumnRedactor:
    """Applies what paths say to the columns of a record.

    Args:
        values: Does it to plain values.
    """

    def __init__(self, values: ValueRedactor) -> None:
        self._values = values
        self._plans: dict[tuple[State, State | None, tuple[str, ...]], _Plan] = {}
        self._warned = False

    def redacted(self, column: Column, place: Place, findings: Findings) -> Column:
        """What is left of a column, of the same length; the column itself is not changed."""
        rule = place.state.rule
        if rule is not None and rule.action == "drop":
            self._values.note(place.state, findings)
            return _nothing(column)
        if isinstance(column, Matrix):
            if column.shape:
                return self._matrix(column, place, findings)
            column = Constant(column.array().tolist())
        if not (place.state.alive or place.allowed is not None or self._values.searches):
            return column
        if isinstance(column, Constant):
            return Constant(self._value(column.value, place, findings))
        return Values([self._value(value, place, findings) for value in column.values])

    def _value(self, value: Any, place: Place, findings: Findings) -> Any:
        state, allowed, names, unplaced = place
        if type(value) not in PLAIN_TYPES:
            value = as_kept(value)
        if type(value) in (list, tuple) and state.rule is None and (names or unplaced):
            if len(value) == len(names) == len(set(names)):
                value = dict(zip(names, value, strict=True))
            elif unplaced:
                return self._unnamed(unplaced, findings)
        if allowed is not None:
            value = self._values.allowed(value, allowed, findings)
        return self._values.redacted(value, state, findings)

    def _matrix(self, column: Matrix, place: Place, findings: Findings) -> Column:
        state, allowed = place.state, place.allowed
        names = column.names or place.names
        if len(column.shape) == 1 or column.shape[1] != len(names):
            if place.unplaced and state.rule is None:
                self._unnamed(place.unplaced, findings)
                return _nothing(column)
            names = ()
            state = state if state.rule is not None else state.step(_UNHEARD_OF)
            allowed = allowed if allowed is None or allowed.rule is not None else allowed.step(_UNHEARD_OF)
        if allowed is not None and allowed.rule is not None:
            allowed = None
        rule = state.rule
        if rule is not None and rule.action != "round":
            self._values.note(state, findings)
            if rule.action == "drop":
                return _nothing(column)
            return Values([self._values.replaced(value, rule) for value in column.array().tolist()])
        plan = self._plan(state, allowed, names)
        if plan.forbids:
            findings.found(ALLOW_LIST)
            return _nothing(column)
        if rule is None and not plan.parts:
            return column
        return self._numbers(column, state, plan, findings) or self._listed(column, state, plan, names, findings)

    def _plan(self, state: State, allowed: State | None, names: tuple[str, ...]) -> _Plan:
        known = self._plans.get((state, allowed, names))
        if known is None:
            permitted = [allowed is None or allowed.step(name).rule is not None for name in names]
            parts = [
                (index, state.step(name) if permitted[index] else None)
                for index, name in enumerate(names)
                if not permitted[index] or state.step(name).rule is not None
            ]
            known = _Plan(tuple(parts), allowed is not None and not any(permitted))
            if len(self._plans) < _PLANS:
                self._plans[state, allowed, names] = known
        return known

    def _numbers(self, column: Matrix, state: State, plan: _Plan, findings: Findings) -> Matrix | None:
        """The array with numbers dropped and rounded; ``None`` when that can't be done in an array."""
        source = column.array()
        drops: list[int] = []
        rounds: list[tuple[Any, int]] = []
        if state.rule is not None:
            rounds.append((slice(None), state.rule.digits))
        for index, part in plan.parts:
            action = part.rule.action if part is not None and part.rule is not None else "drop"
            if action == "drop":
                drops.append(index)
            elif action == "round" and part is not None and part.rule is not None:
                rounds.append(((slice(None), index), part.rule.digits))
            else:
                return None
        if source.dtype.kind in "iu" and (
            any(digits < 0 for _, digits in rounds) or (drops and not _fits_floats(source))
        ):
            return None
        array = source.astype(np.float64) if drops and source.dtype.kind != "f" else source.copy()
        for where, digits in rounds:
            array[where] = _rounded(array[where], digits)
        if drops:
            array[:, drops] = np.nan
        self._note(state, plan, findings)
        return Matrix.of(array, column.names)

    def _listed(self, column: Matrix, state: State, plan: _Plan, names: tuple[str, ...], findings: Findings) -> Values:
        rows: list[Any] = column.array().tolist()
        if state.rule is not None:
            rows = [self._values.redacted(row, state, findings) for row in rows]
        for index, part in plan.parts:
            for row in rows:
                row[index] = None if part is None else self._values.redacted(row[index], part, findings)
        self._note(state, plan, findings)
        if names and len(set(names)) == len(names):  # a name that stands twice would hide a value
            return Values([dict(zip(names, row, strict=True)) for row in rows])
        return Values(rows)

    def _note(self, state: State, plan: _Plan, findings: Findings) -> None:
        self._values.note(state, findings)
        for _, part in plan.parts:
            if part is None:
                findings.found(ALLOW_LIST)
            else:
                self._values.note(part, findings)

    def _unnamed(self, unplaced: frozenset[str], findings: Findings) -> None:
        findings.add(UNNAMED)
        if not self._warned:
            self._warned = True
            logger.warning(
                "Rules name the inputs %s, and the features have no names to find them by, so no features are kept. "
                "Save the model with its feature names, or write a rule for `inputs.features`.",
                ", ".join(sorted(unplaced)),
            )


def _nothing(column: Column) -> Column:
    if isinstance(column, Values):
        return Values([None] * len(column.values))
    return Values([None] * column.shape[0]) if isinstance(column, Matrix) and column.shape else Constant(None)


def _fits_floats(array: NDArray[Any]) -> bool:
    """Whether whole numbers stay exact as floats."""
    return array.itemsize < 8 or not array.size or bool(array.max() <= _EXACT and array.min() >= -_EXACT)  # noqa: PLR2004  # bytes


def _rounded(array: NDArray[Any], digits: int) -> NDArray[Any]:
    if array.dtype.kind != "f":
        return array
    wide = array.astype(np.float64)
    with np.errstate(all="ignore"):
        rounded = np.round(wide, digits)
    # Where scaling overflows, the number is too large to have such decimals.
    return np.where(np.isfinite(rounded) | ~np.isfinite(wide), rounded, wide).astype(array.dtype)
