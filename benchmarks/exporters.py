"""What exporting costs: CPU a trace against a loop written by hand, and what a served model notices of it.

The loop by hand makes the same object of a prediction's plain values, encodes it, compresses it, and posts it with
httpx. A receiver takes what is sent in a process of its own. The served model is measured without an exporter (twice,
as a control), with a receiver that answers, and with one that never does.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import msgspec
import numpy as np
from overhead import BASE, DRAIN_SECONDS, START_SECONDS, STOP_SECONDS, WARM_UP_REQUESTS, Bench, Server, await_true
from path_cost import MODEL, observe
from rich.console import Console
from rich.table import Table

from e2i_serving.exporters.opik import OpikExporter
from e2i_serving.propagation import ContextExtractor
from e2i_serving.record import Entry, Life, Matrix
from e2i_serving.relay.audit_destination import AUDIT_STORE
from e2i_serving.relay.books import read_books
from e2i_serving.testing import ExportReceiver, Fault
from e2i_serving.testing.exporters import Request

OFF, CONTROL, ON, HUNG = "off", "off again (A/A)", "on", "on, the receiver hangs"
BATCH = 500

console = Console(highlight=False, width=max(110, Console().width))


class Answers(ExportReceiver):
    """Takes everything and keeps nothing, or never answers."""

    def __init__(self, *, hangs: bool) -> None:
        super().__init__()
        self.status = 204
        self.judge = lambda _request: Fault(204, delay_seconds=3600) if hangs else None

    def take(self, request: Request) -> None:  # noqa: ARG002  # as the receiver has it
        """Let go of it."""
        self.requests.clear()


@contextmanager
def receiver(*, hangs: bool = False) -> Iterator[str]:
    """The address of a receiver in a process of its own."""
    command = [sys.executable, __file__, "--receive", "hung" if hangs else "well"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.communicate()


def receive(*, hangs: bool) -> None:
    """Be that process."""
    with Answers(hangs=hangs) as answers:
        print(answers.url, flush=True)
        sys.stdin.read()


def entries(count: int) -> list[Entry]:
    """Predictions of 30 features, each with values of its own."""
    life = Life("life-1", "Overhead", 1, 1, model=MODEL)
    extractor, numbers = ContextExtractor(), np.random.default_rng(0)
    found: list[Entry] = []
    for sequence in range(count):
        features = Matrix.of(numbers.normal(size=(1, len(MODEL.feature_names))))
        record = msgspec.structs.replace(observe(extractor).record(MODEL), inputs={"features": features})
        found.append(Entry(life, sequence, record, 1000))
    return found


class ByHand:
    """The loop that someone would write who has the values at hand.

    Args:
        url: Where to.
        sent: The traces that the exporter sends, whose values are taken.
        encode: Makes JSON.
    """

    def __init__(self, url: str, sent: Sequence[dict[str, Any]], encode: Callable[[Any], bytes]) -> None:
        self._client = httpx.Client(base_url=url, headers={"Comet-Workspace": "default"})
        self._encode = encode
        self._values = [
            (trace, tuple(trace["input"]), list(trace["input"].values()), trace["output"], trace["metadata"])
            for trace in sent
        ]

    def post(self) -> None:
        """Post all of them in one batch."""
        traces = [
            {
                "id": trace["id"],
                "project_name": "Overhead",
                "name": trace["name"],
                "start_time": datetime.fromtimestamp(1_790_000_000.123456, UTC).isoformat(),
                "end_time": datetime.fromtimestamp(1_790_000_000.223456, UTC).isoformat(),
                "metadata": {**metadata},
                "tags": ["Overhead", metadata["model"], metadata["outcome"]],
                "source": "sdk",
                "input": dict(zip(names, values, strict=True)),
                "output": {**output, "probabilities": {**output["probabilities"]}},
            }
            for trace, names, values, output, metadata in self._values
        ]
        body = gzip.compress(self._encode({"traces": traces}), 1)
        headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
        self._client.post("/v1/private/traces/batch", content=body, headers=headers).raise_for_status()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()


def cpu_of(work: Callable[[], object]) -> float:
    """Microseconds of CPU of this process a trace."""
    began = time.process_time()
    work()
    return (time.process_time() - began) / BATCH * 1e6


def per_trace(rounds: int) -> dict[str, list[float]]:
    """CPU a trace, microseconds, in turn: the exporter, and the loop by hand with either encoder."""
    given = entries(BATCH)
    with ExitStack() as stack:
        sent: list[Request] = []
        with ExportReceiver() as looked_at, _exporter(looked_at.url) as first:
            first.export(given)
            sent += looked_at.requests
        url = stack.enter_context(receiver())
        exporter = stack.enter_context(_exporter(url))
        traces = [trace for request in sent for trace in request.json()["traces"]]
        by_hand = {
            "by hand, msgspec": ByHand(url, traces, msgspec.json.encode),
            "by hand, json": ByHand(url, traces, lambda value: json.dumps(value).encode()),
        }
        ways: list[tuple[str, Callable[[], object]]] = [("exporter", lambda: exporter.export(given))]
        ways += [(name, stack.enter_context(closing(loop)).post) for name, loop in by_hand.items()]
        taken: dict[str, list[float]] = {name: [] for name, _ in ways}
        for _, work in ways:
            work()
        for turn in range(rounds):
            first_way = turn % len(ways)
            for name, work in [*ways[first_way:], *ways[:first_way]]:
                taken[name].append(cpu_of(work))
    return taken


@contextmanager
def _exporter(url: str) -> Iterator[OpikExporter]:
    exporter = OpikExporter(url)
    try:
        yield exporter
    finally:
        exporter.shutdown()


def served(rounds: int, requests: int, connections: int) -> dict[str, list[dict[str, float]]]:
    """Throughput (requests a second) and p99 (seconds) of a served model, a leg a round, in turn."""
    directory = Path(tempfile.mkdtemp(prefix="e2i-exporters-"))
    bench = Bench(directory, requests)
    bench.train()
    with ExitStack() as stack:
        on = {"E2I_SERVING_OPIK_ENABLED": "true"}
        settings: dict[str, dict[str, str]] = {
            OFF: {},
            CONTROL: {},
            ON: {**on, "E2I_SERVING_OPIK_URL": stack.enter_context(receiver())},
            HUNG: {**on, "E2I_SERVING_OPIK_URL": stack.enter_context(receiver(hangs=True))},
        }
        servers: dict[str, Server] = {}
        for number, (name, given) in enumerate(settings.items()):
            servers[name] = stack.enter_context(bench.serve(BASE, f"{number}", given))
            stack.callback(_end_relay, servers[name])
        for name, server in servers.items():
            await_true(server.ready, START_SECONDS, f"{name!r} is ready")
            bench.load(server, WARM_UP_REQUESTS, connections)
        legs: dict[str, list[dict[str, float]]] = {name: [] for name in servers}
        for turn in range(rounds):
            names = list(servers)
            for name in [*names[turn % len(names) :], *names[: turn % len(names)]]:
                found = bench.load(servers[name], requests, connections)
                latencies: Any = found["latencies"]
                seconds: Any = found["seconds"]
                p99 = latencies[int(len(latencies) * 0.99)]
                legs[name].append({"throughput": requests / seconds, "p99": p99})
                await_true(lambda name=name: _is_drained(servers[name], name), DRAIN_SECONDS, f"{name!r} is drained")
    shutil.rmtree(directory, ignore_errors=True)
    return legs


def _is_drained(server: Server, name: str) -> bool:
    books = read_books(server.data_dir)
    return all(book.pending == 0 for book in books if name != HUNG or book.destination == AUDIT_STORE)


def _end_relay(server: Server) -> None:
    # One that has a receiver that hangs would wait for it.
    server.process.terminate()
    server.process.wait(STOP_SECONDS)
    for _ in range(2):
        if (relay := server.relay) is not None:
            os.kill(relay, signal.SIGTERM)


def interval(found: Sequence[float]) -> str:
    """The median, and the range of the middle nine tenths."""
    ordered = sorted(found)
    edge = len(ordered) // 20
    return f"{statistics.median(ordered):.2f} ({ordered[edge]:.2f}-{ordered[-1 - edge]:.2f})"


def show_traces(taken: dict[str, list[float]]) -> None:
    """Show CPU a trace."""
    table = Table("CPU a trace", "median, µs", "exporter / this")
    for name, each in taken.items():
        ratios = [ours / theirs for ours, theirs in zip(taken["exporter"], each, strict=True)]
        table.add_row(name, f"{statistics.median(each):.1f}", "-" if name == "exporter" else interval(ratios))
    console.print(table)


def show_served(legs: dict[str, list[dict[str, float]]]) -> None:
    """Show what a served model notices, as ratios to the one without an exporter."""
    table = Table("exporter", "throughput", "p99", "throughput / off", "p99 / off")
    for name, found in legs.items():
        throughput, p99 = (statistics.median(leg[quantity] for leg in found) for quantity in ("throughput", "p99"))
        ratios = [
            "-" if name == OFF else interval([a[quantity] / b[quantity] for a, b in zip(found, legs[OFF], strict=True)])
            for quantity in ("throughput", "p99")
        ]
        table.add_row(name, f"{throughput:.0f}/s", f"{p99 * 1000:.1f} ms", *ratios)
    console.print(table)


def main() -> int:
    """Measure and show; with a budget, 1 if the exporter costs more."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=40, help="of traces (default: %(default)s)")
    parser.add_argument("--served-rounds", type=int, default=12, help="of a served model; 0 for none (default: 12)")
    parser.add_argument("--requests", type=int, default=400, help="a leg (default: %(default)s)")
    parser.add_argument("--connections", type=int, default=8, help="default: %(default)s")
    parser.add_argument("--check", type=float, metavar="RATIO", help="exit with 1 if a trace costs more than that")
    parser.add_argument("--receive", choices=["well", "hung"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.receive:
        receive(hangs=options.receive == "hung")
        return 0
    taken = per_trace(options.rounds)
    show_traces(taken)
    if options.served_rounds:
        show_served(served(options.served_rounds, options.requests, options.connections))
    ratio = statistics.median(a / b for a, b in zip(taken["exporter"], taken["by hand, msgspec"], strict=True))
    if options.check is not None and ratio > options.check:
        console.print(f"[red]✗[/] A trace costs {ratio:.2f} of the loop by hand, over the budget of {options.check:g}.")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
