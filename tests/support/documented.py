"""The examples of the documentation: blocks of code and commands, with where they stand."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "examples" / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"(?ms)^(?P<mark>`{3,}|~{3,})(?P<language>[^\n`]*)\n(?P<body>.*?)^(?P=mark)[ \t]*$")
SHELL = frozenset({"bash", "sh", "console"})


class Block(NamedTuple):
    """A block of a page; ``str`` of it says where it stands."""

    page: str
    line: int
    language: str
    body: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


class Command(NamedTuple):
    """A command of a page, as words; ``str`` of it says where it stands."""

    page: str
    line: int
    words: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.page}:{self.line}: {shlex.join(self.words)}"


def blocks(*languages: str) -> list[Block]:
    """The blocks of some languages, page by page."""
    return [block for page in PAGES for block in _blocks(page) if block.language in languages]


def commands() -> list[Command]:
    """The commands of all shell blocks; a console's without its prompt and what it printed."""
    return [command for block in blocks(*SHELL) for command in _commands(block)]


def _blocks(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in FENCE.finditer(text):
        line = text.count("\n", 0, found.start()) + 2
        yield Block(str(page.relative_to(ROOT)), line, found["language"].strip(), found["body"])


def _commands(block: Block) -> Iterator[Command]:
    body = block.body.replace("\\\n", " " * 2)
    for number, line in enumerate(body.splitlines()):
        if block.language == "console" and not line.startswith("$ "):
            continue
        words = shlex.split(line.removeprefix("$ "), comments=True)
        start = 0
        for end in [*(index for index, word in enumerate(words) if word in {"&&", "|", ">", "<"}), len(words)]:
            if words[start:end] and (start == 0 or words[start - 1] in {"&&", "|"}):
                yield Command(block.page, block.line + number, tuple(words[start:end]))
            start = end + 1
