"""``e2i-serving audit hold``: what must neither be erased nor purged."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from e2i_serving.cli.evidence import DataDir, Url, find_place
from e2i_serving.cli.printing import TableOrJson, iso_time, print_json_lines, show, table, text

holds_app = typer.Typer(
    name="hold",
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Set, list and release legal holds, which keep predictions from being erased and purged.",
)


@holds_app.command("add")
def add(
    *,
    reason: Annotated[str, typer.Option("--reason", help="Why.")],
    entity: Annotated[
        str | None, typer.Option("--entity", help="Predictions about someone, as name=value.", show_default=False)
    ] = None,
    model: Annotated[
        str | None, typer.Option("--model", help="Predictions of a model, by its name.", show_default=False)
    ] = None,
    since: Annotated[
        str | None,
        typer.Option("--since", help="At or after: an ISO time in UTC, or 30m, 1h, 7d ago.", show_default=False),
    ] = None,
    until: Annotated[str | None, typer.Option("--until", help="Before: likewise.", show_default=False)] = None,
    data_dir: DataDir = None,
    url: Url = None,
) -> None:
    """Set a hold on the predictions that meet all conditions, those to come included.

    \b
    Examples:
      e2i-serving audit hold add --entity customer=4711 --reason "case 12/30"
      e2i-serving audit hold add --model credit --since 2030-01-01 --until 2030-04-01 --reason "supervisor's review"
    """  # noqa: D301  # \b is click's mark for lines that stay as they are
    from e2i_serving.evidence.opening import open_log  # noqa: PLC0415  # keeps --help fast
    from e2i_serving.runtime.holds import add_hold, covered  # noqa: PLC0415  # likewise
    from e2i_serving.runtime.questions import entity_as_stored, time_ns_of  # noqa: PLC0415  # likewise
    from e2i_serving.stores.maintenance import SqlMaintenance  # noqa: PLC0415  # likewise

    place = find_place(data_dir, url)
    with SqlMaintenance(place.url) as store:
        hold = add_hold(
            store,
            open_log(place.settings, place.data_dir),
            reason=reason,
            entity=entity_as_stored(place.settings, entity) if entity else None,
            model=model,
            since_ns=time_ns_of(since) if since else None,
            until_ns=time_ns_of(until) if until else None,
        )
        number = covered(store, hold)
    show(text(f"Hold {hold.hold_id} is set. Predictions that it covers now: {number:,}."))


@holds_app.command("list")
def list_holds(
    *,
    everything: Annotated[bool, typer.Option("--all", help="With those that were released.")] = False,
    data_dir: DataDir = None,
    url: Url = None,
    output: Annotated[TableOrJson, typer.Option("--format", help="json prints one object a hold.")] = TableOrJson.TABLE,
) -> None:
    """List the holds in force, the oldest first.

    \b
    Examples:
      e2i-serving audit hold list
      e2i-serving audit hold list --all --format json
    """  # noqa: D301  # \b is click's mark for lines that stay as they are
    from e2i_serving.stores.maintenance import SqlMaintenance  # noqa: PLC0415  # keeps --help fast

    place = find_place(data_dir, url)
    with SqlMaintenance(place.url) as store, store.transaction() as change:
        holds = change.holds(released=None if everything else False)
    if output is TableOrJson.JSON:
        print_json_lines({name: getattr(hold, name) for name in hold.__struct_fields__} for hold in holds)
        return
    rows = table("ID", "SET", "BY", "ENTITY", "MODEL", "SINCE", "UNTIL", "REASON", "RELEASED")
    for hold in holds:
        span = (_time(hold.since_ns), _time(hold.until_ns))
        cells = (hold.hold_id, _time(hold.time_ns), hold.principal, hold.entity, hold.model, *span, hold.reason)
        rows.add_row(*map(text, cells), text(_time(hold.released_ns)))
    show(rows)


@holds_app.command("release")
def release(
    hold_id: Annotated[str, typer.Argument(metavar="ID", help="The hold's id.")],
    data_dir: DataDir = None,
    url: Url = None,
) -> None:
    """Release a hold. What it covered can be erased and purged from then on, unless another one covers it.

    \b
    Examples:
      e2i-serving audit hold release 0192f7b0-5c1e-7d4a-9f1e-2b7c6c1e8a11
    """  # noqa: D301  # \b is click's mark for lines that stay as they are
    from e2i_serving.evidence.opening import open_log  # noqa: PLC0415  # keeps --help fast
    from e2i_serving.runtime.holds import release_hold  # noqa: PLC0415  # likewise
    from e2i_serving.stores.maintenance import SqlMaintenance  # noqa: PLC0415  # likewise

    place = find_place(data_dir, url)
    with SqlMaintenance(place.url) as store:
        hold = release_hold(store, open_log(place.settings, place.data_dir), hold_id)
    show(text(f"Hold {hold.hold_id} is released."))


def _time(time_ns: Any) -> str | None:
    return None if time_ns is None else iso_time(time_ns)
