"""Serve three models, ask them for predictions, and show what was kept of every one of them."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import NoReturn, TypeVar

import httpx
from client import send_all
from report import Report, await_stored, mismatches
from rich.console import Console
from servers import EXAMPLES, EXAMPLES_DIR, Demo, DemoError, Server

T = TypeVar("T")

console = Console(highlight=False, soft_wrap=True)


@contextmanager
def step(title: str) -> Iterator[Callable[[str], None]]:
    """Show what is being done, and how long it took; yields what shows how far it is."""
    began = time.monotonic()
    with console.status(f"{title} ...") as status:
        yield lambda progress: status.update(f"{title}: {progress}")
    console.print(f"[green]✓[/] {title} [dim]({time.monotonic() - began:.1f} s)[/]")


def together(task: Callable[[T], object], things: Sequence[T]) -> None:
    """Do the same with several things at once."""
    with ThreadPoolExecutor(len(things)) as pool:
        list(pool.map(task, things))


def play(demo: Demo, total: int) -> None:
    """The demo, from training to the last check.

    Args:
        demo: Where it plays.
        total: How many requests to send.

    Raises:
        DemoError: A step failed, or the trail does not tell what the client saw.
        httpx.HTTPError: A server did not answer.
    """
    with step(f"Clear {demo.directory}"):
        demo.clear()
    with step("Train three models: a classifier, a regressor, a causal one"):
        together(demo.train, EXAMPLES)
    with step("Build a bento of each"):
        together(demo.build, EXAMPLES)
    try:
        with step("Serve the three bentos, two workers each"):
            for name in EXAMPLES:
                demo.start(name)
            together(Server.await_ready, demo.servers)
        with step(f"Send {total} requests, good ones and bad ones") as progress:
            answers = send_all(demo, total, progress)
        with step("Wait until the relay has stored all of them"):
            await_stored(demo, total)
        Report(console, demo).show(answers)
    except (DemoError, httpx.HTTPError):
        for server in demo.servers:
            console.print(server.log_end(), markup=False)
        raise
    finally:
        with step("Stop the servers"):
            demo.stop()
    with step("Wait until the relay, no longer needed, has ended"):
        demo.await_relay()
    wrong = mismatches(demo, answers)
    if wrong:
        raise DemoError("The audit trail does not tell what the client saw:\n" + "\n".join(wrong[:20]))
    console.print(f"[green]✓[/] All {total} requests stand in the audit trail exactly as they were answered.")


def show_next(demo: Demo) -> None:
    """What to type next."""
    programs = Path(sys.executable).parent
    console.print(
        f"""
[bold]What to type next[/]
  export BENTOML_HOME={demo.directory}/bentoml E2I_SERVING_DATA_DIR={demo.data} PATH={programs}:$PATH
  e2i-serving audit query --entity patient=patient-007     [dim]# all that was predicted for one patient[/]
  e2i-serving audit query --label brand=alpha --since 1h --format json
  bentoml serve breast_cancer:latest                       [dim]# then, in another terminal:[/]
  curl -i localhost:3000/predict -H 'content-type: application/json' -d @{demo.held_out("breast_cancer")}
  e2i-serving audit query --follow
or in Python, or a notebook:
  import e2i_serving
  trail = e2i_serving.AuditTrail.open()
  trail.latency(model="uplift"), trail.query(outcome="invalid", limit=5).rows()
The services are in examples/, ten lines each; examples/README.md says what each one shows."""
    )


def _interrupt(_number: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


def main() -> int:
    """Play the demo; 0 if all went well."""
    parser = argparse.ArgumentParser(prog="examples/demo", description=__doc__)
    parser.add_argument("--requests", type=int, default=360, help="how many to send (default: %(default)s)")
    parser.add_argument(
        "--directory", type=Path, default=EXAMPLES_DIR.parent / ".demo", help="where all goes (default: .demo)"
    )
    options = parser.parse_args()
    if options.requests < len(EXAMPLES):
        parser.error(f"--requests must be at least {len(EXAMPLES)}, one a model")
    signal.signal(signal.SIGTERM, _interrupt)
    demo = Demo(options.directory.absolute())
    try:
        play(demo, options.requests)
    except (DemoError, httpx.HTTPError) as error:
        console.print(f"\n[red]✗[/] {type(error).__name__}:", end=" ")
        console.print(str(error), markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("\n[yellow]Interrupted; everything that was started is stopped.[/]")
        return 130
    show_next(demo)
    return 0


if __name__ == "__main__":
    sys.exit(main())
