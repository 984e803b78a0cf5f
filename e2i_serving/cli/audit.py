"""``e2i-serving audit``: look at what was predicted, and whether the books balance."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from e2i_serving.cli.printing import (
    Format,
    TableOrJson,
    as_json,
    iso_time,
    print_error,
    print_json_lines,
    show,
    table,
    text,
)
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


def condition(flag: str, doc: str) -> Any:
    """An option that is no condition when it is left out."""
    return typer.Option(flag, help=doc, show_default=False)


@audit_app.command()
def query(
    *,
    data_dir: DataDir = None,
    url: Url = None,
    model: Annotated[str | None, condition("--model", "The model's name.")] = None,
    version: Annotated[str | None, condition("--version", "The model's version.")] = None,
    outcome: Annotated[str | None, condition("--outcome", "How it ended: ok, error, timeout, ...")] = None,
    status: Annotated[int | None, condition("--status", "The HTTP status.")] = None,
    label: Annotated[list[str] | None, condition("--label", "A label, as name=value. May be repeated.")] = None,
    entity: Annotated[str | None, condition("--entity", "An entity, as value or name=value.")] = None,
    request_id: Annotated[str | None, condition("--request-id", "The caller's request id.")] = None,
    prediction_id: Annotated[str | None, condition("--prediction-id", "The prediction's id.")] = None,
    trace_id: Annotated[str | None, condition("--trace-id", "The trace's id, 32 hex digits.")] = None,
    service: Annotated[str | None, condition("--service", "The service's name.")] = None,
    since: Annotated[str | None, condition("--since", "At or after: an ISO time in UTC, or 30m, 1h, 7d ago.")] = None,
    until: Annotated[str | None, condition("--until", "Before: likewise.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="Most predictions to print.")] = 50,
    output: Annotated[
        Format, typer.Option("--format", help="json holds everything, with items and outcomes.")
    ] = Format.TABLE,
    follow: Annotated[
        bool, typer.Option("--follow", help="Print the last ones, then go on until interrupted.")
    ] = False,
) -> None:
    """List the predictions that meet all conditions, the newest first.

    What was answered a moment ago is waited for. With --follow the oldest comes first; a prediction that is stored
    more than a minute later than its neighbours may be missed.

    \b
    Examples:
      e2i-serving audit query --model credit --outcome error --since 1h
      e2i-serving audit query --entity customer=4711 --format json
      e2i-serving audit query --label brand=north --since 2030-01-31 --format csv > january.csv
      e2i-serving audit query --follow
    """  # noqa: D301  # \b is click's mark for lines that stay as they are
    from e2i_serving.cli.following import follow_predictions  # noqa: PLC0415  # keeps --help fast
    from e2i_serving.runtime.questions import prediction_filter  # noqa: PLC0415  # likewise

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
    with open_trail(data_dir, url, "audit query") as trail:
        emit = _printer(output)
        is_full = output is Format.JSON
        if follow:
            follow_predictions(trail, where, limit=limit, items=is_full, emit=emit)
        else:
            trail.await_recent()
            emit(trail.query(where, limit=limit, items=is_full, outcomes=is_full).rows())


@audit_app.command("show")
def show_prediction(
    any_id: Annotated[str, typer.Argument(metavar="ID", help="A prediction id, request id or trace id.")],
    data_dir: DataDir = None,
    url: Url = None,
    output: Annotated[
        TableOrJson, typer.Option("--format", help="json prints one object a match.")
    ] = TableOrJson.TABLE,
    opik: Annotated[bool, typer.Option("--opik", help="Print only the addresses of their traces in Opik.")] = False,
) -> None:
    """Show a prediction in full, with its outcomes, or list every prediction that an id stands for.

    Exits with 1 when there is none.

    \b
    Examples:
      e2i-serving audit show 0192f7b0-5c1e-7d4a-9f1e-2b7c6c1e8a11
      e2i-serving audit show 4bf92f3577b34da6a3ce929d0e0e4736 --format json
      e2i-serving audit show 0192f7b0-5c1e-7d4a-9f1e-2b7c6c1e8a11 --opik
    """  # noqa: D301  # \b is click's mark for lines that stay as they are
    from e2i_serving.cli.prediction import as_object, full, listed  # noqa: PLC0415  # keeps --help fast

    with open_trail(data_dir, url, "audit show") as trail:
        found = trail.find(any_id)
    if not found:
        print_error(f"No prediction, request or trace has the id {any_id}.{_on_its_way(one_of(data_dir, url))}")
        raise typer.Exit(1)
    if opik:
        from e2i_serving.runtime.exporting import opik_trace_address  # noqa: PLC0415  # keeps --help fast
        from e2i_serving.runtime.places import locate  # noqa: PLC0415  # likewise

        settings = locate(one_of(data_dir, url)).settings
        for row in found:
            typer.echo(opik_trace_address(settings, row["prediction_id"]))
    elif output is TableOrJson.JSON:
        print_json_lines(map(as_object, found))
    elif len(found) == 1:
        show(*full(found[0]))
    else:
        show(listed(found), text(f"{len(found)} predictions. Show one in full by its prediction id."))


@audit_app.command()
def accesses(
    data_dir: DataDir = None,
    url: Url = None,
    since: Annotated[str | None, condition("--since", "At or after: an ISO time in UTC, or 30m, 1h, 7d ago.")] = None,
    until: Annotated[str | None, condition("--until", "Before: likewise.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="Most accesses to print.")] = 50,
    output: Annotated[
        TableOrJson, typer.Option("--format", help="json prints one object an access.")
    ] = TableOrJson.TABLE,
) -> None:
    """List who asked the trail what, the latest first.

    \b
    Examples:
      e2i-serving audit accesses
      e2i-serving audit accesses --since 7d --format json
    """  # noqa: D301  # \b is click's mark for lines that stay as they are
    from e2i_serving.cli.prediction import as_object  # noqa: PLC0415  # keeps --help fast

    with open_trail(data_dir, url, "audit accesses") as trail:
        found = trail.accesses(since, until, limit=limit)
    if output is TableOrJson.JSON:
        print_json_lines(map(as_object, found))
        return
    rows = table("TIME", "PRINCIPAL", "SOURCE", "WAY", "ACTION", "SHOWN", "CONDITIONS")
    for row in found:
        shown = row["predictions"] if row["predictions"] >= 0 else "one by one"
        cells = (row["principal"], row["source"], row["way"], row["action"], shown)
        conditions = as_json(row["conditions"]) if row["conditions"] else ""
        rows.add_row(text(iso_time(row["time_ns"])), *map(text, cells), text(conditions))
    show(rows)


@audit_app.command()
def upgrade(
    data_dir: DataDir = None,
    url: Url = None,
    check: Annotated[bool, typer.Option("--check", help="Only say; exit with 1 if there is something to do.")] = False,
) -> None:
    """Bring the tables of an audit store to the version of this release.

    The relay does this by itself at its first write. Do it by hand before, where the tables are large or the relay may
    not change them.

    \b
    Examples:
      e2i-serving audit upgrade --check
      e2i-serving audit upgrade --url postgresql://owner@db/audit
    """  # noqa: D301  # \b is click's mark for lines that stay as they are
    from e2i_serving.runtime.places import locate  # noqa: PLC0415  # keeps --help fast
    from e2i_serving.stores.migrations import HEAD  # noqa: PLC0415  # likewise
    from e2i_serving.stores.upgrading import stored_version, upgrade_store  # noqa: PLC0415  # likewise

    address = locate(one_of(data_dir, url)).url
    version = stored_version(address)
    if version == HEAD:
        typer.echo(f"The tables have version {HEAD}, which is this release's.")
        return
    before = f"from version {version}" if version else "from nothing"
    if check:
        typer.echo(f"The tables are to be brought {before} to version {HEAD}.")
        raise typer.Exit(1)
    upgrade_store(address)
    typer.echo(f"The tables were brought {before} to version {HEAD}.")


def open_trail(data_dir: Path | None, url: str | None, action: str) -> AuditTrail:
    """The trail that a command looks at.

    Args:
        data_dir: The option ``--data-dir``.
        url: The option ``--url``.
        action: The command, as it stands in the list of accesses.
    """
    from e2i_serving.runtime.trail import AuditTrail  # noqa: PLC0415  # keeps --help fast

    return AuditTrail.open_as(one_of(data_dir, url), way="cli", action=action)


def one_of(data_dir: Path | None, url: str | None) -> str | Path | None:
    """The store that a command's two options name; ``None`` when neither does.

    Raises:
        ConfigurationError: Both do.
    """
    if data_dir is not None and url is not None:
        raise ConfigurationError("--data-dir and --url name two stores. Give one of them.")
    return url or data_dir


def _on_its_way(where: str | Path | None) -> str:
    """What to do where an id may stand in the journal still; empty when it can't."""
    from e2i_serving.relay import read_books  # noqa: PLC0415  # keeps --help fast
    from e2i_serving.relay.audit_destination import AUDIT_STORE  # noqa: PLC0415  # likewise
    from e2i_serving.runtime.places import locate  # noqa: PLC0415  # likewise

    pending = sum(book.pending for book in read_books(locate(where).data_dir) if book.destination == AUDIT_STORE)
    if not pending:
        return ""
    return (
        f" {pending} predictions are in the journal and not in the store yet: 'e2i-serving relay --once' delivers "
        "them, or says why it can't."
    )


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
