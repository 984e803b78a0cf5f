"""Programs that begin with everything slow imported already: each is a fork of one process that imported it."""

from __future__ import annotations

import importlib
import json
import os
import runpy
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

IMPORTED = (
    "bentoml",
    "numpy",
    "pandas",
    "pytest",
    "sklearn.datasets",
    "sklearn.ensemble",
    "sklearn.linear_model",
    "e2i_serving.cli",
    "e2i_serving.services",
    "e2i_serving.testing",
)


class Ended(NamedTuple):
    """How a program ended: its exit code and what it wrote."""

    returncode: int
    output: str


class Programs:
    """Runs programs, one after another, each in a process of its own.

    Attributes:
        environment: The environment of them all.
    """

    def __init__(self, environment: dict[str, str]) -> None:
        self.environment = environment
        self._process = subprocess.Popen(
            [sys.executable, __file__], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
        )

    def __enter__(self) -> Self:
        """Is ready to run."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Let the process end."""
        self._process.communicate(timeout=30)

    def run(self, *argv: str | Path, folder: Path, **environment: str) -> Ended:
        """Run a program to its end.

        Args:
            argv: The file and its arguments; ``-m`` before it for a module.
            folder: Where it runs.
            environment: Variables besides those of all programs.
        """
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with tempfile.NamedTemporaryFile("r", encoding="utf-8", errors="replace") as output:
            job = {"argv": [str(arg) for arg in argv], "cwd": str(folder), "output": output.name, "env": environment}
            print(json.dumps(job), file=self._process.stdin, flush=True)
            answer = self._process.stdout.readline()
            assert answer, "The process that programs are forked from has ended."
            return Ended(int(answer), output.read())


def _serve() -> None:
    for name in IMPORTED:
        importlib.import_module(name)
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        job = json.loads(line)
        child = os.fork()
        if child == 0:
            _become(job)
            return
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), file=answers, flush=True)


def _become(job: dict[str, Any]) -> None:
    """Be the program, from here to the interpreter's end."""
    output = os.open(job["output"], os.O_WRONLY | os.O_APPEND)
    nothing = os.open(os.devnull, os.O_RDONLY)
    for ours, its in ((nothing, 0), (output, 1), (output, 2)):
        os.dup2(ours, its)
    os.environ.update(job["env"])
    os.chdir(job["cwd"])
    argv: Sequence[str] = job["argv"]
    is_module = argv[0] == "-m"
    sys.argv = list(argv[1:] if is_module else argv)
    sys.path[0] = job["cwd"] if is_module else str(Path(argv[0]).parent)
    if is_module:
        runpy.run_module(argv[1], run_name="__main__", alter_sys=True)
    else:
        runpy.run_path(argv[0], run_name="__main__")


if __name__ == "__main__":
    _serve()
