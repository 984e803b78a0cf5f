"""Outcomes as they are given: what is kept, what is refused, and how files are read."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from uuid import UUID

import pandas as pd
import pytest

from e2i_serving.exceptions import ConfigurationError, QueryError
from e2i_serving.outcomes import GivenOutcome, Line, checked_outcome, count_lines, outcome_digest, read_outcomes
from e2i_serving.outcomes.files import value_of
from e2i_serving.record import OutcomeEvent
from e2i_serving.runtime.questions import time_ns_of

NOON = 1_900_000_000_000_000_000


def lines(path: Path) -> list[Line]:
    """All lines of a file."""
    return list(read_outcomes(path, time_ns_of))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"value": 1}, "needs a prediction_id or a request_id"),
        ({"prediction_id": "p"}, "needs a value or a score"),
        ({"prediction_id": "p", "value": 1, "item": -1}, "first item of a request is 0"),
        ({"prediction_id": "p", "value": 1, "item": 2**63}, "first item of a request is 0"),
        ({"prediction_id": "p", "value": 1, "name": "no spaces"}, "no name of an outcome"),
        ({"prediction_id": "p", "value": 1, "name": ""}, "no name of an outcome"),
        ({"prediction_id": "p", "score": math.nan}, "finite"),
        ({"prediction_id": "p", "score": math.inf}, "finite"),
        ({"prediction_id": "p", "value": 1, "observed_ns": -1}, "out of range"),
        ({"prediction_id": "p" * 257, "value": 1}, "257 characters"),
        ({"prediction_id": "p\0", "value": 1}, "NUL"),
        ({"prediction_id": "p", "value": 1, "comment": "\ud800"}, "not valid text"),
        ({"prediction_id": "p", "value": "x" * 70_000}, "bytes as JSON"),
        ({"prediction_id": "p", "value": object()}, "as JSON"),
    ],
)
def test_what_can_not_be_kept_is_refused(fields, said):
    """Each mistake is said in a line of its own words."""
    with pytest.raises(QueryError, match=said):
        checked_outcome(GivenOutcome(**fields))


def event(**changes: Any) -> OutcomeEvent:
    """An outcome's event."""
    fields = {"outcome_id": "o", "time_ns": 1, "prediction_id": "p", "value": True, "source": "claims", **changes}
    return OutcomeEvent(**fields)


def test_the_same_outcome_has_the_same_id():
    """When it was recorded, what else was remarked and by what salt do not matter; the order of keys does not."""
    first = outcome_digest(event(value={"a": 1, "b": 2}))
    again = event(value={"b": 2, "a": 1}, time_ns=2, outcome_id="x", comment="again", salt=b"s", request_id="r")
    assert outcome_digest(again) == first
    assert UUID(first).version == 8


@pytest.mark.parametrize(
    "changes",
    [
        {"prediction_id": "q"},
        {"prediction_id": "", "request_id": "p"},
        {"item_index": 0},
        {"name": "quality"},
        {"value": False},
        {"value": 1},
        {"score": 0.5},
        {"source": "audit"},
        {"observed_ns": 1},
    ],
    ids="-".join,
)
def test_another_outcome_has_another_id(changes):
    """A correction, another item, another source: each is an outcome of its own."""
    assert outcome_digest(event(**changes)) != outcome_digest(event())


@pytest.mark.parametrize(
    ("text", "value"),
    [("true", True), ("12.5", 12.5), ('{"kind": "fraud"}', {"kind": "fraud"}), ("default", "default"), ("01", "01")],
)
def test_a_value_is_json_or_text(text, value):
    """What is not JSON is the text itself."""
    assert value_of(text) == value


def test_csv_is_read_line_by_line(tmp_path):
    """Types come from the columns; what is wrong with a line is told by its number, as an editor counts."""
    path = tmp_path / "claims.csv"
    path.write_text(
        "\ufeffprediction_id,item,value,score,observed,comment\n"
        "p1,0,true,,2030-03-17T17:46:40Z,\n"
        'p2,,,0.5,,"two\nlines"\n'
        "p3,zero,true,,,\n"
        "p4,0\n"
        "p5,1,default,,yesterday,\n",
        encoding="utf-8",
    )
    found = lines(path)
    assert [line.number for line in found] == [2, 4, 5, 6, 7]
    assert found[0].given == GivenOutcome(prediction_id="p1", item=0, value=True, observed_ns=NOON)
    assert found[1].given == GivenOutcome(prediction_id="p2", score=0.5, comment="two\nlines")
    assert [line.given for line in found[2:]] == [None, None, None]
    assert "zero" in found[2].problem
    assert "number of columns" in found[3].problem
    assert "is no time" in found[4].problem
    assert count_lines(path) == 6


def test_json_lines_are_read_line_by_line(tmp_path):
    """Values keep their types; a line that is no object, or has an unknown field, is told."""
    path = tmp_path / "truths.jsonl"
    path.write_text(
        '{"prediction_id": "p1", "item": 0, "value": {"of": [1, null]}}\n'
        "\n"
        f'{{"request_id": "r1", "score": 1, "name": "quality", "observed": {NOON}}}\n'
        "[1]\n"
        '{"prediction_id": 1}\n'
        '{"prediction": "p1"}\n'
        '{"prediction_id": "p", "value": 1, "observed": true}\n'
        "{broken\n"
    )
    found = lines(path)
    assert found[0].given == GivenOutcome(prediction_id="p1", item=0, value={"of": [1, None]})
    assert found[1] == Line(3, GivenOutcome(request_id="r1", score=1.0, name="quality", observed_ns=NOON))
    assert [line.number for line in found if line.problem] == [4, 5, 6, 7, 8]
    assert "Did you mean 'prediction_id'?" in found[4].problem
    assert "observed is a time" in found[5].problem


def test_parquet_is_read_where_pandas_can(tmp_path, monkeypatch):
    """Numbers, times and missing cells are plain values."""
    frame = pd.DataFrame(
        {
            "prediction_id": ["p1", "p2"],
            "item": pd.array([0, None], dtype="Int64"),
            "value": [True, None],
            "score": [None, 0.5],
            "observed": pd.to_datetime(["2030-03-17T17:46:40Z", None], utc=True),
        }
    )
    monkeypatch.setattr(pd, "read_parquet", lambda path: frame)
    path = tmp_path / "truths.parquet"
    path.touch()
    found = lines(path)
    assert found[0].given == GivenOutcome(prediction_id="p1", item=0, value=True, observed_ns=NOON)
    assert found[1].given == GivenOutcome(prediction_id="p2", score=0.5)
    assert count_lines(path) is None


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.xlsx", "", "read from .csv"),
        ("missing.csv", None, "no file"),
        ("a.csv", "prediction,value\n", "Did you mean 'prediction_id'?"),
        ("a.csv", "\xff", "There are prediction_id"),
        ("a.parquet", "no parquet", "a.parquet"),
    ],
)
def test_a_file_that_is_not_outcomes_is_refused_at_once(tmp_path, name, content, said):
    """A file of another kind, or with columns that mean nothing here, is no list of bad lines."""
    path = tmp_path / name
    if content is not None:
        path.write_text(content)
    with pytest.raises((ConfigurationError, QueryError), match=said):
        lines(path)
