"""Which regular expressions of a user may run on the path: those that can't take long, whatever the text."""

from __future__ import annotations

import math
import re
from functools import cache
from re import _constants as opcodes  # type: ignore[attr-defined]  # there is no public way to look into an expression
from re import _parser as parser  # type: ignore[attr-defined]  # likewise
from typing import Any, Final, NamedTuple

from e2i_serving.exceptions import ConfigurationError

LONGEST_EXPRESSION: Final = 512
WIDEST: Final = 64
"""Most times that anything may be repeated behind what the repetition could match as well."""
MOST_WAYS: Final = 256
"""Most ways in which what stands between two characters that separate may match."""

_OTHERS: Final = frozenset("\u0131\u017f\u03b1\u0663\u2028\u20ac\u4e2d\ufffd")
_ALPHABET: Final = frozenset(map(chr, range(256))) | _OTHERS
"""What characters are told apart by: all of Latin-1, and one each of other kinds for all others together."""
_CATEGORIES: Final = {
    opcodes.CATEGORY_DIGIT: r"\d",
    opcodes.CATEGORY_NOT_DIGIT: r"\D",
    opcodes.CATEGORY_SPACE: r"\s",
    opcodes.CATEGORY_NOT_SPACE: r"\S",
    opcodes.CATEGORY_WORD: r"\w",
    opcodes.CATEGORY_NOT_WORD: r"\W",
}
_REPEATS: Final = (opcodes.MAX_REPEAT, opcodes.MIN_REPEAT, opcodes.POSSESSIVE_REPEAT)
_SINGLE: Final = (opcodes.LITERAL, opcodes.NOT_LITERAL, opcodes.ANY, opcodes.IN)
_LOOKING: Final = (opcodes.ASSERT, opcodes.ASSERT_NOT)


def compile_expression(text: str) -> re.Pattern[str]:
    """Compile a regular expression that is to run on every string of a record.

    Refused is what backtracks: a repetition inside a repetition, alternatives inside one, and repetitions that are
    not told from what stands before them by a character they can't match themselves. What is left takes time in
    proportion to the length of the text.

    Raises:
        ConfigurationError: It does not compile, matches the empty text, is too long or might take long.
    """
    if len(text) > LONGEST_EXPRESSION:
        raise ConfigurationError(
            f"The pattern {text[:40]!r}... has {len(text)} characters; at most {LONGEST_EXPRESSION} are taken."
        )
    try:
        compiled = re.compile(text)
        parsed = parser.parse(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise ConfigurationError(f"The pattern {text!r} is no regular expression: {error}.") from error
    if compiled.match("") or parsed.getwidth()[0] == 0:
        raise ConfigurationError(f"The pattern {text!r} matches the empty text, so it would match everywhere.")
    _Check(text, ignores_case=bool(compiled.flags & re.IGNORECASE)).sequence(parsed, _Run(), ends=True)
    return compiled


class _Run(NamedTuple):
    """What has been passed since the last character that separates.

    Attributes:
        ways: In how many ways it can have matched one text; infinite behind a repetition without a bound.
        letters: What stands in it; empty where the expression begins.
    """

    ways: float = 1
    letters: frozenset[str] = frozenset()

    def is_told_from(self, letters: frozenset[str]) -> bool:
        """Whether what comes next can't have been matched by this."""
        return bool(self.letters) and not letters & self.letters


class _Check:
    """Walks an expression once."""

    def __init__(self, text: str, *, ignores_case: bool) -> None:
        self._text = text
        self._ignores_case = ignores_case

    def sequence(self, items: Any, run: _Run, *, ends: bool = False) -> _Run:
        """Pass one item after the other; ``ends`` if the expression ends with the last of them."""
        last = len(items) - 1
        for place, (code, argument) in enumerate(items):
            run = self._item(code, argument, run, ends and place == last)
        return run

    def _item(self, code: Any, argument: Any, run: _Run, ends: bool) -> _Run:  # noqa: FBT001  # private, by position
        if code in _SINGLE:
            letters = self._letters(code, argument)
            return _Run(1, letters) if run.is_told_from(letters) else _Run(run.ways, run.letters | letters)
        if code in _REPEATS:
            least, most, inner = argument
            return self._repeat(least, most, inner, run, ends)
        if code is opcodes.SUBPATTERN:
            self._ignores_case |= bool(argument[1] & re.IGNORECASE)
            return self.sequence(argument[3], run, ends=ends)
        if code is opcodes.ATOMIC_GROUP:
            return self.sequence(argument, run, ends=ends)
        if code is opcodes.BRANCH:
            return self._either([self.sequence(each, run, ends=ends) for each in argument[1]])
        if code is opcodes.AT or (code in _LOOKING and not any(inner in _REPEATS for inner, _ in argument[1])):
            return run
        raise self._refusal("looks ahead or behind over a repetition, or refers back to a group")

    def _repeat(self, least: Any, most: Any, inner: Any, run: _Run, ends: bool) -> _Run:  # noqa: FBT001  # as above
        if most == 1:
            return self._either([run, self.sequence(inner, run)])
        letters = self._letters_of(inner)
        if most > WIDEST:
            # One that ends the expression can't fail, so that it is never gone back on and never begun twice.
            if not (ends and least <= WIDEST) and (run.ways > 1 or not run.is_told_from(letters)):
                raise self._refusal(
                    f"repeats more than {WIDEST} times behind what the repetition could match as well: bound it, as in "
                    f"{{1,{WIDEST}}}, or put a character before it that it can't match"
                )
            return _Run(math.inf, letters)
        ways = most - least + 1
        if least and run.is_told_from(letters):
            return _Run(ways, letters)
        return self._bounded(_Run(run.ways * ways, run.letters | letters), ways)

    def _either(self, runs: list[_Run]) -> _Run:
        together = _Run(sum(run.ways for run in runs), frozenset().union(*(run.letters for run in runs)))
        return self._bounded(together, 1)

    def _bounded(self, run: _Run, ways: int) -> _Run:
        if run.ways > MOST_WAYS and (ways > 1 or run.ways < math.inf):
            raise self._refusal("can match one text in very many ways: put fixed characters between its repetitions")
        return run

    def _letters_of(self, items: Any) -> frozenset[str]:
        """All that can stand in what is repeated."""
        letters: frozenset[str] = frozenset()
        for code, argument in items:
            if code in _SINGLE:
                letters |= self._letters(code, argument)
            elif code is opcodes.SUBPATTERN:
                letters |= self._letters_of(argument[3])
            elif code in _REPEATS and argument[0] == argument[1] <= WIDEST:
                letters |= self._letters_of(argument[2])
            elif code is not opcodes.AT:
                raise self._refusal("repeats a repetition, or alternatives, or what looks ahead, behind or back")
        return letters

    def _letters(self, code: Any, argument: Any) -> frozenset[str]:
        if code is opcodes.ANY:
            return _ALPHABET
        if code is opcodes.LITERAL:
            letters = _of_set(code, argument)
        elif code is opcodes.NOT_LITERAL:
            return (_ALPHABET - {chr(argument)}) | _OTHERS
        else:
            letters = frozenset().union(*(_of_set(*each) for each in argument if each[0] is not opcodes.NEGATE))
            if argument[0][0] is opcodes.NEGATE:
                return (_ALPHABET - letters) | _OTHERS
        return _both_cases(letters) if self._ignores_case else letters

    def _refusal(self, why: str) -> ConfigurationError:
        return ConfigurationError(
            f"The pattern {self._text!r} {why}. It would run on every string of every request, and could take long."
        )


@cache
def _category(code: Any) -> frozenset[str]:
    return frozenset(filter(re.compile(_CATEGORIES[code]).match, _ALPHABET))


def _of_set(code: Any, argument: Any) -> frozenset[str]:
    if code is opcodes.CATEGORY:
        return _category(argument)
    low, high = (argument, argument) if code is opcodes.LITERAL else argument
    letters = frozenset(chr(each) for each in range(low, min(high, 255) + 1))
    return letters | _OTHERS if high > 255 else letters  # noqa: PLR2004  # the end of Latin-1


def _both_cases(letters: frozenset[str]) -> frozenset[str]:
    return letters | {each for letter in letters for each in (letter.lower(), letter.upper()) if len(each) == 1}
