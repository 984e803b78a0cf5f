"""What observing costs: a served model, bare and observed, in interleaved rounds with a bare-against-bare control."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

from process_cost import counts_instructions, measure
from rich.console import Console
from rich.table import Table
from sklearn.datasets import load_breast_cancer

from e2i_serving.relay import RelayLock
from e2i_serving.relay.books import read_books

HERE = Path(__file__).resolve().parent
BARE, CONTROL, OBSERVED, BASE = "bare", "bare again (A/A)", "observed", "base class"
VARIANTS = {BARE: "bare:Bare", CONTROL: "bare:Bare", OBSERVED: "observed:Observed", BASE: "base:Base"}
WARM_UP_REQUESTS = 200
START_SECONDS = 90.0
DRAIN_SECONDS = 60.0
STOP_SECONDS = 20.0

console = Console(highlight=False, width=max(110, Console().width))

Leg = Mapping[str, float]
"""One variant under one load: by quantity. CPU in seconds a request, latencies in seconds."""


@dataclass(frozen=True)
class Server:
    """A variant that is served.

    Attributes:
        variant: Its name.
        port: Where it listens.
        process: Its supervisor.
        data_dir: Where it keeps its journal, if it is observed.
        body: A file with the body to send it.
    """

    variant: str
    port: int
    process: subprocess.Popen[bytes]
    data_dir: Path
    body: Path

    @property
    def relay(self) -> int | None:
        """The relay's process, which is no child of the server's."""
        return RelayLock(self.data_dir).holder()

    @property
    def is_bare(self) -> bool:
        """Whether nothing of this package is in it."""
        return self.variant in (BARE, CONTROL)

    def ready(self) -> bool:
        """Whether it takes requests, and its relay runs if it is to have one."""
        if self.process.poll() is not None:
            raise RuntimeError(f"The server of {self.variant!r} ended with {self.process.returncode}.")
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz", timeout=2) as answer:
                return bool(answer.status == HTTPStatus.OK) and (self.is_bare or self.relay is not None)
        except OSError:
            return False

    def drained(self) -> bool:
        """Whether all that was journaled is stored."""
        return all(book.pending == 0 for book in read_books(self.data_dir))


class Bench:
    """Servers of all variants, side by side.

    Args:
        directory: Where models, logs and data go.
        requests: How many a leg.
    """

    def __init__(self, directory: Path, requests: int) -> None:
        self._directory = directory
        self._requests = requests
        self._instructions = counts_instructions()
        self._environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("E2I_SERVING_")},
            "BENTOML_HOME": str(directory / "bentoml"),
            "BENTOML_DO_NOT_TRACK": "true",
        }
        (directory / "bentoml").mkdir()

    @property
    def counts_instructions(self) -> bool:
        """Whether instructions are counted."""
        return self._instructions

    def train(self) -> None:
        """Train and save the model; write the bodies to send."""
        subprocess.run([sys.executable, HERE / "services" / "train.py"], env=self._environment, check=True)
        row = load_breast_cancer().data[:1].tolist()
        for name, body in ((BASE, {"instances": row}), (BARE, {"x": row})):
            self._body(name).write_text(json.dumps(body), encoding="utf-8")

    @contextmanager
    def serve(self, variant: str, name: str = "", settings: Mapping[str, str] | None = None) -> Iterator[Server]:
        """Serve a variant; its workers are stopped and its relay is waited for afterwards.

        Args:
            variant: Its name.
            name: What to tell it from others of its kind by.
            settings: Variables that it gets besides.
        """
        name = name or variant
        data_dir = self._directory / "data" / name
        data_dir.mkdir(parents=True)
        port = _free_port()
        command = [sys.executable, "-m", "bentoml", "serve", VARIANTS[variant], "--working-dir", HERE / "services"]
        with (self._directory / f"{name.replace('/', '')}.log").open("wb") as log:
            process = subprocess.Popen(
                [*command, "--host", "127.0.0.1", "--port", str(port)],
                env={**self._environment, "E2I_SERVING_DATA_DIR": str(data_dir), **(settings or {})},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield Server(variant, port, process, data_dir, self._body(variant))
        finally:
            _stop(process)
            await_true(lambda: RelayLock(data_dir).holder() is None, DRAIN_SECONDS, "the relay has ended")

    def leg(self, server: Server, connections: int) -> Leg:
        """Put load on one server, and charge it with all that it does until every record is stored."""
        relay = server.relay
        roots = [server.process.pid, *([relay] if relay else [])]
        with measure(roots, instructions=self._instructions) as cost:
            found = self.load(server, self._requests, connections)
            if not server.is_bare:
                await_true(server.drained, DRAIN_SECONDS, f"the relay of {server.variant!r} has stored all")
        latencies = found["latencies"]
        leg = {
            "CPU": cost.cpu / self._requests,
            "relay": cost.processes[relay] / self._requests if relay else 0.0,
            "throughput": self._requests / found["seconds"],
            "p50": statistics.median(latencies),
            "p99": latencies[int(len(latencies) * 0.99)],
        }
        return leg if cost.instructions is None else {**leg, "instructions": cost.instructions / self._requests}

    def load(self, server: Server, requests: int, connections: int) -> dict[str, float | list[float]]:
        """Send requests from a process of its own."""
        command = [sys.executable, HERE / "load.py", str(server.port), server.body]
        options = ["--requests", str(requests), "--connections", str(connections)]
        done = subprocess.run([*command, *options], stdout=subprocess.PIPE, check=True)
        return json.loads(done.stdout)

    def _body(self, variant: str) -> Path:
        return self._directory / ("instances.json" if variant == BASE else "array.json")


def run(bench: Bench, rounds: int, concurrency: Sequence[int]) -> dict[int, dict[str, list[Leg]]]:
    """Measure.

    Args:
        bench: Where.
        rounds: How often each variant is measured under each load.
        concurrency: Numbers of connections.

    Returns:
        By number of connections and variant, a leg a round.
    """
    legs: dict[int, dict[str, list[Leg]]] = {number: {name: [] for name in VARIANTS} for number in concurrency}
    with ExitStack() as stack, console.status("Training") as status:
        bench.train()
        status.update("Starting the servers")
        servers = [stack.enter_context(bench.serve(variant)) for variant in VARIANTS]
        for server in servers:
            await_true(server.ready, START_SECONDS, f"{server.variant!r} is ready")
        for server in servers:
            bench.load(server, WARM_UP_REQUESTS, max(concurrency))
        for turn in range(rounds):
            status.update(f"Round {turn + 1} of {rounds}")
            # Each round begins with another variant, so that none is favoured by its place.
            first = turn % len(servers)
            for number in concurrency:
                for server in [*servers[first:], *servers[:first]]:
                    legs[number][server.variant].append(bench.leg(server, number))
    return legs


def ratios(legs: Mapping[str, Sequence[Leg]], variant: str, quantity: str) -> list[float]:
    """A variant's quantity against that of bare, round by round.

    The reference is the mean of both bare servers, which halves its noise; that of the control is the other one.
    """
    rounds = zip(legs[variant], legs[BARE], legs[CONTROL], strict=True)
    if variant == CONTROL:
        return [leg[quantity] / bare[quantity] for leg, bare, _ in rounds]
    return [2.0 * leg[quantity] / (bare[quantity] + again[quantity]) for leg, bare, again in rounds]


def rows(legs: Mapping[int, Mapping[str, Sequence[Leg]]], quantities: Sequence[str]) -> Iterator[list[str]]:
    """The table of results: for each load and variant, each quantity's median ratio to bare (least-most)."""
    for number, of_load in legs.items():
        yield [f"c={number}", BARE, *(_absolute(of_load[BARE], quantity) for quantity in quantities), "-"]
        for variant in (CONTROL, OBSERVED, BASE):
            found = (ratios(of_load, variant, quantity) for quantity in quantities)
            relay = "-" if variant == CONTROL else _absolute(of_load[variant], "relay")
            yield [f"c={number}", variant, *map(_spread, found), relay]


def _absolute(legs: Sequence[Leg], quantity: str) -> str:
    value = statistics.median(leg[quantity] for leg in legs)
    if quantity == "throughput":
        return f"{value:.0f}/s"
    return f"{value / 1e6:.2f} M" if quantity == "instructions" else f"{value * 1000:.2f} ms"


def _spread(found: Sequence[float]) -> str:
    return f"{statistics.median(found):.2f} ({min(found):.2f}-{max(found):.2f})"


def markdown(header: Sequence[str], table: Sequence[Sequence[str]], notes: Sequence[str]) -> str:
    """The results as a Markdown table, with notes under it."""
    lines = ["| " + " | ".join(cells) + " |" for cells in (header, ["---"] * len(header), *table)]
    return "\n".join([*lines, "", *notes, ""])


def over_budget(legs: Mapping[int, Mapping[str, Sequence[Leg]]], quantity: str, budget: float) -> list[str]:
    """Where observing costs more than it may."""
    found: list[str] = []
    for number, of_load in legs.items():
        cost = statistics.median(ratios(of_load, OBSERVED, quantity))
        if cost > budget:
            found.append(f"c={number}: observed costs {cost:.2f} of bare ({quantity}), over the budget of {budget:g}")
    return found


def _stop(process: subprocess.Popen[bytes]) -> None:
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
            return


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def await_true(condition: Callable[[], bool], seconds: float, what: str) -> None:
    """Wait until something is so.

    Raises:
        RuntimeError: It did not become so in time.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"Waited {seconds:g} s in vain until {what}.")
        time.sleep(0.05)


def main() -> int:
    """Measure, show, and check against a budget if asked to; 1 if it is exceeded."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="default: %(default)s")
    parser.add_argument("--requests", type=int, default=250, help="a leg (default: %(default)s)")
    parser.add_argument("--concurrency", type=int, nargs="+", default=[1, 16], help="default: 1 16")
    parser.add_argument("--check", type=float, metavar="RATIO", help="exit with 1 if observed costs more than that")
    parser.add_argument("--markdown", type=Path, metavar="FILE", help="also write the results here")
    options = parser.parse_args()
    began = time.monotonic()
    directory = Path(tempfile.mkdtemp(prefix="e2i-overhead-"))
    try:
        bench = Bench(directory, options.requests)
        legs = run(bench, options.rounds, options.concurrency)
    except (RuntimeError, subprocess.CalledProcessError, urllib.error.URLError) as error:
        console.print(f"[red]✗[/] {error} The servers' logs are in {directory}.")
        return 2
    shutil.rmtree(directory, ignore_errors=True)
    counted = bench.counts_instructions
    quantities = ("CPU", *(["instructions"] if counted else []), "throughput", "p50", "p99")
    header = ("load", "variant", *quantities, "of CPU the relay")
    table = list(rows(legs, quantities))
    notes = [
        f"{options.rounds} rounds of {options.requests} requests a leg, {time.monotonic() - began:.0f} s in all.",
        "Of bare: medians, a request. Of the others: the median of each round's ratio to bare, the least and the most.",
        "CPU is that of the server's whole process tree and of the relay, until the relay has stored all.",
    ]
    if not counted:
        notes.append("Instructions are not counted on this machine (no perf, or no counters): CPU time has to do.")
    shown = Table(*header)
    for cells in table:
        shown.add_row(*cells)
    console.print(shown)
    console.print("\n".join(notes))
    if options.markdown is not None:
        options.markdown.write_text(markdown(header, table, notes), encoding="utf-8")
    decisive = "instructions" if counted else "CPU"
    exceeded = over_budget(legs, decisive, options.check) if options.check is not None else []
    for line in exceeded:
        console.print(f"[red]✗[/] {line}")
    return 1 if exceeded else 0


if __name__ == "__main__":
    sys.exit(main())
