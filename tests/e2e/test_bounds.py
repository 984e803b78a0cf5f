"""The journal at its bounds, under a real server: sampling, floods of failures, late results, a lost data directory."""

from __future__ import annotations

import shutil
from typing import Any

import pytest

from e2i_serving.journal import FrameKind, JournalReader, list_lives
from e2i_serving.observers.metrics import observation_books
from e2i_serving.record import LateResult, Outcome, PredictionRecord

ROW = [0.5, 1.0, -0.5, 0.25]
WITHOUT_RELAY = {"E2I_SERVING_RELAY_ENABLED": "false"}


def journaled(server: Any) -> list[Any]:
    """What stands in a server's journal, which no relay clears."""
    found: list[Any] = []
    for folder in list_lives(server.data_dir / "journal"):
        frames = JournalReader(folder).read(100_000, ended=False)
        assert all(frame.kind != FrameKind.GAP for frame in frames)
        found += [frame.decode() for frame in frames]
    return found


def test_a_late_result_follows_its_timeout(serve, eventually):
    """The record of a 504 stays, and what its thread comes to is appended, whether it succeeds or fails."""
    with serve("probe:Probe", **WITHOUT_RELAY) as server:
        answer = server.predict({"X-Request-ID": "late"}, instances=[ROW], attributes={"do": "sleep", "seconds": 4})
        assert answer.status_code == 504
        (record,) = journaled(server)
        assert (record.outcome, record.status, record.request_id) == (Outcome.TIMEOUT, 504, "late")
        _, late = eventually(lambda: (found := journaled(server))[1:] and found, what="the late result")
        assert isinstance(late, LateResult)
        assert (late.prediction_id, late.outcome, late.items) == (record.prediction_id, Outcome.OK, 1)
        assert late.duration > 4 > record.duration
        assert late.outputs["prediction"].values == ["high"]


@pytest.mark.parametrize("rate", [0, 0.5, 1])
def test_sampling_keeps_the_books(serve, rate):
    """Whatever the rate, all that was observed is accounted for, and failures are on record."""
    with serve("probe:Probe", E2I_SERVING_SAMPLING_RATE=str(rate), **WITHOUT_RELAY) as server:
        for _ in range(60):
            assert server.predict(instances=[ROW]).status_code == 200
        for _ in range(5):
            assert server.predict(instances=[[1.0]]).status_code == 400
        kept = [body for body in journaled(server) if isinstance(body, PredictionRecord)]
        books = observation_books(server.data_dir / "metrics")
    assert books.balanced
    assert (books.observed, books.accepted, books.sampled_out) == (65, len(kept), 65 - len(kept))
    assert sum(body.status == 400 for body in kept) == 5
    successes = sum(body.status == 200 for body in kept)
    assert successes == 60 * rate if rate in (0, 1) else 10 <= successes <= 50


def test_a_flood_of_failures_leaves_predictions_alone(serve):
    """Refused requests are answered as ever beyond their quota; what can't be kept is counted, predictions are kept."""
    with serve("probe:Probe", E2I_SERVING_FAILURE_BYTES=str(2**20), **WITHOUT_RELAY) as server:
        body = {"instances": [ROW], "attributes": {"do": "missing", "text": "x" * 100_000}}
        assert {server.post("/predict", json=body).status_code for _ in range(40)} == {404}
        assert server.predict({"X-Request-ID": "kept"}, instances=[ROW]).status_code == 200
        kept = journaled(server)
        books = observation_books(server.data_dir / "metrics")
    assert books.balanced
    assert books.unjournaled["failure-quota"] == 41 - len(kept) > 0
    assert kept[-1].request_id == "kept" or "kept" in {record.request_id for record in kept}


def test_a_lost_data_directory_comes_back(serve, eventually):
    """Predictions go on; what had been accepted is in the journal again, and so are the numbers."""
    with serve("probe:Probe", **WITHOUT_RELAY) as server:
        answers = [server.predict(instances=[ROW]) for _ in range(20)]
        shutil.rmtree(server.data_dir)
        answers += [server.predict(instances=[ROW]) for _ in range(20)]
        expected = {answer.json()["prediction_id"] for answer in answers}
        assert len(expected) == 40
        eventually(
            lambda: {record.prediction_id for record in journaled(server)} == expected, what="the journal's return"
        )
        eventually(
            lambda: observation_books(server.data_dir / "metrics").accepted == 40, what="the return of the numbers"
        )
        assert server.predict(instances=[ROW]).status_code == 200
        assert len(journaled(server)) == 41
