"""``e2i-serving doctor``: what would keep a service from starting, without starting it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from e2i_serving.cli.printing import clean, print_error


def doctor(
    target: Annotated[
        str, typer.Argument(help="The service, as `bentoml serve` takes it: module:Class, a folder or a bento's tag.")
    ] = ".",
    working_dir: Annotated[
        Path, typer.Option("--working-dir", help="The folder to import it from.", file_okay=False)
    ] = Path(),
) -> None:
    """Run the start-up checks of a service, and say how to mend what they find.

    Loads its model, and goes to every destination of its records and back, leaving nothing there.

    Exits with 1 when a check fails.

    \b
    Examples:
      e2i-serving doctor
      e2i-serving doctor service:Churn
    """  # noqa: D301  # \b is click's mark for lines that stay as they are
    from e2i_serving.runtime.checks import examine  # noqa: PLC0415  # imports BentoML

    found = examine(target, working_dir)
    if isinstance(found, str):
        print_error(found)
        raise typer.Exit(1)
    for name, problems in found:
        if not problems:
            typer.echo(f"ok     {name}")
        for problem in problems:
            typer.echo(f"WRONG  {clean(problem)}")
    if any(problems for _, problems in found):
        raise typer.Exit(1)
