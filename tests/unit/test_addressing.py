"""Outcomes on their way to Opik, which knows no request ids, nor what service an outcome's recorder speaks of."""

from __future__ import annotations

from contextlib import closing

import pytest

from e2i_serving.exceptions import RefusedError, StoreError
from e2i_serving.record import Entry, Life, Outcome, OutcomeEvent, PredictionRecord
from e2i_serving.relay import Ledger, read_books
from e2i_serving.relay.addressing import addressed
from e2i_serving.runtime.exporting import stored_identities
from e2i_serving.runtime.outcomes import OutcomeRecorder
from e2i_serving.runtime.relay_process import run_relay
from e2i_serving.settings import RedactionRule, Settings
from e2i_serving.testing import OpikReceiver

FIRST, SECOND, THIRD = (f"0192f7b0-5c1e-7d4a-9f1e-2b7c6c1e8a1{number}" for number in range(3))
RECORDER = Life("life-9", "e2i-serving", 1, 1)
ROWS = [
    {"prediction_id": FIRST, "request_id": "r1", "items": 1, "service": "credit"},
    {"prediction_id": SECOND, "request_id": "r2", "items": 3, "service": "fraud"},
    {"prediction_id": THIRD, "request_id": "r2", "items": 1, "service": "credit"},
]


def outcome(**fields):
    """An outcome's entry, in the life of who recorded it."""
    return Entry(RECORDER, 1, OutcomeEvent("o1", 1, value=True, **fields))


def look_up(prediction_ids, request_ids):
    """A trail of three predictions."""
    return [row for row in ROWS if row["prediction_id"] in prediction_ids or row["request_id"] in request_ids]


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"prediction_id": FIRST}, [(FIRST, -1, "credit")]),
        ({"prediction_id": FIRST, "item_index": 0}, [(FIRST, -1, "credit")]),
        ({"request_id": "r1"}, [(FIRST, -1, "credit")]),
        ({"request_id": "r2"}, [(SECOND, -1, "fraud"), (THIRD, -1, "credit")]),
        ({"request_id": "r2", "item_index": 0}, [(SECOND, 0, "fraud"), (THIRD, -1, "credit")]),
        ({"request_id": "r2", "item_index": 2}, [(SECOND, 2, "fraud")]),
        ({"request_id": "r1", "prediction_id": SECOND}, [(SECOND, -1, "fraud")]),
    ],
)
def test_an_outcome_is_of_every_prediction_that_it_is_about(given, meant):
    """By id, by request id and by item, under the service that predicted."""
    found = addressed([outcome(**given)], look_up)
    assert [(each.body.prediction_id, each.body.item_index, each.life.service) for each in found] == meant
    assert {(each.life.life, each.sequence) for each in found} == {("life-9", 1)}


@pytest.mark.parametrize(
    "given", [{"prediction_id": "nobody"}, {"request_id": "r9"}, {"request_id": "r1", "item_index": 1}, {}]
)
def test_an_outcome_of_nothing_known_is_refused(given):
    """And the reason says what to do."""
    with pytest.raises(RefusedError, match="dead-letters retry"):
        addressed([outcome(**given)], look_up)


def test_a_store_that_cannot_be_asked_is_waited_for(tmp_path):
    """Nothing is refused for it."""
    with pytest.raises(StoreError) as raised:
        addressed([outcome(request_id="r1")], stored_identities(Settings(), tmp_path))
    assert not isinstance(raised.value, RefusedError)


def test_other_entries_pass_without_a_look():
    """A batch of predictions asks the store nothing."""
    entries = [Entry(RECORDER, 1, PredictionRecord(FIRST, 1, 0.1, Outcome.OK, 200))]
    assert addressed(entries, lambda *_: pytest.fail("asked")) == entries


@pytest.mark.parametrize("redacted", [False, True])
def test_an_outcome_by_request_id_reaches_its_trace(instance, redacted):
    """Late by any time; one that comes before its prediction waits as a dead letter, and is sent when asked for."""
    instance.ledger.close()
    rules = {
        "audit-store": (RedactionRule(path="request_id", action="hash"),),
        "opik": (RedactionRule(path="request_id", action="mask"),),
    }
    with OpikReceiver() as opik:
        settings = Settings(
            opik_enabled=True,
            opik_url=opik.url,
            redaction_destinations=rules if redacted else {},
            redaction_key="a key of 16 chars",
        )
        with closing(instance.open_writer()) as writer:
            writer.append(PredictionRecord(FIRST, 1, 0.1, Outcome.OK, 200, items=2, request_id="r1"))
        assert run_relay(settings, instance.data_dir, once=True)
        with OutcomeRecorder.open(instance.data_dir, allow_unknown=True) as recorder:
            recorder.record(request_id="r1", item=1, value=True)
            recorder.record(request_id="r2", name="early", score=0.5)
            recorder._end()  # without a relay of its own, whose settings would be other ones
        assert run_relay(settings, instance.data_dir, once=True)
        assert opik.scores.keys() == {(FIRST, "truth[1]")}
        with closing(Ledger(instance.data_dir)) as ledger:
            (letter,) = ledger.dead_letters.each("opik")
            assert "'r2'" in letter.message
            with closing(instance.open_writer("life-2")) as writer:
                writer.append(PredictionRecord(SECOND, 2, 0.1, Outcome.OK, 200, items=1, request_id="r2"))
        assert run_relay(settings, instance.data_dir, once=True)
        with closing(Ledger(instance.data_dir)) as ledger:
            ledger.dead_letters.request()
        assert run_relay(settings, instance.data_dir, once=True)
        assert opik.scores.keys() == {(FIRST, "truth[1]"), (SECOND, "early")}
        assert {score["project_name"] for score in opik.scores.values()} == {"credit"}
    with closing(Ledger(instance.data_dir)) as ledger:
        assert [*ledger.dead_letters.each("opik")] == []
    assert all(book.balanced and not book.pending for book in read_books(instance.data_dir))
