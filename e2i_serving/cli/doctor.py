"""``e2i-serving doctor``: what would keep a service from starting, without starting it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Final

import typer

from e2i_serving.cli.pages import sections
from e2i_serving.cli.printing import one_line
from e2i_serving.exceptions import ConfigurationError

PAGE: Final = "doctor.md"
"""The page on which each check has a section that says more."""


def doctor(
    target: Annotated[
        str, typer.Argument(help="The service, as `bentoml serve` takes it: module:Class, a folder or a bento's tag.")
    ] = ".",
    working_dir: Annotated[
        Path, typer.Option("--working-dir", help="The folder to import it from.", file_okay=False)
    ] = Path(),
    explain: Annotated[
        str | None,
        typer.Option("--explain", help="Say more of a check, by its name, and look at nothing.", show_default=False),
    ] = None,
) -> None:
    """Run the start-up checks of a service, load its model, and say how to mend what is found.

    Goes to every destination of its records and back, too, leaving nothing there.

    WRONG keeps the service from starting, or its records from arriving. NOTE does not, and is better mended. Exits with
    1 when something is wrong.

    \b
    Examples:
      e2i-serving doctor
      e2i-serving doctor service:Churn
      e2i-serving doctor --explain data-directory
    """  # noqa: D301  # \b is click's mark for lines that stay as they are
    if explain is not None:
        typer.echo(f"{explain}\n\n{_explained(explain)}")
        return

    from e2i_serving.runtime.examination import examine  # noqa: PLC0415  # imports BentoML

    examination = examine(target, working_dir)
    for mark, found in (("WRONG", examination.checks), ("NOTE", examination.advice)):
        for name, problems in found:
            if not problems:
                typer.echo(f"ok     {name}")
            for problem in problems:
                said = one_line(problem).rstrip(".")
                typer.echo(f"{mark:6} {said}. More: e2i-serving doctor --explain {problem.check}")
    if not examination.is_sound:
        raise typer.Exit(1)


def _explained(check: str) -> str:
    known = sections(PAGE)
    if check not in known:
        raise ConfigurationError(f"No check is named {check!r}. There are: {', '.join(known)}.")
    return known[check]
