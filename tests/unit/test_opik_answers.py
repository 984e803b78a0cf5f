"""What the exporter to Opik makes of what it is answered."""

from __future__ import annotations

import time
from email.utils import formatdate

import pytest
from opik_entries import opened_exporter, prediction, prediction_id

from e2i_serving.exceptions import RefusedError, StoreError
from e2i_serving.testing import Fault


@pytest.mark.parametrize(
    ("fault", "kind", "least"),
    [
        (Fault(400, body=b'{"errors":["id must be a v7"]}'), RefusedError, 0),
        (Fault(422), RefusedError, 0),
        (Fault(401), StoreError, 30),
        (Fault(403), StoreError, 30),
        (Fault(404), StoreError, 0),
        (Fault(429), StoreError, 0),
        (Fault(429, {"Retry-After": "7"}), StoreError, 7),
        (Fault(429, {"RateLimit-Reset": "9", "Retry-After": "7"}), StoreError, 9),
        (Fault(429, {"Retry-After": "soon"}), StoreError, 0),
        (Fault(500), StoreError, 0),
        (Fault(502, {"Content-Type": "text/html"}, b"<html>\x00bad gateway"), StoreError, 0),
        (Fault(200, {"Content-Type": "text/html; charset=utf-8"}, b"<html>sign in"), StoreError, 0),
        (Fault(0), StoreError, 0),
        (Fault(200, body=b"part", cut=True), StoreError, 0),
        (Fault(307, {"Location": "/elsewhere"}), StoreError, 0),
    ],
)
def test_an_answer_is_made_into_what_the_relay_understands(opik, export, fault, kind, least):
    """Refused for good, or to be tried again, at once or when it says."""
    opik.faults.append(fault)
    with pytest.raises(StoreError) as raised:
        export(prediction())
    assert type(raised.value) is kind
    assert raised.value.retry_after == least


def test_a_date_is_a_time_to_wait_for_as_well(opik, export):
    """As HTTP has it."""
    opik.faults.append(Fault(503, {"Retry-After": formatdate(time.time() + 100, usegmt=True)}))
    with pytest.raises(StoreError) as raised:
        export(prediction())
    assert 50 < raised.value.retry_after <= 100


def test_garbage_behind_a_success_does_no_harm(opik, export):
    """What the status says holds."""
    opik.faults.append(Fault(200, body=b"\xff\x00garbage" * 100_000, takes=True))
    export(prediction())
    assert list(opik.traces) == [prediction_id(1)]


def test_a_receiver_that_hangs_is_given_up(opik):
    """After the time that is set; the address and the reason are said."""
    opik.faults.append(Fault(204, delay_seconds=60))
    with (
        opened_exporter(opik.url, timeout_seconds=0.3) as exporter,
        pytest.raises(StoreError, match="can't be reached"),
    ):
        exporter.export([prediction()])


def test_the_check_asks_for_what_only_those_let_in_may_have(opik, export):
    """So a wrong key is found, and the mend is said."""
    opik.judge = lambda request: Fault(401) if "projects" in request.path else None
    with opened_exporter(opik.url) as exporter, pytest.raises(StoreError, match="OPIK_API_KEY"):
        exporter.check()
