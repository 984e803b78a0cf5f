"""``e2i-serving audit books``: whether everything that was observed and accepted is accounted for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Table
from rich.text import Text

from e2i_serving.cli.printing import TableOrJson, print_json_lines, show, table, text

if TYPE_CHECKING:
    from e2i_serving.observers.metrics import ObservationBooks
    from e2i_serving.relay import Book

DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="The service's data directory. Unset: as the settings say.", show_default=False),
]


def books(
    data_dir: DataDir = None,
    output: Annotated[TableOrJson, typer.Option("--format", help="json prints one object a destination.")] = (
        TableOrJson.TABLE
    ),
) -> None:
    """Check that every prediction that was observed, and every one that was accepted, is accounted for.

    observed = accepted + sampled out + unjournaled + interrupted, in the workers; then, at each destination,
    accepted = stored + pending + dead-lettered + dropped. Exits with 1 when one of them does not balance.

    \b
    Examples:
      e2i-serving audit books
      e2i-serving audit books --data-dir /var/lib/e2i --format json
    """  # noqa: D301  # \b is click's mark for lines that stay as they are
    from e2i_serving.observers.metrics import observation_books  # noqa: PLC0415  # keeps --help fast
    from e2i_serving.relay.books import read_books  # noqa: PLC0415  # likewise
    from e2i_serving.runtime.places import used_beside  # noqa: PLC0415  # likewise

    _, folder = used_beside(data_dir)
    observed = observation_books(folder / "metrics")
    accounts = read_books(folder)
    if output is TableOrJson.JSON:
        names = ("destination", "accepted", "stored", "pending", "dead_lettered", "dropped", "balanced")
        print_json_lines([_as_object(observed), *({name: getattr(book, name) for name in names} for book in accounts)])
    else:
        show(_observed_table(observed), text(""), _delivered_table(accounts))
    if not (observed.balanced and all(book.balanced for book in accounts)):
        raise typer.Exit(1)


def _as_object(observed: ObservationBooks) -> dict[str, object]:
    return {**observed._asdict(), "balanced": observed.balanced}


def _observed_table(observed: ObservationBooks) -> Table:
    rows = table("OBSERVED", "ACCEPTED", "SAMPLED OUT", "UNJOURNALED", "INTERRUPTED", "IN PROGRESS", "BALANCED")
    lost = _by_reason(observed.unjournaled)
    counts = (observed.observed, observed.accepted, observed.sampled_out, lost, observed.interrupted)
    rows.add_row(*map(text, counts), text(observed.in_progress), _verdict(balanced=observed.balanced))
    return rows


def _delivered_table(accounts: Sequence[Book]) -> Table:
    rows = table("DESTINATION", "ACCEPTED", "STORED", "PENDING", "DEAD-LETTERED", "DROPPED", "BALANCED")
    for book in accounts:
        counts = (book.accepted, book.stored, book.pending, book.dead_lettered, _by_reason(book.dropped))
        rows.add_row(text(book.destination), *map(text, counts), _verdict(balanced=book.balanced))
    return rows


def _by_reason(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in sorted(counts.items()) if count) or "0"


def _verdict(*, balanced: bool) -> Text:
    return text("yes", "green") if balanced else text("NO", "bold red")
