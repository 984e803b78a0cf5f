"""What is found in free text, and which expressions may look for it."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from e2i_serving.exceptions import ConfigurationError
from e2i_serving.record import ModelInfo, Outcome, PredictionRecord, Values
from e2i_serving.redaction import Redactor, redactor_of
from e2i_serving.redaction.expressions import compile_expression
from e2i_serving.settings import Settings

ALL = ("email", "phone", "iban", "credit-card", "ipv4")


def searching(*patterns: str, **settings: Any) -> Redactor:
    """A redactor that only searches text."""
    made = redactor_of(Settings(redaction_patterns=patterns, **settings), ModelInfo())
    assert made is not None
    return made


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("write to bob.smith+x@mail.example.com, please", "write to ***, please"),
        ("a@b.co;c@d.org", "***;***"),
        ("x" * 100 + "@example.com", "***"),
        ("call +49 30 1234567 now", "call *** now"),
        ("0171-1234567 or (555) 123-4567", "*** or ***"),
        ("tel:+14155552671.", "tel:***."),
        ("4111 1111 1111 1111", "***"),
        ("card 4111111111111111, 5500-0000-0000-0004", "card ***, ***"),
        ("1234 4111 1111 1111 1111 9", "1234 *** 9"),
        ("3782 822463 10005", "***"),
        ("DE89 3704 0044 0532 0130 00 is mine", "*** is mine"),
        ("gb82west12345698765432", "***"),
        ("at 192.168.0.1:80 and 10.0.0.255.", "at ***:80 and ***."),
    ],
)
def test_personal_data_is_masked(text, left):
    """Wherever in the text it stands."""
    assert searching(*ALL).text(text) == left


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no data here",
        "550e8400-e29b-41d4-a716-446655440000",
        "2024-02-29T12:00:00Z took 0.123456789 s",
        "version 1.2.3, build 1.2.3.4.5, 999.1.1.1",
        "4111 1111 1111 1112",
        "GB81 WEST 1234 5698 7654 32",
        "XX89370400440532013000",
        "user@host",
        "1700000000",
    ],
)
def test_what_only_looks_alike_stays(text):
    """Ids, times, versions and numbers whose checksum does not hold are no personal data."""
    assert searching(*ALL).text(text) == text


def test_only_what_is_asked_for_is_looked_for():
    """A kind of data that is not named stays."""
    assert searching("email").text("a@b.co, +49 30 1234567") == "***, +49 30 1234567"


def test_strings_are_searched_wherever_they_stand():
    """In columns, attributes and their names, labels and messages; what changed is named, and where."""
    kept = searching("email", r"MRN-\d+").record(
        PredictionRecord(
            "p1",
            1,
            0.1,
            Outcome.ERROR,
            500,
            items=1,
            error_message="no such user a@b.co",
            labels={"by": "c@d.org"},
            attributes={"deep": [{"who@is.it": {"note": "MRN-123 of e@f.net"}}]},
            inputs={"text": Values(["see g@h.io", 7])},
            outputs={"answer": Values([{"to": "i@j.eu"}])},
            entities={"mail": Values(["k@l.fr"])},
        )
    )
    assert "@" not in str(kept)
    assert "MRN" not in str(kept)
    assert kept.attributes == {"deep": [{"***": {"note": "*** of ***"}}]}
    assert set(kept.redactions) == {
        *(f"{root}.pattern:email" for root in ("inputs", "outputs", "entities", "attributes", "labels")),
        "attributes.pattern:2",
        "error_message.pattern:email",
    }


def test_names_that_become_alike_hide_no_value():
    """Two keys that are both masked stay two."""
    kept = searching("email").record(
        PredictionRecord("p", 1, 0.1, Outcome.OK, 200, attributes={"a@b.co": 1, "c@d.co": 2})
    )
    assert kept.attributes == {"***": 1, "*** 2": 2}


def test_a_long_string_keeps_its_size_and_hash():
    """It is not searched, so it is not kept; in text as in values, with a key or without."""
    long = "ä" * 4097
    record = PredictionRecord("p", 1, 0.1, Outcome.OK, 200, attributes={"a": long, "b": "ä" * 4096}, labels={"l": long})
    bare = searching("email").record(record)
    assert bare.attributes == {"a": {"bytes": 8194}, "b": "ä" * 4096}
    assert bare.labels == {"l": "<8194 bytes>"}
    assert bare.redactions == ("attributes.long-text", "labels.long-text")
    keyed = searching("email", redaction_key="a key of 16 chars").record(record)
    assert keyed.attributes["a"]["hmac"].startswith("hmac:")
    assert keyed.labels["l"].startswith("<8194 bytes, hmac:")


def test_a_record_is_searched_within_bounds():
    """Beyond so much text in one record, strings are not searched and not kept."""
    kept = searching("email").record(
        PredictionRecord("p", 1, 0.1, Outcome.OK, 200, items=100, inputs={"t": Values(["x" * 4000] * 100)})
    )
    column = kept.inputs["t"]
    assert isinstance(column, Values)
    assert column.values[0] == "x" * 4000
    assert column.values[-1] == {"bytes": 4000}


@pytest.mark.parametrize(
    "text",
    [r"MRN-\d+", r"\bMRN-\d{6,10}\b", r"\d{3}-\d{2}-\d{4}", r"\w{1,64}@corp", r"(?i)pat-[a-z]{2}\d{4,8}", "foo|bar\\d+",
     r"(?:\d{4}[ -]){3}\d{4}", r"(?<!\d)\d{9}(?!\d)", r"token=[^&\s]+", r"sk_(?:live|test)_[0-9a-zA-Z]{24}",
     r"Bearer [\w.-]+", r"(?:abc)?\d{4}", r"[A-Z]{2}\d{20}", r"-\d+-\d+x", r"(?>a|b)c"],
)  # fmt: skip
def test_an_expression_that_is_quick_is_taken(text):
    """Ordinary expressions are."""
    assert compile_expression(text).pattern == text


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("(", "is no regular expression"),
        ("x" * 513, "513 characters"),
        ("x*", "empty text"),
        ("a?|b", "empty text"),
        ("(a+)+b", "repeats a repetition"),
        ("(a|aa)+b", "repeats a repetition, or alternatives"),
        (r"(\w*\s)*x", "repeats a repetition"),
        (r"\w+@x", "more than 64 times"),
        (".*x", "more than 64 times"),
        ("a.*x", "more than 64 times"),
        ("<[^>]+>", "more than 64 times"),
        (r"-\d+\d+x", "more than 64 times"),
        ("\u4e2d.*x", "more than 64 times"),
        (r"\d{1000}", "more than 64 times"),
        (r"(?i)a\w{99}B", "more than 64 times"),
        (r"\d{1,64}\d{1,64}x", "very many ways"),
        (r"(\w)\1", "refers back"),
        (r"(?=\w+)x", "looks ahead"),
    ],
)
def test_an_expression_that_could_take_long_is_refused(text, said):
    """At start-up, with what to write instead."""
    with pytest.raises(ConfigurationError, match=said):
        searching(text)


ATOMS = st.sampled_from(["a", "b", ".", r"\w", r"\d", "[ab]", "[^a]", "-", " ", "ab", r"\b"])
REPEATS = st.sampled_from(["", "", "", "+", "*", "?", "{2}", "{1,9}", "{3,64}", "+?", "++"])
EXPRESSIONS = st.recursive(
    st.builds(str.__add__, ATOMS.filter(lambda atom: atom != r"\b"), REPEATS),
    lambda inner: st.one_of(
        st.lists(inner, min_size=1, max_size=4).map("".join),
        st.lists(inner, min_size=2, max_size=3).map("|".join).map(lambda text: f"(?:{text})"),
        st.builds(lambda text, repeat: f"(?:{text}){repeat}", inner, st.sampled_from(["", "?", "{2}", "+", "{1,5}"])),
    ),
    max_leaves=6,
)


@given(EXPRESSIONS, st.sampled_from(["a", "ab", "a-", "1", "a1", "b a", "-1-", "aab"]))
def test_no_expression_that_is_taken_takes_long(text, unit):
    """Whatever is let through comes to an end on a text made against it: a catastrophe would be hours, not seconds."""
    try:
        expression = compile_expression(text)
    except ConfigurationError:
        return
    begun = time.process_time()
    expression.sub("***", (unit * 4096)[:4095] + "!")
    assert time.process_time() - begun < 10  # of what must take milliseconds
