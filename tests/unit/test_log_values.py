"""What stands inside the fields of a log line: plain, bounded and redacted."""

from __future__ import annotations

import dataclasses
import logging

import pytest
from log_lines import Lines, a_request_served, invalid, logging_put_back

from e2i_serving.runtime.log_values import CUT, MOST_VALUES


@pytest.fixture
def lines():
    """Make logging as a worker sets it up, and put it back as it was."""
    with logging_put_back():
        yield Lines


@dataclasses.dataclass
class Customer:
    """An object with a form in JSON and a field that its repr leaves out."""

    email: str = dataclasses.field(repr=False)


class Opaque:
    """An object whose repr quotes what it holds."""

    def __repr__(self):
        return "Opaque(bob@example.org)"


class Broken:
    """An object that can't be looked at."""

    def __repr__(self):
        raise ValueError("bob@example.org")


def loop():
    """A list that holds itself."""
    found = ["bob@example.org"]
    found.append(found)
    return found


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ({"email": "bob@example.org", "age": 31}, {"email": "***", "age": 31}),
        ({"bob@example.org": {"at": [1, None, ("bob@example.org",)]}}, {"***": {"at": [1, None, ["***"]]}}),
        ({"bob@example.org": 1, "eve@example.org": 2}, {"***": 1, "*** 2": 2}),
        ({("bob@example.org", 1): 2}, {"(***', 1)": 2}),
        ({"bob@example.org"}, ["***"]),
        (Customer("bob@example.org"), {"email": "***"}),
        (Opaque(), "Opaque(***)"),
        ([Broken()], ["<Broken>"]),
    ],
)
def test_redaction_reaches_what_is_inside_a_field(lines, value, written):
    """Patterns are applied to texts and names at any depth, and to the form of any object."""
    logs = lines(redaction_patterns=("email",))
    logs.redact()
    logging.getLogger("credit").info("hello", extra={"what": value, "labels": value, "trace_id": value})
    assert logs.only["what"] == logs.only["labels"] == logs.only["trace_id"] == written
    assert "@example.org" not in logs.stream.getvalue()


def test_a_field_without_end_is_cut(lines):
    """Of what is deep, large or holds itself, what fits is written and redacted, and the rest is not."""
    logs = lines(redaction_patterns=("email",))
    logs.redact()
    deep = ["bob@example.org"]
    for _ in range(100_000):
        deep = [deep]
    many = ["bob@example.org"] * (MOST_VALUES + 10)
    log = logging.getLogger("credit")
    log.info("hello", extra={"deep": deep, "loop": loop(), "many": many, "long": {"text": ["x " * 2000] * 100}})
    line = logs.only
    assert "@example.org" not in logs.stream.getvalue()
    assert line["loop"][0] == "***"
    assert line["many"][:2] == ["***", "***"]
    assert len(line["many"]) <= MOST_VALUES
    assert line["many"][-1] == line["long"]["text"][-1] == CUT
    assert len(logs.stream.getvalue()) < 500_000


def test_names_that_are_masked_alike_are_told_apart(lines):
    """Each has a number; what is beyond the bound of a field's characters is not gone through."""
    logs = lines(redaction_patterns=("email",))
    logs.redact()
    log = logging.getLogger("credit")
    scores = {f"{number}@example.org": number for number in range(5000)}
    log.info("hello", extra={"scores": scores, "wide": dict.fromkeys(("x" * 200 + str(n) for n in range(5000)), 1)})
    kept = logs.only["scores"]
    assert (kept["***"], kept["*** 2"], kept["*** 5000"]) == (0, 1, 4999)
    assert logs.only["wide"][CUT] == CUT
    assert len(logs.only["wide"]) < 1000


def test_input_that_a_failed_validation_quotes_is_masked_in_a_field(lines):
    """Whether the error itself is logged, or what came of it."""
    logs = lines()
    logging.getLogger("credit").info("hello", extra={"what": [invalid()], "why": {"text": str(invalid())}})
    assert "input_value=***" in logs.only["why"]["text"]
    assert "zqSECRET" not in logs.stream.getvalue()


def test_text_that_is_no_unicode_is_written(lines):
    """Half a character, as it comes from a file's name, costs no line."""
    logs = lines()
    logging.getLogger("credit").info("caf\udce9", extra={"path": ["caf\udce9"]})
    assert (logs.only["event"], logs.only["path"]) == ("caf\\udce9", ["caf\\udce9"])


def test_labels_stand_as_they_do_in_the_record(lines):
    """A hash that a pattern would find something in is not redacted once more."""
    logs = lines(
        redaction_patterns=("[0-9a-f]{8}",),
        redaction_rules=({"path": "labels.brand", "action": "hash"},),
        redaction_key="0123456789abcdef",
    )
    logs.redact()
    with a_request_served() as request:
        logging.getLogger("credit").info("hello")
    assert logs.only["labels"] == logs.context.redactor.labels(request.labels)
