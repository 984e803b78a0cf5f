"""Log lines by OTLP: what is written is sent, with its ids; nobody waits for a receiver."""

from __future__ import annotations

import io
import json
import logging

import pytest

from e2i_serving.runtime.log_export import MOST_WAITING, LogExport
from e2i_serving.runtime.logs import configure_logs
from e2i_serving.settings import Settings, logs_variables
from e2i_serving.testing import LogReceiver

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"


@pytest.fixture
def _logging():
    """Leave logging as it was."""
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], root.level = before


def export_to(receiver, **variables):
    """An export to a receiver that sends at once."""
    environ = {**receiver.environment, "OTEL_BLRP_SCHEDULE_DELAY": "20", **variables}
    return LogExport(logs_variables(environ), {"service.name": "Credit"})


@pytest.mark.usefixtures("_logging")
def test_a_line_is_written_and_sent(eventually):
    """A line arrives as it was written: text, level, logger, fields and whose it is."""
    stream = io.StringIO()
    with LogReceiver() as receiver:
        export = export_to(receiver, OTEL_RESOURCE_ATTRIBUTES="team=a%20b", OTEL_SERVICE_NAME="named")
        assert configure_logs(Settings(log_format="json"), stream=stream, tee=export.tee) is not None
        logging.getLogger("mine").warning("It is %s", "late", extra={"minutes": 3})
        (sent,) = eventually(lambda: receiver.lines, what="a line")
        export.close()
    written = json.loads(stream.getvalue())
    assert (written["event"], written["minutes"]) == ("It is late", 3)
    assert sent["body"] == "It is late"
    assert sent["severity"] == "WARNING"
    assert sent["attributes"]["minutes"] == 3
    assert sent["attributes"]["logger"] == "mine"
    assert sent["resource"] == {"service.name": "named", "team": "a b"}


def test_ids_and_values_of_all_kinds_arrive(eventually):
    """Trace and span ids are the record's own; what is no plain value is sent as its text."""
    line = {"event": "request", "level": "info", "time": "2030-01-31T12:00:00.5+00:00", "trace_id": TRACE}
    line |= {"span_id": SPAN, "labels": {"brand": "north"}, "ok": True, "seconds": 0.5, "set": {1}, "none": None}
    with LogReceiver() as receiver:
        export = export_to(receiver)
        assert export.tee(lambda _: "text")(line) == "text"
        export.close()
        (sent,) = eventually(lambda: receiver.lines, what="a line")
    assert (sent["trace_id"], sent["span_id"], sent["time"]) == (TRACE, SPAN, 1_896_091_200_500_000_000)
    assert sent["attributes"] == {"labels": {"brand": "north"}, "ok": True, "seconds": 0.5, "set": "{1}"}


@pytest.mark.parametrize(
    ("odd", "attributes"),
    [
        ({"trace_id": "order-17", "span_id": "7"}, {"trace_id": "order-17", "span_id": "7"}),
        ({"trace_id": TRACE[:-2], "span_id": TRACE}, {"trace_id": TRACE[:-2], "span_id": TRACE}),
        ({"trace_id": f"{TRACE[:-2]}  ", "span_id": 7}, {"trace_id": f"{TRACE[:-2]}  ", "span_id": 7}),
        ({"trace_id": None, "span_id": ""}, {}),
        ({"path": "caf\udce9", "caf\udce9": {"caf\udce9": 1}}, {"path": "caf?", "caf?": {"caf?": 1}}),
        ({"time": "1900-01-01T00:00:00+00:00"}, {}),
    ],
)
def test_an_odd_line_is_sent_with_the_others(eventually, odd, attributes):
    """What is no id is an attribute, what is no Unicode is replaced, what is no time of a log is now."""
    with LogReceiver() as receiver:
        export = export_to(receiver)
        render = export.tee(str)
        for line in ({"event": "one"}, {"event": "odd", **odd}, {"event": "three"}):
            render(line)
        export.close()
        sent = eventually(lambda: len(receiver.lines) == 3 and receiver.lines, what="the lines")
    assert [line["body"] for line in sent] == ["one", "odd", "three"]
    assert (sent[1]["trace_id"], sent[1]["span_id"], sent[1]["attributes"]) == ("", "", attributes)
    assert sent[1]["time"] > 1_700_000_000_000_000_000
    assert export.dropped == 0


def test_a_line_that_cannot_be_sent_is_lost_alone(eventually, caplog):
    """It is counted, and the others of its batch arrive."""

    class Broken:
        def __repr__(self):
            raise ValueError

    with LogReceiver() as receiver:
        export = export_to(receiver)
        render = export.tee(lambda line: line["event"])
        for line in ({"event": "one"}, {"event": "broken", "what": Broken()}, {"event": "three"}):
            render(line)
        export.close()
        eventually(lambda: len(receiver.lines) == 2, what="the lines")
    assert [line["body"] for line in receiver.lines] == ["one", "three"]
    assert export.dropped == 1
    assert "1 log lines" in caplog.text


def test_a_receiver_that_refuses_costs_lines_and_no_time(eventually):
    """What can't be sent is counted and let go; what waits is bounded."""
    with LogReceiver() as receiver:
        receiver.status = 503
        export = export_to(receiver)
        render = export.tee(lambda line: line["event"])
        assert render({"event": "one"}) == "one"
        eventually(lambda: export.dropped == 1, what="the loss")
        receiver.status = 200
        render({"event": "two"})
        eventually(lambda: [line["body"] for line in receiver.lines] == ["two"], what="the next line")
        export.close()
    idle = LogExport(logs_variables({"OTEL_BLRP_SCHEDULE_DELAY": "3600000"}), {})
    for _ in range(MOST_WAITING + 10):
        idle.tee(str)({"event": "many"})
    assert idle.dropped == 10
    idle.close()
