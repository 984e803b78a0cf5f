"""``e2i-serving audit``: look at what was predicted, and whether the books balance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from e2i_serving.cli.printing import Format, TableOrJson, print_error, print_json_lines, show, table, text
from e2i_serving.exceptions import ConfigurationError

if TYPE_CHECKING:
    from e2i_serving.runtime.trail import AuditTrail

audit_app = typer.Typer(
    name="audit",
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Look at what was predicted, and whether the books balance.",
)

DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="The service's data directory. Unset: as the settings say.", show_default=False),
]
Url = Annotated[str | None, typer.Option("--url", help="The audit store, as an SQLAlchemy URL.", show_default=False)]


def _condition(flag: str, doc: str) -> Any:
    return typer.Option(flag, help=doc, show_default=False)


@audit_app.command()
def query(
    *,
    data_dir: DataDir = None,
    url: Url = None,
    model: Annotated[str | None, _condition("--model", "The model's name.")] = None,
    version: Annotated[str | None, _condition("--version", "The model's version.")] = None,
    outcome: Annotated[str | None, _condition("--outcome", "How it ended: ok, error, timeout, ...")] = None,
    status: Annotated[int | None, _condition("--status", "The HTTP status.")] = None,
    label: Annotated[list[str] | None, _condition("--label", "A label, as name=value. May be repeated.")] = None,
    entity: Annotated[str | None, _condition("--entity", "An entity, as value or name=value.")] = None,
    request_id: Annotated[str | None, _condition("--request-id", "The caller's request id.")] = None,
    prediction_id: Annotated[str | None, _condition("--prediction-id", "The prediction's id.")] = None,
    trace_id: Annotated[str | None, _condition("--trace-id", "The trace's id, 32 hex digits.")] = None,
    service: Annotated[str | None, _condition("--service", "The service's name.")] = None,
    since: Annotated[str | None, _condition("--since", "At or after: an ISO time in UTC, or 30m, 1h, 7d ago.")] = None,
    until: Annotated[str | None, _condition("--until", "Before: likewise.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="Most predictions to print.")] = 50,
    output: Annotated[Format, typer.Option("--format", help="json holds everything, with the items.")] = Format.TABLE,
    follow: Annotated[
        bool, typer.Option("--follow", help="Print the last ones, then go on until interrupted.")
    ] = False,
) -> None:
    """List the predictions that meet all conditions, the newest first.

    With --follow the oldest comes first; a prediction that is stored more than a minute later than its neighbours may
    be missed.

    \b
    Examples:
      e2i-serving audit query --model credit --outcome error --since 1h
      e2i-serving audit query --entity customer=4711 --format json
      e2i-serving audit query --label brand=north --since 2030-01-31 --format csv > january.csv
      e2i-serving audit query --follow
    """  # noqa: D301  # \b is click's mark for lines that stay as they are
    from e2i_serving.cli.following import follow_predictions  # noqa: PLC0415  # keeps --help fast
    from e2i_serving.runtime.trail import prediction_filter  # noqa: PLC0415  # likewise

    where = prediction_filter(
        prediction_id=prediction_id,
        request_id=request_id,
        trace_id=trace_id.lower() if trace_id else None,
        service=service,
        model=model,
        model_version=version,
        outcome=outcome,
        status=status,
        labels=_labels(label or []),
        entity=entity,
        since=since,
        until=until,
    )
    with _open(data_dir, url) as trail:
        emit = _printer(output)
        has_items = output is Format.JSON
        if follow:
            follow_predictions(trail, where, limit=limit, items=has_items, emit=emit)
        else:
            emit(trail.query(where, limit=limit, items=has_items).rows())


@audit_app.command("show")
def show_prediction(
    any_id: Annotated[str, typer.Argument(metavar="ID", help="A prediction id, request id or trace id.")],
    data_dir: DataDir = None,
    url: Url = None,
    output: Annotated[
        TableOrJson, typer.Option("--format", help="json prints one object a match.")
    ] = TableOrJson.TABLE,
) -> None:
    """Show a prediction in full, or list every prediction that an id stands for.

    Exits with 1 when there is none.

    \b
    Examples:
      e2i-serving audit show 0192f7b0-5c1e-7d4a-9f1e-2b7c6c1e8a11
      e2i-serving audit show 4bf92f3577b34da6a3ce929d0e0e4736 --format json
    """  # noqa: D301  # \b is click's mark for lines that stay as they are
    from e2i_serving.cli.prediction import as_object, full, listed  # noqa: PLC0415  # keeps --help fast

    with _open(data_dir, url) as trail:
        found = trail.find(any_id)
    if not found:
        print_error(f"No prediction, request or trace has the id {any_id}.")
        raise typer.Exit(1)
    if output is TableOrJson.JSON:
        print_json_lines(map(as_object, found))
    elif len(found) == 1:
        show(*full(found[0]))
    else:
        show(listed(found), text(f"{len(found)} predictions. Show one in full by its prediction id."))


@audit_app.command()
def books(
    data_dir: DataDir = None,
    output: Annotated[TableOrJson, typer.Option("--format", help="json prints one object a destination.")] = (
        TableOrJson.TABLE
    ),
) -> None:
    """Check that every accepted prediction is accounted for, at each destination.

    accepted = stored + pending + dead-lettered + dropped. Exits with 1 when the books of a destination do not balance.

    \b
    Examples:
      e2i-serving audit books
      e2i-serving audit books --data-dir /var/lib/e2i --format json
    """  # noqa: D301  # \b is click's mark for lines that stay as they are
    from e2i_serving.relay.books import read_books  # noqa: PLC0415  # keeps --help fast
    from e2i_serving.runtime.trail import find_data_dir  # noqa: PLC0415  # likewise
    from e2i_serving.settings import load_settings  # noqa: PLC0415  # likewise

    folder = data_dir.expanduser().absolute() if data_dir else find_data_dir(load_settings().settings)
    if not folder.is_dir():
        raise ConfigurationError(f"There is no data directory {folder}. Name another with --data-dir.")
    accounts = read_books(folder)
    if output is TableOrJson.JSON:
        names = ("destination", "accepted", "stored", "pending", "dead_lettered", "dropped", "balanced")
        print_json_lines({name: getattr(book, name) for name in names} for book in accounts)
    else:
        rows = table("DESTINATION", "ACCEPTED", "STORED", "PENDING", "DEAD-LETTERED", "DROPPED", "BALANCED")
        for book in accounts:
            dropped = ", ".join(f"{count} {reason}" for reason, count in sorted(book.dropped.items()) if count) or 0
            counts = (book.accepted, book.stored, book.pending, book.dead_lettered, dropped)
            verdict = text("yes", "green") if book.balanced else text("NO", "bold red")
            rows.add_row(text(book.destination), *map(text, counts), verdict)
        show(rows)
    if not all(book.balanced for book in accounts):
        raise typer.Exit(1)


def _open(data_dir: Path | None, url: str | None) -> AuditTrail:
    from e2i_serving.runtime.trail import AuditTrail  # noqa: PLC0415  # keeps --help fast

    if data_dir is not None and url is not None:
        raise ConfigurationError("--data-dir and --url name two stores. Give one of them.")
    return AuditTrail.open(url or data_dir)


def _labels(pairs: Sequence[str]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for pair in pairs:
        name, separator, value = pair.partition("=")
        if not (name and separator):
            raise typer.BadParameter(f"{pair!r} is not name=value.", param_hint="--label")
        labels[name] = value
    return labels


def _printer(output: Format) -> Callable[[list[dict[str, Any]]], None]:
    """What prints batches of rows one after another as one listing."""
    from e2i_serving.cli.prediction import as_csv, as_object, listed  # noqa: PLC0415  # keeps --help fast

    batches = 0

    def emit(rows: list[dict[str, Any]]) -> None:
        nonlocal batches
        if output is Format.JSON:
            print_json_lines(map(as_object, rows))
        elif output is Format.CSV:
            typer.echo(as_csv(rows, header=not batches), nl=False)
        else:
            show(listed(rows, header=not batches))
        batches += 1

    return emit
