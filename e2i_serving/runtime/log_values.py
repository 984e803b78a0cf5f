"""What stands inside a field of a log line: plain data, so that it can be redacted before anything renders it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec

MOST_VALUES: Final = 10_000
MOST_CHARACTERS: Final = 128 * 1024
DEEPEST: Final = 16
"""Bounds of one field."""
CUT: Final = "<cut>"
"""Stands for what is beyond them."""


def plain_field(value: Any, clean: Callable[[str], str]) -> Any:
    """A field's value as JSON would have it, each text and name in it cleaned. Never raises.

    What JSON has no form for is its ``repr``.

    Args:
        value: The value; it is not changed.
        clean: Gives a text without what must not be kept.
    """
    kind = type(value)
    if value is None or kind is int or kind is float or kind is bool:
        return value
    return _Field(clean).plain(value)


class _Field:
    def __init__(self, clean: Callable[[str], str]) -> None:
        self._clean = clean
        self._values = MOST_VALUES - 1  # the last one says that there were more
        self._characters = MOST_CHARACTERS

    def plain(self, value: Any, depth: int = 0) -> Any:
        try:
            return self._plain(value, depth)
        except Exception:  # noqa: BLE001  # promise 4: an object may do anything when it is looked at
            return f"<{type(value).__qualname__}>"

    def _plain(self, value: Any, depth: int) -> Any:  # noqa: PLR0911  # one return a kind of value
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, str):
            return self._text(value)
        if isinstance(value, int):
            return int(value)
        if isinstance(value, float):
            return float(value)
        if depth >= DEEPEST:
            return CUT
        if isinstance(value, dict):
            return self._object(value, depth)
        if isinstance(value, list | tuple | set | frozenset):
            return self._list(value, depth)
        return self.plain(msgspec.to_builtins(value, enc_hook=repr, str_keys=True), depth + 1)

    def _object(self, value: dict[Any, Any], depth: int) -> dict[str, Any]:
        kept: dict[str, Any] = {}
        numbers: dict[str, int] = {}
        for key, inner in value.items():
            if not self._takes():
                kept[CUT] = CUT
                break
            known_as = name = self._text(key if isinstance(key, str) else str(key))
            while known_as in kept:  # those that are masked are alike
                numbers[name] = numbers.get(name, 1) + 1
                known_as = f"{name} {numbers[name]}"
            kept[known_as] = self.plain(inner, depth + 1)
        return kept

    def _list(self, values: Iterable[Any], depth: int) -> list[Any]:
        kept: list[Any] = []
        for inner in values:
            if not self._takes():
                kept.append(CUT)
                break
            kept.append(self.plain(inner, depth + 1))
        return kept

    def _takes(self) -> bool:
        self._values -= 1
        return self._values >= 0 and self._characters >= 0

    def _text(self, text: str) -> str:
        self._characters -= len(text)
        return self._clean(str.__str__(text)) if self._characters >= 0 else CUT
