"""What the demo shows of the audit trail, and the check that it tells what the client saw."""

from __future__ import annotations

import shlex
import statistics
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import httpx
from client import Answer
from rich.console import Console
from rich.table import Table
from servers import EXAMPLES, Demo, poll

from e2i_serving import AuditTrail, E2IServingError

OUTCOMES = {httpx.codes.OK: "ok", httpx.codes.BAD_REQUEST: "invalid"}
METRICS = ("e2i_predictions_total{", "e2i_prediction_items_total{", "e2i_audit_records_")


class Report:
    """Shows what was kept, on a console."""

    def __init__(self, console: Console, demo: Demo) -> None:
        self._console = console
        self._demo = demo

    def show(self, answers: Sequence[Answer]) -> None:
        """Show all of it."""
        self._client(answers)
        self._cli("audit", "query", "--limit", "6")
        self._cli("audit", "query", "--outcome", "invalid", "--limit", "3")
        self._cli("audit", "show", f"demo-{EXAMPLES[-1]}-0000")
        self._latency()
        self._metrics()
        self._cli("audit", "books")
        self._console.print()

    def _client(self, answers: Sequence[Answer]) -> None:
        table = Table("model", "requests", "rows asked for", "ok", "invalid", "p50, ms", title="What the client saw")
        for name in EXAMPLES:
            of_model = [answer for answer in answers if answer.request.model == name]
            outcomes = Counter(OUTCOMES.get(answer.status, "other") for answer in of_model)
            rows = sum(answer.request.rows for answer in of_model)
            median = statistics.median(answer.seconds for answer in of_model) * 1000
            table.add_row(name, *map(str, (len(of_model), rows, outcomes["ok"], outcomes["invalid"])), f"{median:.1f}")
        self._console.print()
        self._console.print(table)

    def _cli(self, *arguments: str) -> None:
        self._console.print(f"\n[bold]$ e2i-serving {shlex.join(arguments)}[/]")
        self._demo.cli(*arguments)

    def _latency(self) -> None:
        table = Table("model", "version", "count", "p50", "p95", "p99", title="AuditTrail.latency(outcome='ok'), ms")
        with AuditTrail.open(self._demo.data) as trail:
            for (model, version), found in trail.latency(outcome="ok").items():
                percentiles = (f"{found[name] * 1000:.2f}" for name in ("p50", "p95", "p99"))
                table.add_row(model, version, f"{found['count']:.0f}", *percentiles)
        self._console.print()
        self._console.print(table)

    def _metrics(self) -> None:
        # Any server of a data directory tells of all of them.
        url = f"{self._demo.servers[0].url}/metrics"
        self._console.print(f"\n[bold]$ curl -s {url} | grep _total[/]")
        for line in httpx.get(url).text.splitlines():
            if line.startswith(METRICS):
                self._console.print(line, markup=False)


def await_stored(demo: Demo, total: int) -> None:
    """Wait until the relay has stored as many predictions as were asked for."""

    def stored() -> bool:
        with suppress(E2IServingError), AuditTrail.open(demo.data) as trail:
            return trail.count() >= total
        return False

    poll(stored, f"{total} predictions stand in the audit trail")


def mismatches(demo: Demo, answers: Sequence[Answer]) -> list[str]:
    """Where the audit trail and the client differ; empty when every request stands there as it was answered."""
    wrong = [
        f"{answer.request.request_id} was answered with {answer.status}, not {answer.request.status}"
        for answer in answers
        if answer.status != answer.request.status
    ]
    with AuditTrail.open(demo.data) as trail:
        kept: dict[str, Any] = {row["prediction_id"]: row for row in trail.query()}
    for answer in answers:
        request_id = answer.request.request_id
        row = kept.pop(answer.prediction_id, None)
        if row is None:
            wrong.append(f"{request_id} is not in the audit trail")
        elif (row["request_id"], row["status"]) != (request_id, answer.status):
            wrong.append(
                f"{request_id}, answered with {answer.status}, is kept as {row['request_id']}, {row['status']}"
            )
        elif answer.status == httpx.codes.OK and len(row["item_rows"]) != answer.request.rows:
            wrong.append(f"{request_id} asked for {answer.request.rows} rows and has {len(row['item_rows'])}")
    return wrong + [f"{prediction_id} is kept and was never asked for" for prediction_id in kept]
