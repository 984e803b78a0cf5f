"""How the command line prints: clean text, tables, JSON lines and CSV."""

from __future__ import annotations

import csv
import io
import re
import sys
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Final

import msgspec
import typer
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""Characters that move the cursor, recolour or reorder what a terminal shows, or can't be printed."""

_FORMULA: Final = ("=", "+", "-", "@")
_UNBOUNDED_WIDTH: Final = 1000


class Format(StrEnum):
    """How rows are printed."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


class TableOrJson(StrEnum):
    """How one thing is printed."""

    TABLE = "table"
    JSON = "json"


def clean(value: object) -> str:
    """A value as text that is safe to show: control characters become ``\ufffd``, nothing becomes nothing."""
    return "" if value is None else _CONTROL.sub("\ufffd", str(value))


def one_line(message: object) -> str:
    """A message as one line that is safe to show, its lines parted by semicolons."""
    return "; ".join(clean(part.strip()) for part in str(message).splitlines() if part.strip())


def text(value: object, style: str = "") -> Text:
    """A value as a cell that no markup in it can change."""
    return Text(clean(value), style=style)


def as_json(value: Any) -> str:
    """A value as one line of JSON, characters that would act on a terminal written as escapes."""
    encoded = msgspec.json.encode(value, enc_hook=str).decode()
    return _CONTROL.sub(lambda found: f"\\u{ord(found[0]):04x}", encoded)


def iso_time(time_ns: int) -> str:
    """Nanoseconds since the epoch as a UTC time in ISO 8601, to the microsecond."""
    seconds, nanoseconds = divmod(time_ns, 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, UTC).replace(microsecond=nanoseconds // 1000)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def milliseconds(seconds: float | None) -> str:
    """Seconds as milliseconds with a unit."""
    return "" if seconds is None else f"{seconds * 1000:.2f} ms"


def table(*columns: str, header: bool = True, widths: Sequence[int] = ()) -> Table:
    """An empty table without borders whose cells are never cut.

    Args:
        columns: The headings.
        header: Whether to show them.
        widths: The least width of each column, so that tables printed one after another line up.
    """
    made = Table(box=None, show_header=header, header_style="bold", pad_edge=False)
    for place, name in enumerate(columns):
        made.add_column(name, overflow="fold", min_width=widths[place] if place < len(widths) else None)
    return made


def console() -> Console:
    """Standard output, in colour only on a terminal, and as wide as need be elsewhere."""
    made = Console(highlight=False, emoji=False, markup=False)
    if made.is_terminal:
        return made
    return Console(highlight=False, emoji=False, markup=False, width=_UNBOUNDED_WIDTH)


def show(*what: RenderableType) -> None:
    """Print to standard output, elsewhere than on a terminal without the blanks that fill up its lines."""
    output = console()
    if output.is_terminal:
        for part in what:
            output.print(part)
        return
    with output.capture() as captured:
        for part in what:
            output.print(part)
    typer.echo("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()), nl=False)


def print_error(message: str) -> None:
    """Say what went wrong, on standard error, in red on a terminal."""
    said = Text(f"Error: {one_line(message)}", style="red")
    Console(stderr=True, highlight=False, emoji=False).print(said, soft_wrap=True)


def print_json_lines(rows: Iterable[Any]) -> None:
    """Print one object a line."""
    for row in rows:
        typer.echo(as_json(row))
    sys.stdout.flush()


def csv_lines(columns: Sequence[str], rows: Iterable[dict[str, Any]], *, header: bool = True) -> str:
    """Rows as CSV. Text that a spreadsheet would take for a formula begins with an apostrophe.

    Args:
        columns: Names of the columns, in order.
        rows: The rows.
        header: Whether to begin with the names.
    """
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    if header:
        writer.writerow(columns)
    writer.writerows([[_csv_cell(row.get(name)) for name in columns] for row in rows])
    return out.getvalue()


def _csv_cell(value: Any) -> Any:
    if value is None or isinstance(value, int | float):
        return value
    shown = clean(value if isinstance(value, str) else as_json(value))
    return f"'{shown}" if shown.startswith(_FORMULA) else shown
