"""One request has one id, in one encoding, wherever it shows: row, log lines, spans, error events, answer."""

from __future__ import annotations

import itertools
import json
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import pytest

from e2i_serving.runtime.events import SERVICE
from e2i_serving.testing import EnvelopeReceiver, OtlpReceiver

PARENT = "00f067aa0ba902b7"
STATUSES = {"work": 200, "invalid": 400, "fail": 500, "sleep": 504}
METHODS = ["sync", "coroutine", "thread", "batched", "nested"]
SENDERS = ["w3c", "b3", "b3-multi", "x-request-id", "none"]
CELLS = list(itertools.product(SENDERS, METHODS, STATUSES))


def headers_of(sender: str, number: int) -> dict[str, str]:
    """What a caller of this kind sends."""
    trace_id = f"{0x4BF92F3577B34DA6A3CE929D0E0E0000 + number:032x}"
    return {
        "w3c": {"traceparent": f"00-{trace_id}-{PARENT}-01"},
        "b3": {"b3": f"{trace_id}-{PARENT}-1"},
        "b3-multi": {"X-B3-TraceId": trace_id, "X-B3-SpanId": PARENT, "X-B3-Sampled": "1"},
        "x-request-id": {"X-Request-ID": f"order-{number}"},
        "none": {},
    }[sender]


@dataclass
class Seen:
    """All that was seen of one request."""

    sent: dict[str, str]
    status: int
    answer: dict[str, str]
    rows: list[dict] = field(default_factory=list)
    lines: list[dict] = field(default_factory=list)
    spans: list[dict] = field(default_factory=list)
    events: list[dict] = field(default_factory=list)

    @property
    def trace_id(self) -> str:
        return self.answer["traceparent"].split("-")[1]

    @property
    def row(self) -> dict:
        """The row of the request itself."""
        return next(row for row in self.rows if row["prediction_id"] == self.answer["x-prediction-id"])

    @property
    def server_span(self) -> dict:
        """The span of the request itself."""
        return next(span for span in self.spans if span["span_id"] == self.row["span_id"])


@pytest.fixture(scope="module")
def sent_and_received(serve):
    """Every cell's request, sent to one server, with all that came of it; and all spans."""
    with OtlpReceiver() as spans, EnvelopeReceiver() as events:
        settings = {
            "E2I_SERVING_TRACE_EXPORTER": "otlp-http",
            "E2I_SERVING_TRACE_SAMPLE_RATE": "1",
            "E2I_SERVING_INSTRUMENT": '["httpx", "requests", "threads"]',
            "E2I_SERVING_LOG_FORMAT": "json",
            "SENTRY_DSN": events.dsn,
            **spans.environment,
        }
        with serve("onward:Onward", **settings) as server:

            def send(number: int) -> tuple[tuple[str, str, str], Seen]:
                sender, method, do = CELLS[number]
                sent = headers_of(sender, number)
                body = {"do": [do] if method == "batched" else do}
                answer = server.post(f"/{method}", json=body, headers=sent)
                return CELLS[number], Seen(sent, answer.status_code, dict(answer.headers))

            # In turn, for one that fails takes its batch along, and the slow ones last, for they hold up the next.
            batched = [number for number, cell in enumerate(CELLS) if cell[1] == "batched"]
            batched.sort(key=lambda number: CELLS[number][2] == "sleep")
            others = [number for number in range(len(CELLS)) if number not in batched]
            with ThreadPoolExecutor(8) as pool:
                found = dict(pool.map(send, others))
            found |= dict(map(send, batched))
            trail = server.trail()
            end = time.monotonic() + 30
            while trail.count() < len(CELLS) * 6 // 5 and time.monotonic() < end:
                time.sleep(0.1)
            rows = list(trail.query())
            trail.close()
        # The server has stopped: what it had to send, it has sent.
        lines = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
    for each in found.values():
        each.rows = [row for row in rows if row["trace_id"] == each.trace_id]
        each.lines = [line for line in lines if line.get("trace_id") == each.trace_id]
        each.spans = [span for span in spans.spans if span["trace_id"] == each.trace_id]
        each.events = [event for event in events.events if event["tags"]["trace_id"] == each.trace_id]
    return found, spans.spans


@pytest.fixture(scope="module")
def seen(sent_and_received):
    """Every cell's request, with all that came of it."""
    return sent_and_received[0]


@pytest.fixture(params=CELLS, ids="-".join)
def cell(request, seen):
    """One cell of the matrix: who sends, to which kind of method, with which end."""
    return request.param, seen[request.param]


def test_cell(cell):
    """The answer, the row, each log line, each span and the error event tell the same ids, in the same encoding."""
    (sender, method, do), seen = cell
    assert seen.status == STATUSES[do]
    sent, row = seen.sent, seen.row
    request_id = seen.answer["x-request-id"]
    assert request_id == sent.get("X-Request-ID", seen.answer["x-prediction-id"])
    if sender in ("w3c", "b3", "b3-multi"):
        assert seen.trace_id in str(sent)
        assert row["parent_span_id"] == PARENT
    assert seen.answer["traceparent"] == f"00-{row['trace_id']}-{row['span_id']}-01"
    assert "total;dur=" in seen.answer["server-timing"]
    assert {each["request_id"] for each in seen.rows} == {request_id}
    assert row["status"] == seen.status
    assert seen.lines
    assert {line["request_id"] for line in seen.lines} == {request_id}
    (access,) = [line for line in seen.lines if line["event"] == "request" and line["route"] == f"/{method}"]
    assert (access["span_id"], access["status"]) == (row["span_id"], row["status"])
    if method != "batched":  # whose function works for several requests at once
        assert any(line["event"] == "working" for line in seen.lines)
    assert seen.server_span["name"] == f"POST /{method}"
    assert seen.server_span["attributes"]["e2i.request_id"] == request_id
    assert seen.server_span["is_error"] == (seen.status >= 500)
    assert "predict" in {span["name"] for span in seen.spans} or do == "sleep" or method == "batched"
    own = [event for event in seen.events if event["transaction"] == f"/{method}"]
    assert len(own) == (seen.status >= 500)
    for event in own:
        assert event["tags"]["request_id"] == request_id
        assert event["contexts"]["trace"]["span_id"] == row["span_id"]


def test_no_span_is_an_orphan(cell):
    """Each span's parent was exported too, or is the caller's; the service's own spans are within its request."""
    (sender, method, _), seen = cell
    known = {span["span_id"] for span in seen.spans}
    roots = {span["parent_span_id"] for span in seen.spans if span["parent_span_id"] not in known}
    assert roots == ({PARENT} if sender in ("w3c", "b3", "b3-multi") else {""})
    assert len(known) == len(seen.spans)
    if method != "batched":
        assert any(span["name"] == "look up" for span in seen.spans)


@pytest.mark.parametrize("sender", SENDERS)
def test_called_service_knows_who_called(seen, sender):
    """The row of a called service has the request id, the label and, as its parent, the caller's prediction id."""
    found = seen[sender, "nested", "work"]
    (below,) = [row for row in found.rows if row["endpoint"] == "below"]
    assert below["parent_request_id"] == found.row["prediction_id"]
    assert below["request_id"] == found.row["request_id"]
    assert found.row["labels"] == {"brand": "alpha"}


def test_the_relays_spans_are_its_own(sent_and_received):
    """Its batches and its calls of the database are whole trees, told from a worker's, and in no request's trace."""
    seen, spans = sent_and_received
    ids = {span["span_id"] for span in spans}
    batches = [span for span in spans if span["name"] == "deliver audit-store"]
    calls = [span for span in spans if "db.operation.name" in span["attributes"]]
    assert sum(batch["attributes"]["e2i.records"] for batch in batches) >= len(CELLS)
    assert "COMMIT" in {call["name"] for call in calls}
    assert {batch["parent_span_id"] for batch in batches} == {""}
    assert {call["parent_span_id"] for call in calls} <= {batch["span_id"] for batch in batches} <= ids
    assert {span["trace_id"] for span in calls + batches}.isdisjoint(each.trace_id for each in seen.values())
    (instance,) = {span["resource"]["service.instance.id"] for span in calls + batches}
    assert instance.endswith("/relay")
    assert instance not in {
        span["resource"].get("service.instance.id") for each in seen.values() for span in each.spans
    }
    services = {span["resource"]["service.name"] for each in seen.values() for span in each.spans}
    assert services <= {span["resource"]["service.name"] for span in batches} <= services | {SERVICE}
