"""``e2i-serving new`` and ``update``: projects made of the templates."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from e2i_serving.cli.printing import print_error
from e2i_serving.cli.projects import Answers, Kind, answers_of, check_name, update_project, write_project
from e2i_serving.exceptions import ConfigurationError

Wheel = Annotated[
    Path | None,
    typer.Option(
        "--wheel", help="A wheel of this package for the project to carry. Unset: this one.", show_default=False
    ),
]


def new(
    *,
    kind: Annotated[Kind, typer.Argument(help="What the model predicts.", show_default=False)],
    name: Annotated[str, typer.Argument(help="The project's name, such as credit-risk.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option("--output", help="The folder to write to. Unset: the name, here.", show_default=False),
    ] = None,
    pyproject: Annotated[
        bool, typer.Option("--pyproject", help="Describe the bento in pyproject.toml, not in bentofile.yaml.")
    ] = False,
    feast: Annotated[bool, typer.Option("--feast", help="Fetch features by entity, from a Feast repository.")] = False,
    opik: Annotated[
        bool, typer.Option("--opik", help="Send a trace of each prediction to Opik; needs its address or a key.")
    ] = False,
    otlp: Annotated[bool, typer.Option("--otlp", help="Send spans to an OpenTelemetry collector.")] = False,
    sentry: Annotated[bool, typer.Option("--sentry", help="Send errors to Sentry, or to its like.")] = False,
    wheel: Wheel = None,
) -> None:
    """Write a project that trains, tests, builds and serves as it is; for Opik, once it is told where that is.

    It holds a service, a training script on data that needs no network, tests, the bento's description, objectives,
    rules for Prometheus, dashboards, and configuration for a collector and for Kubernetes. The folder must be empty.

    \b
    Examples:
      e2i-serving new classification credit-risk
      e2i-serving new regression house-prices --opik --otlp --sentry
      e2i-serving new classification churn --feast
      e2i-serving new causal voucher --pyproject --output services/voucher
    """  # noqa: D301  # \b is click's mark for lines that stay as they are
    from e2i_serving.cli.wheels import requirement_for  # noqa: PLC0415  # keeps --help fast

    check_name(name)
    folder = output or Path(name)
    answers = Answers(name, kind, "", pyproject=pyproject, feast=feast, opik=opik, otlp=otlp, sentry=sentry)
    try:
        if folder.exists() and any(folder.iterdir()):
            raise ConfigurationError(f"{folder} is not empty. Name another folder with --output.")
        folder.mkdir(parents=True, exist_ok=True)
        requirement = requirement_for(folder, wheel, answers.extras)
        written = write_project(folder, msgspec.structs.replace(answers, requirement=requirement))
    except OSError as error:
        raise ConfigurationError(f"{folder} can't be written to: {error.strerror}. Name another one.") from error
    for path in written:
        typer.echo(folder / path)
    _warn_of_an_editable_install(wheel)
    typer.echo(f"\nNext: cd {folder}, then see README.md.")


def update(
    *,
    folder: Annotated[Path, typer.Argument(help="The project's folder.", file_okay=False)] = Path(),
    wheel: Wheel = None,
) -> None:
    """Bring a project to the templates of this release.

    Files that were changed stay as they are; what they would be now is put beside them, with the ending .new.
    Exits with 1 as long as there is such a file.

    \b
    Examples:
      e2i-serving update
      e2i-serving update services/voucher
    """  # noqa: D301  # \b is click's mark for lines that stay as they are
    from e2i_serving.cli.wheels import drop_wheels, requirement_for  # noqa: PLC0415  # keeps --help fast

    try:
        requirement = requirement_for(folder, wheel, answers_of(folder).extras)
        done = update_project(folder, requirement)
        drop_wheels(folder, requirement)
    except OSError as error:
        raise ConfigurationError(f"{folder} can't be written to: {error.strerror}. Change its permissions.") from error
    for path, what in sorted(done.items()):
        typer.echo(f"{what:8} {path}")
    if not done:
        typer.echo("The project is as the templates make it.")
    _warn_of_an_editable_install(wheel)
    if "kept" in done.values():
        print_error("Take over from the .new files what you want of them, and delete them.")
        raise typer.Exit(1)


def _warn_of_an_editable_install(wheel: Path | None) -> None:
    from e2i_serving.cli.wheels import is_editable  # noqa: PLC0415  # keeps --help fast

    if wheel is None and is_editable():
        typer.echo(
            "This package is installed from its source tree, so that the project requires it by its version. "
            "To carry it instead: `make wheel` there, then name the file from dist/ with --wheel.",
            err=True,
        )
