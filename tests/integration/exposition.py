"""A service's ``/metrics`` without the service: every metric there is, going up at each scrape."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

VERSIONED = 'model="churn",version="1"'
TASKED = f'{VERSIONED},task="classification"'

# A counter's labels, and how much it grows a scrape.
COUNTERS: dict[str, dict[str, int]] = {
    "e2i_predictions_total": {
        f'{TASKED},outcome="ok"': 96,
        f'{TASKED},outcome="error"': 2,
        f'{TASKED},outcome="timeout"': 1,
        f'{TASKED},outcome="rejected"': 1,
        f'{TASKED},outcome="invalid"': 5,
    },
    "e2i_prediction_items_total": {f'{TASKED},outcome="ok"': 300},
    "e2i_predictions_timed_total": {
        f'{VERSIONED},bound="0.5",within="yes"': 99,
        f'{VERSIONED},bound="0.5",within="no"': 1,
    },
    "e2i_labelled_predictions_total": {
        f'{VERSIONED},outcome="ok",brand="north",region="eu"': 60,
        f'{VERSIONED},outcome="ok",brand="south",region="eu"': 36,
    },
    "e2i_predicted_class_total": {f'{VERSIONED},class="stays"': 200, f'{VERSIONED},class="goes"': 100},
    "e2i_errors_total": {'model="churn",type="ValueError"': 2, 'model="churn",type="timeout"': 1},
    "e2i_http_requests_total": {'route="/predict",status="200"': 96, 'route="/predict",status="500"': 2},
    "e2i_internal_failures_total": {'part="access log"': 1},
    "e2i_label_overflow_total": {'label="brand"': 1},
    "e2i_audit_records_observed_total": {"": 105},
    "e2i_audit_records_accepted_total": {"": 100},
    "e2i_audit_records_sampled_out_total": {"": 4},
    "e2i_audit_records_interrupted_total": {"": 1},
    "e2i_audit_records_unjournaled_total": {'reason="disk-full"': 1},
    "e2i_audit_delivered_total": {'destination="audit-store"': 99},
    "e2i_audit_dropped_total": {'destination="audit-store",reason="overflow"': 1},
    "e2i_feature_outcomes_total": {
        'view="customer",outcome="hit"': 98,
        'view="customer",outcome="stale"': 2,
        'view="customer",outcome="missing"': 3,
        'view="customer",outcome="null"': 1,
    },
}

# A histogram's labels, and where its hundred observations a scrape lie: how many in each bucket.
HISTOGRAMS: dict[str, tuple[str, dict[str, int]]] = {
    "e2i_prediction_duration_seconds": (VERSIONED, {"0.01": 60, "0.1": 30, "0.5": 9, "2": 1}),
    "e2i_prediction_phase_duration_seconds": (f'{VERSIONED},phase="predict"', {"0.5": 100}),
    "e2i_labelled_prediction_duration_seconds": (f'{VERSIONED},brand="north",region="eu"', {"0.5": 99, "2": 1}),
    "e2i_response_bytes": (VERSIONED, {"128": 10, "1024": 90}),
    "e2i_batch_items": (VERSIONED, {"1": 40, "8": 60}),
    "e2i_prediction_score": (VERSIONED, {"0.25": 30, "0.5": 30, "0.75": 20, "1": 20}),
    "e2i_prediction_value": (VERSIONED, {"-10": 20, "0": 30, "10": 50}),
    "e2i_prediction_effect": (VERSIONED, {"-0.1": 20, "0": 30, "0.1": 50}),
    "e2i_feature_age_seconds": ('view="customer"', {"60": 90, "3600": 10}),
}

GAUGES: dict[str, tuple[str, float]] = {
    "e2i_predictions_in_progress": ("", 3),
    "e2i_model_ready": (VERSIONED, 1),
    "e2i_model_load_seconds": (VERSIONED, 1.5),
    "e2i_workers": ('service="Churn"', 2),
    "e2i_workers_expected": ('service="Churn"', 2),
    "e2i_relay_up": ("", 1),
    "e2i_audit_backlog_records": ('destination="audit-store"', 40),
    "e2i_audit_oldest_record_age_seconds": ('destination="audit-store"', 0.4),
    "e2i_audit_dead_letters": ('destination="audit-store"', 0),
    "e2i_audit_breaker_state": ('destination="audit-store"', 0),
    "e2i_service_info": (
        f'service="churn",bento="churn",bento_version="7",{TASKED},release="0.1.0"',
        1,
    ),
}


def exposition(scrapes: int) -> str:
    """The metrics after so many scrapes, in Prometheus' text format."""
    lines: list[str] = []
    for name, counters in COUNTERS.items():
        lines.append(f"# TYPE {name} counter")
        lines += [f"{name}{{{labels}}} {step * scrapes}" for labels, step in counters.items()]
    for name, (labels, buckets) in HISTOGRAMS.items():
        lines.append(f"# TYPE {name} histogram")
        count = 0
        for bound, each in buckets.items():
            count += each * scrapes
            lines.append(f'{name}_bucket{{{labels},le="{bound}"}} {count}')
        lines.append(f'{name}_bucket{{{labels},le="+Inf"}} {count}')
        lines.append(f"{name}_sum{{{labels}}} {count * 0.05}")
        lines.append(f"{name}_count{{{labels}}} {count}")
    for name, (labels, value) in GAUGES.items():
        lines.append(f"# TYPE {name} gauge")
        lines.append(f"{name}{{{labels}}} {value}")
    return "\n".join([*lines, ""])


@contextmanager
def exporter() -> Iterator[str]:
    """A server that answers any path with these metrics; gives its ``host:port``."""
    scrapes = 0

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            nonlocal scrapes
            scrapes += 1
            body = exposition(scrapes).encode()
            self.send_response(200)
            self.send_header("Content-Type", "text/plain; version=0.0.4")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
