"""What rules hold for beside records, and which are refused."""

from __future__ import annotations

import logging

import pytest
from redacting import KEY, MODEL, record, redactor

from e2i_serving.exceptions import ConfigurationError
from e2i_serving.record import (
    AccessEvent,
    LateResult,
    Outcome,
    OutcomeEvent,
    StreamEnd,
    Values,
)
from e2i_serving.redaction import redactor_of
from e2i_serving.settings import Settings


def test_an_entity_can_be_looked_up():
    """A question is put as the trail has it: hashed alike, masked, rounded, or not there at all."""
    made = redactor(("entities.id", "hash"), ("entities.age", "round", -1), ("entities.name", "drop"))
    kept = made.record(record(items=1, entities={"id": Values([42]), "age": Values([37]), "other": Values(["x"])}))
    assert made.entity("id", "42") == kept.entities["id"].values[0]
    assert made.entity("age", "37") == "40"
    assert made.entity("name", "Bob") == ""
    assert made.entity("other", "x") == "x"
    assert redactor(redaction_allow=("entities.id",)).entity("other", "x") == ""


def test_later_events_are_redacted_too():
    """Ends, late results, outcomes and accesses go the same way as records."""
    made = redactor(
        ("error_message", "hash"),
        ("outputs.prediction", "mask"),
        ("outputs.truth", "round", 0),
        ("request_id", "hash"),
        ("entities.id", "hash"),
        ("labels.brand", "mask"),
        redaction_patterns=("email",),
    )
    end = made.stream_end(StreamEnd("p1", 1.0, Outcome.ERROR, error_message="Bob"))
    assert end.error_message.startswith("hmac:")
    late = made.late_result(LateResult("p1", 1.0, Outcome.OK, items=1, outputs={"prediction": Values(["Bob"])}))
    assert late.outputs == {"prediction": Values(["***"])}
    assert late.redactions == ("outputs.prediction",)
    outcome = made.outcome(
        OutcomeEvent(
            "o1", 1, request_id="r1", value=1.6, comment="by bob@example.com", source="eve@example.com", score=0.9
        )
    )
    assert (outcome.value, outcome.score) == (2.0, 1.0)
    assert (outcome.comment, outcome.source) == ("by ***", "***")
    assert outcome.request_id == made.request_id("r1")
    asked = made.access(
        AccessEvent(
            "a1",
            1,
            conditions={"entity": "id=42", "request_id": "r1", "labels": {"brand": "x"}, "model": "m", "id": "r1"},
        )
    )
    assert asked.conditions == {
        "entity": f"id={made.entity('id', '42')}",
        "request_id": made.request_id("r1"),
        "labels": {"brand": "***"},
        "model": "m",
        "id": made.request_id("r1"),
    }


def test_a_destination_has_further_rules():
    """They are its own; those of the worker were applied before."""
    settings = Settings(
        redaction_rules=[{"path": "inputs.a", "action": "hash"}],
        redaction_destinations={"audit-store": [{"path": "inputs.b", "action": "drop"}]},
        redaction_patterns=("email",),
        redaction_key=KEY,
    )
    further = redactor_of(settings, MODEL, "audit-store")
    assert further is not None
    kept = further.record(record(items=1, inputs={"a": Values(["x"]), "b": Values(["y"])}))
    assert kept.inputs == {"a": Values(["x"]), "b": Values([None])}
    assert redactor_of(settings, MODEL, "elsewhere") is None


@pytest.mark.parametrize(
    ("path", "said"),
    [
        (
            "input.a",
            "begins with 'input'. It can begin with: inputs, outputs, entities, attributes, labels, request_id",
        ),
        ("**", "begins with"),
        ("inputs", "Write `inputs.\\*` for all"),
        ("inputs..a", "has an empty part"),
        ("inputs.", "has an empty part"),
        ("request_id.a", "goes on behind 'request_id'"),
    ],
)
def test_a_wrong_path_is_refused(path, said):
    """The error says what paths there are."""
    with pytest.raises(ConfigurationError, match=said):
        redactor((path, "drop"))


def test_an_allow_list_names_no_single_texts():
    """They are not what it is about."""
    with pytest.raises(ConfigurationError, match=r"redaction_allow: .* 'request_id'. It can begin with: .* labels\.$"):
        redactor(redaction_allow=("request_id",))


@pytest.mark.parametrize("key", ["", "short", "x" * 15])
def test_hashing_needs_a_key(key):
    """A hash without a secret is undone by trying all names; the error does not show the key."""
    with pytest.raises(
        ConfigurationError, match=r"redaction_key needs at least 16 characters: the rule for 'inputs\.a'"
    ) as raised:
        redactor(("inputs.a", "hash"), key=key)
    assert "short" not in str(raised.value)


def test_a_rule_that_matches_nothing_is_warned_of_once(caplog):
    """After a thousand records, for each such rule; what is seldom filled is not such a rule."""
    caplog.set_level(logging.WARNING)
    made = redactor(("attributes.a", "drop"), ("inputs.agee", "drop"), ("error_message", "mask"))
    given = record(attributes={"a": 1})
    for _ in range(999):
        made.record(given)
    assert not caplog.records
    for _ in range(1500):
        made.record(given)
    assert [each.message for each in caplog.records] == [
        "The redaction rule 'inputs.agee' matched nothing in the first 1000 records. Is the path right?"
    ]
