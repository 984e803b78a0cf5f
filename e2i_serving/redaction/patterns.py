"""What is looked for in free text: well-known kinds of personal data, and regular expressions of the user."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from e2i_serving.exceptions import ConfigurationError
from e2i_serving.redaction.actions import MASK, Findings, Hasher
from e2i_serving.redaction.expressions import compile_expression

LONGEST_TEXT: Final = 4096
"""Characters of the longest string that is searched; of a longer one, size and hash are kept."""

_SHORTEST: Final = 4
_IBAN_LENGTHS: Final = {
    text[at : at + 2]: length
    for length, text in {
        15: "NO", 16: "BE", 18: "DKFIFKFOGLNLSD", 19: "MKSI", 20: "ATBAEEKZLTLUMNXK", 21: "CHHRLILV",
        22: "BGBHCRDEGBGEIEMERSVA", 23: "AEGIILIQOMSOTL", 24: "ADCZESMDPKROSASESKTNVG", 25: "LYPTST", 26: "ISTR",
        27: "BIDJFRGRITMCMRSM", 28: "ALAZBYCYDOGTHULBNIPLSV", 29: "BREGPSQAUA", 30: "JOKWMUYE", 31: "MTSC", 32: "LC",
        33: "RU",
    }.items()
    for at in range(0, len(text), 2)
}  # fmt: skip
"""Characters of an account number, by country."""
_CARD_LENGTHS: Final = range(13, 20)

# None of them can take long, whatever the text: what repeats without a bound is possessive and begins only where
# nothing before it could have been a part of it.
_EMAIL: Final = re.compile(r"(?<![\w.+%'-])[\w.+%'-]++@[\w-]++(?:\.[\w-]++)++")
_IPV4: Final = re.compile(r"(?<![\w.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?!\w|\.\d)")
_IBAN: Final = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}\d{2}(?:[ \u00a0-]?[A-Za-z0-9]){11,29}+")
_CARD: Final = re.compile(
    r"(?<!\d)(?:\d{13,19}|\d{4}([ .\u00a0-])\d{4}\1\d{4}\1\d{1,4}(?:\1\d{1,3})?|\d{4}([ .\u00a0-])\d{6}\2\d{4,5})(?!\d)"
)
_PHONE: Final = re.compile(
    r"(?<![\w+])(?:\+|00)[1-9](?:[ ().\u00a0/-]{0,2}\d){6,14}(?![\w])"  # international
    r"|(?<![\w+.-])\(?0[1-9]\d{0,3}\)?(?:[ .\u00a0/-]{0,2}\d){5,11}(?![\w-])"  # national, with the leading zero
    r"|(?<![\w.-])\(?[2-9]\d{2}\)?[ .\u00a0-]{1,2}\d{3}[ .\u00a0-]\d{4}(?![\w-])"  # North American, in groups
)
_DIGIT: Final = re.compile(r"\d")

Search = Callable[[str], str]
"""Gives the text with what was found masked; the same object when nothing was."""


def _plainly(expression: re.Pattern[str]) -> Search:
    def search(text: str) -> str:
        return expression.sub(MASK, text)

    return search


def _checked(expression: re.Pattern[str], length_of: Callable[[str], int]) -> Search:
    """Masks what matches as far as a checksum holds; what does not hold may yet hold from the next character on."""

    def search(text: str) -> str:
        pieces: list[str] = []
        kept = at = 0
        while (found := expression.search(text, at)) is not None:
            length = length_of(found[0])
            if length:
                pieces += (text[kept : found.start()], MASK)
                kept = at = found.start() + length
            else:
                at = found.start() + 1
        return "".join((*pieces, text[kept:])) if pieces else text

    return search


def _card_length(text: str) -> int:
    """How much of the text is a card's number: another number may follow it."""
    groups = [
        len(text),
        *(place for place in (len(text) - 2, len(text) - 3, len(text) - 4) if not text[place].isdecimal()),
    ]
    for end in groups:
        digits = [int(letter) for letter in text[:end] if letter.isdecimal()]
        doubled = (digit * 2 - 9 if digit > 4 else digit * 2 for digit in digits[-2::-2])  # noqa: PLR2004  # Luhn's
        if len(digits) in _CARD_LENGTHS and (sum(doubled) + sum(digits[::-2])) % 10 == 0:
            return end
    return 0


def _iban_length(text: str) -> int:
    """How much of the text is an account number: words may follow it, in groups that look like its own."""
    places = [place for place, letter in enumerate(text) if letter.isalnum()]
    length = _IBAN_LENGTHS.get(text[:2].upper(), 0)
    if not length or len(places) < length:
        return 0
    letters = [text[place].upper() for place in places[:length]]
    number = int("".join(str(int(letter, 36)) for letter in letters[4:] + letters[:4]))
    return places[length - 1] + 1 if number % 97 == 1 else 0


_NAMED: Final[dict[str, tuple[Search, Callable[[str], Any]]]] = {
    "email": (_plainly(_EMAIL), re.compile("@").search),
    "iban": (_checked(_IBAN, _iban_length), _DIGIT.search),
    "credit-card": (_checked(_CARD, _card_length), _DIGIT.search),
    "ipv4": (_plainly(_IPV4), re.compile(r"\d\.\d").search),
    "phone": (_plainly(_PHONE), _DIGIT.search),
}
"""By name: what masks, and what says quickly that there is nothing to. In the order in which they run, for a
phone number may look like the middle of an account's."""


class Patterns:
    """All patterns of the settings. Any thread may use it.

    Args:
        wanted: Names of kinds of data, and regular expressions.
        hasher: What long strings are hashed with, if there is a key.

    Raises:
        ConfigurationError: A regular expression is wrong, or might take long.
    """

    def __init__(self, wanted: Sequence[str], hasher: Hasher | None) -> None:
        self._hasher = hasher
        self._named = [(f"pattern:{name}", *_NAMED[name]) for name in _NAMED if name in wanted]
        self._own = [
            (f"pattern:{place}", _plainly(_expression(text)))
            for place, text in enumerate(wanted, start=1)
            if text not in _NAMED
        ]

    def text(self, text: str, findings: Findings) -> str:
        """The text with what was found masked; of a long one, its size and hash."""
        if len(text) > LONGEST_TEXT or not findings.may_read(len(text)):
            size, digest = self._summary(text, findings)
            return f"<{size} bytes, {digest}>" if digest else f"<{size} bytes>"
        return self._masked(text, findings)

    def value(self, text: str, findings: Findings) -> Any:
        """As ``text``; of a long one, an object with its size and hash."""
        if len(text) > LONGEST_TEXT or not findings.may_read(len(text)):
            size, digest = self._summary(text, findings)
            return {"bytes": size, "hmac": digest} if digest else {"bytes": size}
        return self._masked(text, findings)

    def _masked(self, text: str, findings: Findings) -> str:
        if len(text) < _SHORTEST and not self._own:
            return text
        for name, search, could_be in self._named:
            if could_be(text) and (masked := search(text)) != text:
                findings.found(name)
                text = masked
        for name, search in self._own:
            if (masked := search(text)) != text:
                findings.found(name)
                text = masked
        return text

    def _summary(self, text: str, findings: Findings) -> tuple[int, str]:
        findings.found("long-text")
        return len(text.encode("utf-8", "surrogatepass")), self._hasher(text) if self._hasher else ""


def _expression(text: str) -> re.Pattern[str]:
    try:
        return compile_expression(text)
    except ConfigurationError as error:
        names = ", ".join(_NAMED)
        raise ConfigurationError(f"redaction_patterns: {error} Besides expressions there are: {names}.") from error
