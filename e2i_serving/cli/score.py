"""``e2i-serving score``: predictions for a file of rows, on record like any others."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from e2i_serving.cli.progress import progress


def score(
    target: Annotated[
        str,
        typer.Argument(metavar="SERVICE", help="As `bentoml serve` takes it: module:Class, a folder, a bento's tag."),
    ],
    *,
    source: Annotated[Path, typer.Option("--input", help="The rows: .csv, .jsonl or .parquet.", dir_okay=False)],
    output: Annotated[Path, typer.Option("--output", help="Where the answers go: likewise.", dir_okay=False)],
    entity: Annotated[
        list[str] | None, typer.Option("--entity", help="A column that is an entity key. May be repeated.")
    ] = None,
    chunk: Annotated[int, typer.Option("--chunk", min=1, max=100_000, help="Rows a request.")] = 500,
    working_dir: Annotated[
        Path, typer.Option("--working-dir", help="The folder to import it from.", file_okay=False)
    ] = Path(),
) -> None:
    """Score the rows of a file in this process, each chunk of them as one request on record.

    A run that was interrupted goes on where it was. Its records have the run's id in their attributes, under scoring.

    \b
    Examples:
      e2i-serving score service:Churn --input data.parquet --output out.parquet
      e2i-serving score service:Churn --input customers.csv --output out.csv --entity customer
    """  # noqa: D301  # \b is click's mark for lines that stay as they are
    from e2i_serving.runtime.checks import importable, load_service  # noqa: PLC0415  # imports BentoML
    from e2i_serving.services.scoring import score as run  # noqa: PLC0415  # likewise

    service = load_service(target, working_dir)
    with importable(service.inner, working_dir), progress("Scoring") as meter:
        done = run(service, source, output, entities=entity or (), chunk=chunk, progress=meter.advance)
    before = f", {done.resumed} of them by an earlier run" if done.resumed else ""
    typer.echo(f"Scored {done.rows} rows{before}. The run is {done.run}.")
