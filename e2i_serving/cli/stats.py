"""``e2i-serving stats``: how long predictions take, by model and phase."""

from __future__ import annotations

from typing import Annotated

import msgspec
import typer

from e2i_serving.cli.audit import DataDir, open_trail
from e2i_serving.cli.printing import TableOrJson, milliseconds, print_error, print_json_lines, show, table, text
from e2i_serving.exceptions import ConfigurationError


def stats(
    *,
    url: Annotated[
        str | None,
        typer.Option("--url", help="A live service, such as http://127.0.0.1:3000.", show_default=False),
    ] = None,
    data_dir: DataDir = None,
    model: Annotated[str | None, typer.Option("--model", help="The model's name.", show_default=False)] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", help="At or after: an ISO time in UTC, or 30m, 1h, 7d ago.", show_default=False),
    ] = None,
    until: Annotated[str | None, typer.Option("--until", help="Before: likewise.", show_default=False)] = None,
    output: Annotated[
        TableOrJson, typer.Option("--format", help="json prints one object a model and phase.")
    ] = TableOrJson.TABLE,
) -> None:
    """Show p50, p90, p95, p99 and p99.9 of how long predictions took, by model and phase.

    From the audit trail they are exact. With --url they are read from the histograms of a live service, of all that
    its counters hold: the total within 5 %, phases as fine as the objectives' bounds. Exits with 1 when there are none.

    \b
    Examples:
      e2i-serving stats --since 1h
      e2i-serving stats --model credit --format json
      e2i-serving stats --url http://127.0.0.1:3000
    """  # noqa: D301  # \b is click's mark for lines that stay as they are
    from e2i_serving.runtime.percentiles import (  # noqa: PLC0415  # keeps --help fast
        PARTS,
        percentiles_of_rows,
        percentiles_of_service,
    )

    if url is not None:
        if data_dir is not None or since is not None or until is not None:
            raise ConfigurationError("--url asks a live service, which knows no times. Leave out the other options.")
        found = [each for each in percentiles_of_service(url) if model in (None, each.model)]
    else:
        with open_trail(data_dir, None, "stats") as trail:
            trail.await_recent()
            found = percentiles_of_rows(trail.query(model=model, since=since, until=until, items=False))
    if not found:
        print_error("No prediction was found.")
        raise typer.Exit(1)
    if output is TableOrJson.JSON:
        exact = url is None
        print_json_lines({**msgspec.structs.asdict(each), "exact": exact} for each in found)
        return
    rows = table("MODEL", "VERSION", "PHASE", "COUNT", *(name.upper() for name in PARTS))
    for each in found:
        shown = (each.model, each.version, each.phase, each.count, *map(milliseconds, each.seconds.values()))
        rows.add_row(*map(text, shown))
    note = (
        "Exact, from the audit trail."
        if url is None
        else "From the service's histograms: totals within 5 %, phases as coarse as the objectives' bounds."
    )
    show(rows, text(note))
