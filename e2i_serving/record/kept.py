"""What becomes of a value that is not plain where it is kept, so that all who look at it see the same."""

from __future__ import annotations

from typing import Any, Final

import msgspec
import numpy as np

PLAIN_TYPES: Final = frozenset({type(None), bool, int, float, str, list, tuple, dict})
"""The types of plain values; those derived from them are not among them."""


def as_kept(value: Any) -> Any:
    """A value of any type as the journal's encoder writes it; never raises.

    Returns:
        A value of one of ``PLAIN_TYPES``, and so all that is in it; the keys of objects are left as they are.
    """
    try:
        return msgspec.to_builtins(value, enc_hook=stand_in)
    except Exception:  # noqa: BLE001  # whatever a user's object does when it is looked at
        return _described(value)


def whole_text(text: str) -> str:
    r"""A text that can be encoded: half a character, as in a file's name that is no UTF-8, stands as ``\udc..``."""
    return text if text.isascii() else text.encode("utf-8", "backslashreplace").decode()


def with_whole_texts(value: Any) -> Any:
    """A value or a body as an encoder takes it, every text in it whole; all else is written as it would be.

    Raises:
        TypeError: It has no plain form.
        RecursionError: It holds itself.
    """
    return _whole(msgspec.to_builtins(value, builtin_types=(bytes,), enc_hook=stand_in))


def stand_in(value: object) -> object:
    """What is written in place of a value that no encoder knows: it costs its own content, never the record."""
    if isinstance(value, np.generic):
        plain = value.item()
        if not isinstance(plain, np.generic):
            return plain
    return _described(value)


def _whole(value: Any) -> Any:
    if isinstance(value, str):
        return whole_text(value)
    if isinstance(value, dict):
        return {_whole(key): _whole(inner) for key, inner in value.items()}
    return [_whole(inner) for inner in value] if isinstance(value, list | tuple) else value


def _described(value: object) -> str:
    return f"<{type(value).__module__}.{type(value).__qualname__}>"
