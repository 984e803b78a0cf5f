"""With nobody to take spans and error events, predictions go on, all on record."""

from __future__ import annotations

import json
import re
import socket

import httpx
import pytest


@pytest.mark.parametrize("exporter", ["otlp-http", "otlp-grpc"])
def test_predictions_go_on(serve, eventually, exporter):
    """Every request is answered and on record, what is lost is counted, and the log says so now and then."""
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        gone = f"127.0.0.1:{nobody.getsockname()[1]}"
    settings = {
        "E2I_SERVING_TRACE_EXPORTER": exporter,
        "E2I_SERVING_TRACE_SAMPLE_RATE": "1",
        "E2I_SERVING_LOG_FORMAT": "json",
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://{gone}",
        "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
        "OTEL_BSP_MAX_QUEUE_SIZE": "20",
        "SENTRY_DSN": f"http://public@{gone}/1",
    }
    with serve("onward:Onward", **settings) as server:
        answers = [server.post("/sync", json={"do": do}).status_code for do in ["work", "fail"] * 50]
        assert answers == [200, 500] * 50
        trail = server.trail()
        eventually(lambda: trail.count() == 100)
        trail.close()

        def lost() -> float:
            found = re.search(r"^e2i_spans_dropped_total (\S+)$", httpx.get(f"{server.url}/metrics").text, re.MULTILINE)
            return float(found[1]) if found else 0

        eventually(lambda: lost() > 0, what="lost spans to be counted")
    lines = [json.loads(line) for line in server.log.read_text().splitlines() if line.startswith("{")]
    said = [line["logger"] for line in lines if "Spans can't be exported" in line["event"]]
    assert (said.count("e2i_serving"), said.count("e2i_serving.relay")) in ((1, 0), (1, 1))  # each process for itself
    assert len([line for line in lines if line["level"] in ("warning", "error") and "request_id" not in line]) < 10
