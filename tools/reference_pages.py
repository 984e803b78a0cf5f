"""Write the parts of docs/ that are made from the code: the tables of commands and of metrics."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from enum import EnumType
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin

import typer
from typer.models import ArgumentInfo, OptionInfo

from e2i_serving.cli import app
from e2i_serving.observers.metrics import FAMILIES

DOCS = Path(__file__).resolve().parents[1] / "docs"
SECTION = re.compile(r"(?ms)(^<!-- made by `make docs`: (\w+) -->\n).*?(^<!-- end -->$)")
NAMES = {float: "number", str: "text", int: "integer", Path: "path", bool: ""}


def current(text: str) -> str:
    """A page with its sections as the code has them now."""
    return SECTION.sub(lambda found: f"{found[1]}\n{SECTIONS[found[2]]()}\n\n{found[3]}", text)


def commands() -> str:
    """Each command: what it does, its arguments and options, its examples."""
    return "\n\n".join(part for name, callback in _callbacks(app, "e2i-serving") for part in _command(name, callback))


def metrics() -> str:
    """Each metric family: name, type, labels, meaning."""
    rows = (
        (f"`{family.name}`", family.kind.value, ", ".join(f"`{label}`" for label in family.labels), family.summary)
        for family in FAMILIES
    )
    return _table(("Metric", "Type", "Labels", "What it says"), rows)


SECTIONS = {"commands": commands, "metrics": metrics}


def _callbacks(group: typer.Typer, path: str) -> Iterator[tuple[str, Any]]:
    for command in group.registered_commands:
        assert command.callback is not None
        yield f"{path} {command.name or command.callback.__name__}", command.callback
    for inner in group.registered_groups:
        assert inner.typer_instance is not None
        yield from _callbacks(inner.typer_instance, f"{path} {inner.name}")


def _command(name: str, callback: Any) -> Iterator[str]:
    yield f"## `{name}`"
    examples = ""
    for paragraph in inspect.cleandoc(callback.__doc__).split("\n\n"):
        if paragraph.startswith("\b\nExamples:\n"):
            examples = "\n".join(f"$ {line.strip()}" for line in paragraph.splitlines()[2:])
        else:
            yield paragraph
    parameters = inspect.signature(callback, eval_str=True).parameters.values()
    yield _table(("Argument or option", "Takes", "Default", "What it does"), map(_parameter, parameters))
    yield f"```console\n{examples}\n```"


def _parameter(parameter: inspect.Parameter) -> tuple[str, ...]:
    kind, info = get_args(parameter.annotation)
    assert isinstance(info, OptionInfo | ArgumentInfo)
    # What stands first in typer.Option(...) is its default, unless that is annotated.
    flags = [each for each in (info.default, *(info.param_decls or ())) if isinstance(each, str)]
    shown = ", ".join(flags) or (info.metavar or parameter.name).upper()
    default = parameter.default
    unset = default is inspect.Parameter.empty or default is None or default is False
    return f"`{shown}`", _value(kind), "" if unset else f"`{default}`", info.help or ""


def _value(kind: Any) -> str:
    if get_origin(kind) is UnionType:
        return _value(next(each for each in get_args(kind) if each is not type(None)))
    if get_origin(kind) is list:
        return _value(*get_args(kind))
    if isinstance(kind, EnumType):
        return ", ".join(f"`{choice}`" for choice in kind)
    return NAMES[kind]


def _table(heads: tuple[str, ...], rows: Any) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def main() -> None:
    """Bring every page up to date."""
    for page in sorted(DOCS.glob("*.md")):
        text = page.read_text(encoding="utf-8")
        if current(text) != text:
            page.write_text(current(text), encoding="utf-8")


if __name__ == "__main__":
    main()
