"""What a tree of processes costs: CPU time, and instructions where the machine counts them. Linux only."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")
ATTACH_SECONDS = 0.3
"""How long perf is given to attach to all threads."""


@dataclass(slots=True)
class Cost:
    """What was used.

    Attributes:
        processes: Seconds of CPU, user and system, by process.
        instructions: Instructions in user space, of all; ``None`` where they are not counted.
    """

    processes: dict[int, float] = field(default_factory=dict)
    instructions: float | None = None

    @property
    def cpu(self) -> float:
        """Seconds of CPU of all processes."""
        return sum(self.processes.values())


def process_tree(roots: Iterable[int]) -> set[int]:
    """Processes and all their descendants."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found: set[int] = set()
    pending = list(roots)
    while pending:
        process = pending.pop()
        if process not in found:
            found.add(process)
            pending += children.get(process, [])
    return found


def cpu_seconds(processes: Iterable[int]) -> dict[int, float]:
    """CPU time by process, user and system, that of its ended children included."""
    return {
        process: sum(map(int, fields[11:15])) / TICKS for process in processes if (fields := _stat(process)) is not None
    }


def counts_instructions() -> bool:
    """Whether ``perf`` is here and this machine counts instructions for us."""
    if shutil.which("perf") is None:
        return False
    done = subprocess.run(_perf("true"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return _counted(done.stdout) is not None


@contextmanager
def measure(roots: Iterable[int], *, instructions: bool) -> Iterator[Cost]:
    """Measure what processes and their descendants use inside the block.

    Args:
        roots: Process ids.
        instructions: Count instructions too.

    Raises:
        RuntimeError: One of them ended meanwhile, and none that is measured inherited its account.
    """
    roots = list(roots)
    tree = process_tree(roots)
    perf = None
    if instructions:
        perf = subprocess.Popen(_perf("-p", ",".join(map(str, tree))), stderr=subprocess.PIPE, text=True)
        time.sleep(ATTACH_SECONDS)
    cost = Cost()
    before = cpu_seconds(tree)
    yield cost
    after = cpu_seconds(process_tree(roots))
    if not set(roots) <= after.keys():
        raise RuntimeError("A process that was being measured ended; what it cost is not known.")
    cost.processes = {process: seconds - before.get(process, 0.0) for process, seconds in after.items()}
    if perf is not None:
        perf.send_signal(signal.SIGINT)
        cost.instructions = _counted(perf.communicate()[1])


def _perf(*what: str) -> list[str]:
    return ["perf", "stat", "-x", ",", "-e", "instructions:u", *what]


def _counted(report: str) -> float | None:
    for line in report.splitlines():
        fields = line.split(",")
        if len(fields) > 2 and fields[2].startswith("instructions"):  # noqa: PLR2004  # the event's name is third
            return float(fields[0]) if fields[0].isdigit() else None
    return None


def _stat(process: int) -> list[str] | None:
    """The fields of ``/proc/<pid>/stat`` after the command: state, parent, ...; ``None`` when it is gone."""
    try:
        return Path(f"/proc/{process}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    except OSError:
        return None
