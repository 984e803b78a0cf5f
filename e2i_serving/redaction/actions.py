"""What a rule does to one plain value."""

from __future__ import annotations

import hmac
import math
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Final

import msgspec

from e2i_serving.redaction.paths import Rule

MASK: Final = "***"
HASH_PREFIX: Final = "hmac:"
SHORTEST_KEY: Final = 16

_HEX_DIGITS: Final = 32
_EXACT: Final = 2**53
_MOST_NAMES: Final = 32
_MOST_CHARACTERS: Final = 128 * 1024

Hasher = Callable[[Any], str]
"""Gives the keyed hash of a plain value as text."""


class Findings:
    """What was changed in one record, and how much of its text may still be searched.

    Attributes:
        root: The part of the record that is looked at.
    """

    __slots__ = ("_left", "_names", "root")

    def __init__(self, names: tuple[str, ...] = ()) -> None:
        self._names = dict.fromkeys(names)
        self._left = _MOST_CHARACTERS
        self.root = ""

    def found(self, name: str) -> None:
        """Note what has no path of its own, such as a pattern, with the part of the record where it made a change."""
        placed = f"{self.root}.{name}"
        if placed not in self._names:
            self.add(placed)

    def add(self, name: str) -> None:
        """Note what made a change; beyond a number of names, only that there were more."""
        if name not in self._names:
            self._names[name if len(self._names) < _MOST_NAMES else "..."] = None

    def may_read(self, characters: int) -> bool:
        """Whether so many more may be searched: a request's cost must not grow with what a caller sends."""
        self._left -= characters
        return self._left >= 0

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in the order found."""
        return tuple(self._names)


def keyed_hash(key: bytes) -> Hasher:
    """A function that hashes values with HMAC-SHA-256: the same value, with the same key, gives the same text."""

    def hashed(value: Any) -> str:
        digest = hmac.digest(key, canonical(value).encode("utf-8", "surrogatepass"), "sha256")
        return HASH_PREFIX + digest.hex()[:_HEX_DIGITS]

    return hashed


def canonical(value: Any) -> str:
    """The text that stands for a value: of a string itself, of a whole number its digits, else JSON in sorted order."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < _EXACT:
        value = int(value)
    return msgspec.json.encode(value, enc_hook=str, order="sorted").decode()


def replaced(rule: Rule, value: Any, hasher: Hasher | None) -> Any:
    """What a rule leaves of a value; nothing stays nothing.

    What can't be rounded is masked, and so is what ought to be hashed and can't be.
    """
    if value is None or rule.action == "drop":
        return None
    if rule.action == "round":
        return rounded(value, rule.digits)
    if rule.action == "hash" and hasher is not None:
        return None if isinstance(value, float) and math.isnan(value) else hasher(value)
    return MASK


def rounded(value: Any, digits: int) -> Any:
    """A number rounded, a text that is a number likewise; anything else masked."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, str):
        for kind in (int, float):
            with suppress(ValueError):
                return str(round(kind(value), digits))
        return MASK
    return round(value, digits) if isinstance(value, int | float) else MASK


def text_of(rule: Rule, text: str, hasher: Hasher | None) -> str:
    """What a rule leaves of a field that is always text; empty stays empty."""
    return replaced(rule, text, hasher) or "" if text else text
