"""Draw what commands print on a terminal, as an SVG: for the README, of what `make demo` left in .demo.

make demo && .venv/bin/python tools/terminal_picture.py docs/images/terminal.svg
"""

from __future__ import annotations

import argparse
import fcntl
import io
import os
import pty
import re
import shlex
import struct
import subprocess
import sys
import termios
from collections.abc import Iterable, Sequence
from pathlib import Path

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = ("e2i-serving audit show demo-uplift-0042", "e2i-serving audit books")
COLUMNS = 92
LEFT_OUT = ("Labels", "Record")
"""Headings of what an ellipsis is shown for, so that the picture fits a screen."""

FETCHED_FONTS = re.compile(r"@font-face \{\{.*?\}\}\n", re.DOTALL)
ROOM = re.compile(r" +$", re.MULTILINE)


def printed(command: str, environment: dict[str, str]) -> str:
    """What a command prints on a terminal of its own, colours included.

    Raises:
        subprocess.CalledProcessError: It failed.
    """
    ours, its = pty.openpty()
    fcntl.ioctl(its, termios.TIOCSWINSZ, struct.pack("HHHH", 100, COLUMNS, 0, 0))
    words = shlex.split(command)
    with subprocess.Popen(words, stdin=its, stdout=its, stderr=its, env=environment, cwd=ROOT) as process:
        os.close(its)
        shown = b"".join(_read(ours))
    os.close(ours)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, words, shown)
    return shown.decode().replace("\r\n", "\n")


def picture(commands: Sequence[str], environment: dict[str, str]) -> str:
    """The SVG of a terminal in which commands were typed."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True, highlight=False)
    for place, command in enumerate(commands):
        lines = Text.from_ansi(printed(command, environment)).split("\n", allow_blank=False)
        console.print(Text(f"{chr(10) if place else ''}$ {command}", "bold"))
        is_left_out = False
        for line in lines:
            line.rstrip()
            was_left_out, is_heading = is_left_out, not line.plain.startswith(" ")
            is_left_out = line.plain in LEFT_OUT if is_heading else is_left_out
            if not is_left_out:
                console.print(line)
            elif not was_left_out:
                console.print(Text("...", "dim"))
    form = FETCHED_FONTS.sub("", CONSOLE_SVG_FORMAT).replace("Fira Code, monospace", "monospace")
    return ROOM.sub("", console.export_svg(title="e2i-serving", code_format=form, unique_id="terminal"))


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("target", type=Path, help="the file to write")
    target = parser.parse_args().target
    demo = ROOT / ".demo"
    environment = {
        **os.environ,
        "BENTOML_HOME": str(demo / "bentoml"),
        "E2I_SERVING_DATA_DIR": str(demo / "data"),
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "TERM": "xterm-256color",
    }
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(picture(COMMANDS, environment), encoding="utf-8")


def _read(descriptor: int) -> Iterable[bytes]:
    while True:
        try:
            data = os.read(descriptor, 65536)
        except OSError:  # Linux says so when the other end is closed
            return
        if not data:
            return
        yield data


if __name__ == "__main__":
    main()
