"""``e2i-serving slo``: rules for Prometheus from objectives, and what is left of their budgets."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from e2i_serving.cli.printing import TableOrJson, print_json_lines, show, table, text
from e2i_serving.exceptions import ConfigurationError

if TYPE_CHECKING:
    from e2i_serving.slo import Objectives
    from e2i_serving.slo.status import Budget

slo_app = typer.Typer(
    name="slo",
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Watch over objectives: rules for Prometheus, and what is left of the budgets.",
)

File = Annotated[
    Path | None,
    typer.Option("--file", help="The objectives. Unset: slo.yaml here, or else the default ones.", show_default=False),
]
By = Annotated[
    list[str] | None,
    typer.Option(
        "--by",
        help="A label of Prometheus that tells services apart. May be repeated; unset: job.",
        show_default=False,
    ),
]


@slo_app.command()
def generate(
    *,
    file: File = None,
    output: Annotated[Path, typer.Option("--output", help="The folder to write to.", file_okay=False)] = Path(
        "prometheus"
    ),
    by: By = None,
    runbooks: Annotated[
        str, typer.Option("--runbooks", help="Address of the page of runbooks, which alerts point into.")
    ] = "docs/runbooks.md",
) -> None:
    """Write recording rules and alerts for Prometheus, and print the names of the files.

    objectives.yaml watches over the objectives, alerts.yaml over everything that can be down, lost or late.

    \b
    Examples:
      e2i-serving slo generate
      e2i-serving slo generate --file slo.yaml --output /etc/prometheus/rules --by namespace --by job
    """  # noqa: D301  # \b is click's mark for lines that stay as they are
    from e2i_serving.slo.files import rule_files  # noqa: PLC0415  # keeps --help fast

    keep = _kept(by)
    write_files(output, rule_files(_objectives(file), keep=keep, runbooks=runbooks))


@slo_app.command()
def runbooks() -> None:
    """Print the page of runbooks that alerts point into, in Markdown.

    Put it where the alerts are to find it: at docs/runbooks.md, or where `generate --runbooks` says.

    \b
    Examples:
      e2i-serving slo runbooks > docs/runbooks.md
    """  # noqa: D301  # \b is click's mark for lines that stay as they are
    from e2i_serving.cli.pages import page  # noqa: PLC0415  # keeps --help fast

    typer.echo(page("runbooks.md"), nl=False)


@slo_app.command()
def status(
    *,
    prometheus: Annotated[
        str | None, typer.Option("--prometheus", help="A Prometheus server, as a URL.", show_default=False)
    ] = None,
    url: Annotated[
        str | None,
        typer.Option("--url", help="A service, as http://host:port: since its start.", show_default=False),
    ] = None,
    file: File = None,
    by: By = None,
    output: Annotated[TableOrJson, typer.Option("--format", help="json has an object a line.")] = TableOrJson.TABLE,
) -> None:
    """Show what is left of each objective's budget.

    Exits with 1 when one is exhausted.

    \b
    Examples:
      e2i-serving slo status --prometheus http://prometheus:9090
      e2i-serving slo status --url http://localhost:3000 --format json
    """  # noqa: D301  # \b is click's mark for lines that stay as they are
    from e2i_serving.slo.status import (  # noqa: PLC0415  # keeps --help fast
        budgets_from_prometheus,
        budgets_from_service,
    )

    objectives, keep = _objectives(file), _kept(by)
    if prometheus and not url:
        budgets = budgets_from_prometheus(objectives, prometheus, keep=keep)
    elif url and not prometheus:
        budgets = budgets_from_service(objectives, url)
    else:
        raise ConfigurationError("Whom to ask? Give either --prometheus or --url.")
    if output is TableOrJson.JSON:
        print_json_lines(map(_as_row, budgets))
    else:
        rows = table("OBJECTIVE", "OF", "GOOD", "TARGET", "BUDGET LEFT", "OVER", "NOTE")
        for budget in budgets:
            rows.add_row(*(text(cell, "red" if budget.exhausted else "") for cell in _cells(budget)))
        show(rows)
    if any(budget.exhausted for budget in budgets):
        raise typer.Exit(1)


def write_files(folder: Path, files: dict[str, str]) -> None:
    """Write texts into a folder, which is made if need be, and print their paths.

    Raises:
        ConfigurationError: The folder can't be written to.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, content in files.items():
            (folder / name).write_text(content, encoding="utf-8")
            typer.echo(folder / name)
    except OSError as error:
        raise ConfigurationError(f"{folder} can't be written to: {error.strerror}. Name another one.") from error


def _objectives(file: Path | None) -> Objectives:
    from e2i_serving.slo import FILE_NAME, load_objectives  # noqa: PLC0415  # keeps --help fast

    here = Path(FILE_NAME)
    return load_objectives(file or (here if here.is_file() else None))


def _kept(by: Sequence[str] | None) -> tuple[str, ...]:
    from e2i_serving.slo.indicators import KEPT_APART  # noqa: PLC0415  # keeps --help fast

    wrong = [name for name in by or () if not (name.isascii() and name.isidentifier())]
    if wrong:
        raise ConfigurationError(f"{wrong[0]!r} is no label's name. Give one such as namespace.")
    return tuple(dict.fromkeys(by)) if by else KEPT_APART


def _as_row(budget: Budget) -> dict[str, Any]:
    objective = budget.objective
    return {
        "objective": objective.name,
        "service": objective.service,
        "indicator": objective.indicator,
        "of": budget.subject,
        "good": None if budget.errors is None else 1 - budget.errors,
        "target": objective.target,
        "bound": objective.bound,
        "left": budget.left,
        "exhausted": budget.exhausted,
        "over": budget.window,
        "note": budget.note,
    }


def _cells(budget: Budget) -> Iterator[str]:
    yield budget.objective.name
    yield ", ".join(f"{name}={value}" for name, value in sorted(budget.subject.items()))
    yield "" if budget.errors is None else f"{(1 - budget.errors) * 100:.4g} %"
    yield f"{budget.objective.target * 100:.6g} %"
    yield "" if budget.left is None else f"{budget.left * 100:.1f} %"
    yield budget.window
    yield budget.note
