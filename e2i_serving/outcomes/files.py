"""Outcomes from files: CSV, JSON lines and Parquet."""

from __future__ import annotations

import csv
import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from e2i_serving.exceptions import ConfigurationError, QueryError
from e2i_serving.outcomes.given import GivenOutcome

COLUMNS: Final = ("prediction_id", "request_id", "item", "name", "value", "score", "source", "comment", "observed")
"""What a line may hold. All but an id, and a value or a score, may be left out."""

_CSV: Final = (".csv",)
_JSON_LINES: Final = (".jsonl", ".ndjson", ".json")
_PARQUET: Final = (".parquet",)
_LONGEST_LINE: Final = 1024 * 1024


class Line(NamedTuple):
    """One line of a file.

    Attributes:
        number: Its number, from 1, as an editor counts; of Parquet, the row's.
        given: The outcome; ``None`` when the line holds none.
        problem: Why not; else empty.
    """

    number: int
    given: GivenOutcome | None
    problem: str = ""


def read_outcomes(path: Path, time_ns_of: Callable[[str], int]) -> Iterator[Line]:
    """The outcomes of a file, one after another.

    Args:
        path: ``.csv`` with a header, ``.jsonl`` with one object a line, or ``.parquet``; see ``COLUMNS``.
        time_ns_of: Reads the text of ``observed``.

    Raises:
        ConfigurationError: The file can't be read, or what reads it is not installed.
        QueryError: A column is unknown.
    """
    suffix = path.suffix.lower()
    reader = _READERS.get(suffix)
    if reader is None:
        raise ConfigurationError(f"{path} ends in {suffix!r}. Outcomes are read from {', '.join(sorted(_READERS))}.")
    if not path.is_file():
        raise ConfigurationError(f"There is no file {path}.")
    for number, fields, problem in reader(path):
        if problem:
            yield Line(number, None, problem)
            continue
        try:
            yield Line(number, _outcome(fields, time_ns_of))
        except (msgspec.ValidationError, QueryError, ValueError) as error:
            yield Line(number, None, str(error))


def count_lines(path: Path) -> int | None:
    """About how many outcomes a file holds; ``None`` when that is not known before it is read."""
    if path.suffix.lower() in _PARQUET or not path.is_file():
        return None
    with path.open("rb") as file:
        lines = sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(1024 * 1024), b""))
    return lines - 1 if path.suffix.lower() in _CSV else lines


_Raw = tuple[int, Mapping[str, Any], str]


def _csv_lines(path: Path) -> Iterator[_Raw]:
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file, strict=True)
            _check_columns(reader.fieldnames or ())
            for row in reader:
                if None in row or None in row.values():
                    yield reader.line_num, {}, "It has another number of columns than the header."
                    continue
                try:
                    yield reader.line_num, _from_text(row), ""
                except ValueError as error:
                    yield reader.line_num, {}, str(error)
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise ConfigurationError(f"{path} can't be read: {error}.") from error


def _json_lines(path: Path) -> Iterator[_Raw]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(iter(lambda: file.readline(_LONGEST_LINE), b""), start=1):
                if not line.strip():
                    continue
                try:
                    fields = msgspec.json.decode(line, type=dict[str, Any])
                    _check_columns(tuple(fields))
                    yield number, fields, ""
                except (msgspec.DecodeError, QueryError) as error:
                    yield number, {}, str(error)
    except OSError as error:
        raise ConfigurationError(f"{path} can't be read: {error}.") from error


def _parquet_rows(path: Path) -> Iterator[_Raw]:
    try:
        import pandas as pd  # noqa: PLC0415  # an extra

        frame = pd.read_parquet(path)
    except ImportError as error:
        raise ConfigurationError(f"To read {path}: pip install 'e2i-serving[pandas]' pyarrow.") from error
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path} can't be read: {error}.") from error
    _check_columns([str(name) for name in frame.columns])
    for number, row in enumerate(frame.itertuples(index=False, name=None), start=1):
        fields = {name: _plain(value) for name, value in zip(frame.columns, row, strict=True)}
        yield number, {name: value for name, value in fields.items() if value is not None}, ""


_READERS: Final[dict[str, Callable[[Path], Iterator[_Raw]]]] = {
    **dict.fromkeys(_CSV, _csv_lines),
    **dict.fromkeys(_JSON_LINES, _json_lines),
    **dict.fromkeys(_PARQUET, _parquet_rows),
}


def _check_columns(names: Sequence[str]) -> None:
    for name in names:
        if name not in COLUMNS:
            close = difflib.get_close_matches(name, COLUMNS, n=1)
            mend = f"Did you mean {close[0]!r}?" if close else f"There are {', '.join(COLUMNS)}."
            raise QueryError(f"There is no column {name!r}. {mend}")


def _from_text(row: Mapping[str, str]) -> dict[str, Any]:
    fields: dict[str, Any] = {name: text for name, text in row.items() if text}
    if "item" in fields:
        fields["item"] = int(fields["item"])
    if "score" in fields:
        fields["score"] = float(fields["score"])
    if "value" in fields:
        fields["value"] = value_of(fields["value"])
    return fields


def value_of(text: str) -> Any:
    """A value from its text: what is JSON is read as such, all else is text.

    Args:
        text: Such as ``true``, ``12.5``, ``{"kind": "fraud"}`` or ``default``.
    """
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def _outcome(fields: Mapping[str, Any], time_ns_of: Callable[[str], int]) -> GivenOutcome:
    known = dict(fields)
    observed = known.pop("observed", None)
    if isinstance(observed, str):
        known["observed_ns"] = time_ns_of(observed)
    elif isinstance(observed, int) and not isinstance(observed, bool):
        known["observed_ns"] = observed
    elif observed is not None:
        raise QueryError(f"observed is a time as text, or nanoseconds since the epoch, not {observed!r}.")
    given: GivenOutcome = msgspec.convert(known, GivenOutcome)
    return given


def _plain(value: Any) -> Any:
    """A cell of a data frame as a plain value; nothing for a missing one."""
    if hasattr(value, "isoformat"):
        return value.isoformat() if value == value else None  # noqa: PLR0124  # not-a-time is unequal to itself
    plain = value.tolist() if hasattr(value, "tolist") else value
    is_missing = plain is None or (isinstance(plain, float) and plain != plain) or str(plain) == "<NA>"  # noqa: PLR0124  # not-a-number
    return None if is_missing else plain
