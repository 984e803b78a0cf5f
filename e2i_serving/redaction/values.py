"""Redaction of values: strings, numbers, and lists and objects of them at any depth, or what is kept as such."""

from __future__ import annotations

from typing import Any, Final

from e2i_serving.record.kept import PLAIN_TYPES, as_kept
from e2i_serving.redaction.actions import Findings, Hasher, replaced, rounded
from e2i_serving.redaction.paths import Rule, State
from e2i_serving.redaction.patterns import Patterns

ALLOW_LIST: Final = "allow-list"
"""The name under which a record says that something was not allowed."""

_CLEAN_NAMES: Final = 4096
_LONGEST_CLEAN_NAME: Final = 256

MISSING: Final = object()
"""What was not allowed."""


class ValueRedactor:
    """Walks values along the paths of rules.

    What is of no plain type is taken as what would be kept of it, or a subclass or a dataclass would hide its content.

    Args:
        patterns: What is masked in strings that no rule replaces.
        hasher: The keyed hash, if there is a key.
        hits: How often each rule has matched, by its number; counted up here.
    """

    def __init__(self, patterns: Patterns | None, hasher: Hasher | None, hits: list[int]) -> None:
        self._patterns = patterns
        self._hasher = hasher
        self._hits = hits
        self._clean: set[str] = set()

    @property
    def searches(self) -> bool:
        """Whether strings are searched for patterns."""
        return self._patterns is not None

    def note(self, state: State, findings: Findings) -> None:
        """Count the rules that end here, and name the one that is applied."""
        for rule in state.matched:
            self._hits[rule.number] += 1
        if state.rule is not None:
            findings.add(state.rule.path)

    def redacted(
        self, value: Any, state: State, findings: Findings, *, rounding: Rule | None = None, texts: bool = False
    ) -> Any:
        """What is left of a value.

        Args:
            value: Any value; it is not changed.
            state: Where paths have come to.
            findings: Takes the names of what made a change.
            rounding: A rule further up that rounds all that is in it.
            texts: Whether what replaces a string must be one.
        """
        kind = type(value)
        if kind not in PLAIN_TYPES:
            value = as_kept(value)
            kind = type(value)
        rule = state.rule
        if rule is not None:
            self.note(state, findings)
            if rule.action != "round":
                return self.replaced(value, rule)
            rounding = rule
        if kind is dict:
            return self._object(value, state, findings, rounding, texts=texts)
        if kind is list or kind is tuple:
            each = state.element()
            return [self.redacted(inner, each, findings, rounding=rounding) for inner in value]
        if rounding is not None:
            return rounded(value, rounding.digits)
        if kind is not str or self._patterns is None:
            return value
        return self._patterns.text(value, findings) if texts else self._patterns.value(value, findings)

    def replaced(self, value: Any, rule: Rule) -> Any:
        """What a rule leaves of a value that it applies to as a whole."""
        return replaced(rule, value, self._hasher)

    def key(self, key: Any, taken: Any, findings: Findings) -> Any:
        """A key of an object, with what the patterns find masked, and unlike those that are taken."""
        if self._patterns is None or type(key) is not str or key in self._clean:
            return key
        masked = self._patterns.text(key, findings)
        if masked == key and len(key) <= _LONGEST_CLEAN_NAME and len(self._clean) < _CLEAN_NAMES:
            self._clean.add(key)  # names come again and again: in each row, in each request
        number, kept = 1, masked
        while kept in taken:
            number += 1
            kept = f"{masked} {number}"
        return kept

    def kept(self, value: Any, state: State, findings: Findings) -> Any:
        """What of an object an allow-list names; what it does not name is left out."""
        found = self._allowed(value, state, findings)
        return type(value)() if found is MISSING else found

    def allowed(self, value: Any, state: State, findings: Findings) -> Any:
        """What of an item's value an allow-list names; ``None`` if nothing."""
        found = self._allowed(value, state, findings)
        return None if found is MISSING else found

    def _object(
        self, value: dict[Any, Any], state: State, findings: Findings, rounding: Rule | None, *, texts: bool
    ) -> dict[Any, Any]:
        kept: dict[Any, Any] = {}
        for key, inner in value.items():
            if type(key) is not str:
                key = str.__str__(key) if isinstance(key, str) else key  # noqa: PLW2901  # what is kept of it
            at = state.step(key if type(key) is str else str(key))
            if at.rule is not None and at.rule.action == "drop":
                self.note(at, findings)
            else:
                kept[self.key(key, kept, findings)] = self.redacted(inner, at, findings, rounding=rounding, texts=texts)
        return kept

    def _allowed(self, value: Any, state: State, findings: Findings) -> Any:
        if state.rule is not None or value is None:
            return value
        if state.alive and isinstance(value, dict):
            kept = {key: self._allowed(inner, state.step(str(key)), findings) for key, inner in value.items()}
            kept = {key: inner for key, inner in kept.items() if inner is not MISSING}
            if kept:
                return kept
        elif state.alive and isinstance(value, list | tuple):
            each = [self._allowed(inner, state.element(), findings) for inner in value]
            if any(inner is not MISSING for inner in each):
                return [None if inner is MISSING else inner for inner in each]
        findings.found(ALLOW_LIST)
        return MISSING
