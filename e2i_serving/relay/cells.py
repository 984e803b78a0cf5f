"""Cells: a value as a column of a store holds it, so that what is read back is what was hashed."""

from __future__ import annotations

from typing import Any, Final

import msgspec

_LARGEST: Final = 2**53
_encoder: Final = msgspec.json.Encoder(enc_hook=str)


def json_lines(values: list[Any]) -> list[str | None]:
    """One JSON text a value; ``None`` for what reads ``null``."""
    if len(values) == 1:
        return [json_text(values[0])]
    try:
        text = _encoder.encode_lines(values).decode()
    except (TypeError, ValueError, RecursionError):
        return [json_text(value) for value in values]
    lines: list[str | None] = text.split("\n")[:-1]  # type: ignore[assignment]  # a new list, widened at once
    if "\\u0000" in text or "null\n" in text:
        return [_stored(line) for line in lines if line is not None]
    return lines


def json_text(value: Any) -> str | None:
    """A value as JSON text; ``None`` for what reads ``null``."""
    try:
        text = _encoder.encode(value).decode()
    except (TypeError, ValueError, RecursionError):
        text = _encoder.encode(ascii(value)).decode()  # keeps what can't be JSON as the text of it
    return _stored(text) if text == "null" or "\\u0000" in text else text


def _stored(text: str) -> str | None:
    if "\\u0000" in text:  # PostgreSQL refuses the character NUL, in JSON as in text
        text = _encoder.encode(_without_nul(msgspec.json.decode(text))).decode()
    return None if text == "null" else text


def _without_nul(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace("\0", "\ufffd")
    if isinstance(value, list):
        return [_without_nul(inner) for inner in value]
    if isinstance(value, dict):
        return {_without_nul(key): _without_nul(inner) for key, inner in value.items()}
    return value


def text_cell(value: str) -> str | None:
    """A text; ``None`` for an empty one."""
    return (value.replace("\0", "\ufffd") if "\0" in value else value) if value else None


def size_cell(value: int) -> int | None:
    """A size in bytes; ``None`` for one that is not known."""
    return value if value >= 0 else None


def text_cells(values: list[Any]) -> list[str | None]:
    """Texts; other values as their JSON."""
    return [text_cell(value) if isinstance(value, str) else json_text(value) for value in values]


def number_cells(values: list[Any]) -> list[float | None] | None:
    """Numbers, with ``None`` for a missing one; ``None`` when they are not numbers."""
    numbers: list[float | None] = []
    for value in values:
        if type(value) is float:
            numbers.append(value if value == value else None)  # noqa: PLR0124  # not-a-number, and timed
        elif value is None:
            numbers.append(None)
        elif isinstance(value, int) and -_LARGEST <= value <= _LARGEST:
            numbers.append(float(value))
        else:
            return None
    return numbers


def boolean_cells(values: list[Any]) -> list[bool | None] | None:
    """Booleans; ``None`` when they are not."""
    return values if all(value is None or isinstance(value, bool) for value in values) else None
