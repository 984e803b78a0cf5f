"""However a request reaches an API method, it is on record: by its route, or past it."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator
from typing import Any

import bentoml
import pytest
from starlette.responses import JSONResponse

import e2i_serving
from e2i_serving.exceptions import JournalFull
from e2i_serving.journal import JournalWriter
from e2i_serving.propagation import ContextExtractor
from e2i_serving.record import Row
from e2i_serving.runtime.observation import Endpoint, Observation, observation
from e2i_serving.testing import ServiceHarness

CALLER = {"X-Request-ID": "caller-1", "traceparent": f"00-{'a' * 32}-{'b' * 16}-00"}


class Redirecting:
    """A middleware of the service's own, inside the layer, that sends a path to an API method."""

    def __init__(self, app: Any) -> None:
        self.app = app

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http":
            path = {"/old": "/halved", "/old-made": "/made", "/old-counted": "/counted", "/old-waited": "/waited"}.get(
                scope["path"]
            )
            scope = {**scope, "path": path, "raw_path": path.encode()} if path else scope
        await self.app(scope, receive, send)


LEFT = threading.Event()


@e2i_serving.service(metrics={"enabled": False}, traffic={"timeout": 1})
class Routes:
    """Has a method for each way in."""

    @bentoml.api
    def halved(self, x: float) -> float:
        """Literally its route."""
        return x / 2

    @bentoml.api
    def made(self, x: float) -> Any:
        """Makes the response itself."""
        return JSONResponse({"made": x}, status_code=201)

    @bentoml.api
    def counted(self, x: int) -> Iterator[str]:
        """A stream, which breaks below zero."""
        yield from map(str, range(abs(x)))
        if x < 0:
            raise RuntimeError("below zero")

    @bentoml.api
    def waited(self, x: float) -> float:
        """Takes longer than it may."""
        LEFT.wait(30)
        return x

    @bentoml.api(route="/tenants/{tenant}/halved")
    def by_tenant(self, x: float) -> float:
        """A route with a parameter."""
        return x / 2


Measured = e2i_serving.service(Routes.inner)
for each in (Routes, Measured):
    each.add_asgi_middleware(Redirecting)


@pytest.fixture
def service() -> Iterator[ServiceHarness]:
    """The service."""
    with ServiceHarness(Routes) as running:
        yield running


def rows(service: ServiceHarness) -> list[Row]:
    """What is on record, the oldest first."""
    with service.trail() as trail:
        return trail.query(newest_first=False).rows()


@pytest.mark.parametrize(
    ("path", "endpoint", "route"),
    [
        ("/halved", "halved", "/halved"),
        ("/halved%0A", "halved", "/halved"),
        ("/tenants/acme/halved", "by_tenant", "/tenants/{tenant}/halved"),
        ("/tenants/a%0Ab/halved", "by_tenant", "/tenants/{tenant}/halved"),
        ("/old", "halved", "/halved"),
    ],
)
def test_a_request_is_on_record_by_whatever_path(service, path, endpoint, route):
    """What BentoML's router or a middleware leads to a method is a prediction; its route is never the raw path."""
    reply = service.request("POST", path, json={"x": 3.0}, headers=CALLER)
    assert (reply.status, reply.body) == (200, 1.5)
    (row,) = rows(service)
    assert (row["endpoint"], row["route"], row["outcome"], row["status"]) == (endpoint, route, "ok", 200)
    assert row["item_rows"][0]["prediction"] == 1.5
    assert row["request_id"] == "caller-1"
    assert row["trace_id"] == "a" * 32
    assert reply.headers.get_list("x-prediction-id") == [row["prediction_id"]]
    assert reply.headers.get_list("x-request-id") == ["caller-1"]
    assert len(reply.headers.get_list("traceparent")) == 1
    invalid = service.request("POST", path, content=b"{")
    assert invalid.status == 400
    assert [row["outcome"] for row in rows(service)] == ["ok", "invalid"]


def test_what_a_method_makes_itself_is_on_record(service):
    """A response that BentoML does not encode ends its request, too, by the route and past it."""
    for path in ("/made", "/old-made"):
        assert service.request("POST", path, json={"x": 3.0}).status == 201
    assert [(row["endpoint"], row["status"]) for row in rows(service)] == [("made", 201)] * 2


def test_a_stream_past_its_route_has_its_end_on_record(service):
    """Whole or broken, one row says how it ended."""
    assert service.request("POST", "/old-counted", json={"x": 3}).body == "012"
    assert service.request("POST", "/old-counted", json={"x": -2}).body == "01"
    assert [(row["endpoint"], row["outcome"]) for row in rows(service)] == [("counted", "ok"), ("counted", "error")]


def test_a_method_that_is_given_up_is_on_record(service):
    """By its route as a time-out; past it, where the layer does not see the answer, as cancelled."""
    try:
        for path in ("/waited", "/old-waited"):
            assert service.request("POST", path, json={"x": 3.0}).status == 504
    finally:
        LEFT.set()
    assert [row["outcome"] for row in rows(service)] == ["timeout", "cancelled"]


class Sum:
    """A model by no framework."""

    def predict(self, rows: Any) -> Any:
        return [float(len(str(cell))) for (cell,) in rows]


class Mixed(e2i_serving.RegressionService):
    """Takes values of any type, so that its body is another than its base's."""

    feature_dtype = object
    feature_names = ("word",)

    def load(self) -> Any:
        return Sum()


def test_a_body_of_any_type_is_observed_from_its_first_byte():
    """Decoding it is timed, what can't be decoded says why, and the caller's ids stand beside the body's attributes."""
    opik = {"opik_trace_id": "0192f7b0-5c1e-7d4a-9f1e-2b7c6c1e8a11"}
    with ServiceHarness(e2i_serving.service(metrics={"enabled": False})(Mixed)) as service:
        reply = service.predict(instances=[["four"]], attributes={"note": 1, **dict.fromkeys(opik, "x")}, headers=opik)
        assert (reply.status, reply.body["predictions"]) == (200, [4.0])
        assert {"decode", "queue"} <= reply.record.phases.keys()
        assert reply.record.attributes == {"note": 1, **opik}
        record = service.request("POST", "/predict", content=b"{").record
    assert record.error_type == "pydantic.ValidationError"
    assert "not valid JSON" in record.error_message


@e2i_serving.service(metrics={"enabled": False})
class Silent(Mixed):
    """Answers, and says nothing of an outcome."""

    def postprocess(self, raw: Any, request: Any) -> Any:
        return {}, {"predictions": raw, "note": "see elsewhere"}


def test_an_answer_without_outputs_is_recorded_without():
    """What a base gives no columns for is not put on record as an object of its own making."""
    with ServiceHarness(Silent) as service:
        reply = service.predict(instances=[["four"]])
        assert reply.body["predictions"] == [4.0]
        assert (reply.record.outcome, reply.record.outputs) == ("ok", {})


def test_a_request_in_the_context_of_the_one_before_is_on_record(service):
    """As servers begin those that a client sends without waiting: what has ended stands for nothing that follows."""
    ended = Observation(Endpoint("halved", "/halved"), ContextExtractor().extract([]), "POST")
    ended.over = True
    token = observation.set(ended)
    try:
        for path in ("/halved", "/old"):
            assert service.request("POST", path, json={"x": 3.0}).status == 200
    finally:
        observation.reset(token)
    assert len(rows(service)) == 2


def test_a_request_past_its_route_is_counted_once():
    """It is one HTTP request, and one prediction."""
    with ServiceHarness(Measured) as measured:
        measured.request("POST", "/old", json={"x": 3.0})
        text = measured.request("GET", "/metrics").body
    counted = re.findall(r'^e2i_http_requests_total\{route="(\S+)",status="\d+"\} (\d+)$', text, re.MULTILINE)
    assert counted == [("__unmatched__", "1")]
    assert re.search(r'^e2i_predictions_total\{.*outcome="ok"\} 1$', text, re.MULTILINE)


@e2i_serving.service(metrics={"enabled": False})
class Visits:
    """A service of its own kind that says whom its predictions are about."""

    @bentoml.api
    def total(self, visits: list[float]) -> list[float]:
        """One item an element."""
        e2i_serving.annotate(entities={"region": "north", "patient": [f"p{number}" for number in range(len(visits))]})
        return visits


def test_a_service_of_any_kind_may_say_whom_it_is_about():
    """An id stands for all items, a list for each; by both the prediction is found."""
    with ServiceHarness(Visits) as service:
        assert service.request("POST", "/total", json={"visits": [1.0, 2.0]}).status == 200
        with service.trail() as trail:
            (row,) = trail.query(entity="patient=p1")
            assert trail.count(entity="region=north") == 1
    assert [item["entity"] for item in row["item_rows"]] == [
        {"region": "north", "patient": "p0"},
        {"region": "north", "patient": "p1"},
    ]


@pytest.mark.parametrize("path", ["/halved", "/old"])
def test_a_failure_that_must_be_on_record_is_refused_too(monkeypatch, path):
    """What is said of it is what was answered."""

    def full(*_: Any) -> None:
        raise JournalFull("no room")

    with ServiceHarness(Routes, observability={"audit_required": True}) as service:
        monkeypatch.setattr(JournalWriter, "append", full)
        reply = service.request("POST", path, content=b"{")
        assert (reply.status, reply.record.status) == (503, 503)


@pytest.mark.parametrize("path", ["/halved", "/halved%0A", "/tenants/acme/halved", "/old", "/old-made"])
def test_no_path_leads_past_what_must_be_on_record(monkeypatch, path):
    """Where records are required and the journal takes none, each way in is refused with 503."""

    def full(*_: Any) -> None:
        raise JournalFull("no room")

    with ServiceHarness(Routes, observability={"audit_required": True}) as service:
        monkeypatch.setattr(JournalWriter, "append", full)
        reply = service.request("POST", path, json={"x": 3.0})
        assert reply.status == 503
        assert reply.headers["retry-after"] == "5"
        assert reply.body["detail"] == "journal-full"
        assert "1.5" not in str(reply.body)
