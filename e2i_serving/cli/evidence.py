"""``e2i-serving audit verify, erase, purge``: prove that the trail was not altered, and take out of it what must go."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from e2i_serving.cli.printing import (
    TableOrJson,
    iso_time,
    print_error,
    print_json_lines,
    show,
    table,
    text,
)
from e2i_serving.cli.progress import progress

if TYPE_CHECKING:
    from e2i_serving.evidence.report import Problem, Report
    from e2i_serving.runtime.erasure import Erasure
    from e2i_serving.runtime.places import Place

DataDir = Annotated[
    Path | None,
    typer.Option("--data-dir", help="The service's data directory. Unset: as the settings say.", show_default=False),
]
Url = Annotated[
    str | None,
    typer.Option(
        "--url", help="The audit store, as an SQLAlchemy URL. Unset: the data directory's.", show_default=False
    ),
]
Output = Annotated[TableOrJson, typer.Option("--format", help="json prints one object.")]

_SHOWN = 20


def verify(
    *,
    data_dir: DataDir = None,
    url: Url = None,
    checkpoints: Annotated[
        list[Path] | None,
        typer.Option(
            "--checkpoints",
            help="Folder of signed checkpoints. May be repeated: every instance that writes to the store has one.",
            show_default=False,
        ),
    ] = None,
    public_key: Annotated[
        list[Path] | None,
        typer.Option(
            "--public-key",
            help="The key whose signatures count. May be repeated. Unset: those that lie beside the checkpoints.",
            show_default=False,
        ),
    ] = None,
    processes: Annotated[int, typer.Option("--processes", min=1, help="Most processes to use.")] = 2,
    output: Output = TableOrJson.TABLE,
) -> None:
    """Compute every chain anew and compare it with the signed checkpoints.

    Exits with 1 when anything was altered, and with 2 when the trail or the checkpoints can't be read.

    \b
    Examples:
      e2i-serving audit verify
      e2i-serving audit verify --checkpoints /mnt/worm/credit --public-key /etc/e2i/credit.pub
      e2i-serving audit verify --url postgresql://auditor@db/audit --checkpoints /mnt/worm/a --checkpoints /mnt/worm/b
    """  # noqa: D301  # \b is click's mark for lines that stay as they are
    from e2i_serving.runtime.holds import verify_stored_holds  # noqa: PLC0415  # keeps --help fast
    from e2i_serving.runtime.places import checkpoint_dirs  # noqa: PLC0415  # likewise
    from e2i_serving.runtime.verification import read_signed_history, verify_trail  # noqa: PLC0415  # likewise

    place = find_place(data_dir, url)
    folders = [folder.expanduser().absolute() for folder in checkpoints or ()] or checkpoint_dirs(place)
    history = read_signed_history(folders, public_key or ())
    with progress("Verifying", enabled=output is TableOrJson.TABLE) as meter:
        report = verify_trail(place.url, history, processes=processes, progress=meter.reach)
    for problem in verify_stored_holds(place.url, history.holds):
        report.note(problem)
    report.trim()
    if output is TableOrJson.JSON:
        print_json_lines([_as_object(report)])
    else:
        _show_report(report)
    if not report.passed:
        raise typer.Exit(1)


def erase(
    *,
    entity: Annotated[str, typer.Option("--entity", help="Whom, as name=value.")],
    data_dir: DataDir = None,
    url: Url = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be erased.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    output: Output = TableOrJson.TABLE,
) -> None:
    """Erase what the trail holds about someone, from the store, journals, dead letters and payload files.

    The trail can still be verified. Exits with 1 when a hold covers them, and nothing is erased then. Run it once for
    each data directory whose relay writes to the store.

    \b
    Examples:
      e2i-serving audit erase --entity customer=4711 --dry-run
      e2i-serving audit erase --entity customer=4711 --yes
    """  # noqa: D301  # \b is click's mark for lines that stay as they are
    from e2i_serving.runtime.erasure import erase as erase_subject  # noqa: PLC0415  # keeps --help fast
    from e2i_serving.runtime.questions import entity_as_stored  # noqa: PLC0415  # likewise

    place = find_place(data_dir, url)
    entity = entity_as_stored(place.settings, entity)
    if not (dry_run or yes):
        typer.confirm(f"Erase what the trail holds about {entity}? It can't be brought back.", abort=True, err=True)
    with progress("Erasing", counted=False):
        done = erase_subject(place.settings, place.data_dir, place.url, entity, dry_run=dry_run)
    if output is TableOrJson.JSON:
        names = ("erasure_id", "rows", "frames", "dead_letters", "payload_files", "elsewhere")
        held = [hold.hold_id for hold in done.held_by]
        print_json_lines([{**{name: getattr(done, name) for name in names}, "held_by": held, "dry_run": dry_run}])
    if done.held_by:
        for hold in done.held_by:
            print_error(
                f"Nothing was erased: hold {hold.hold_id} covers them, or someone in a request that is about them as "
                f"well ({hold.reason})."
            )
        raise typer.Exit(1)
    if output is TableOrJson.TABLE:
        _show_erasure(done, dry_run=dry_run)


def purge(
    *,
    older_than: Annotated[
        str | None,
        typer.Option("--older-than", help="An age, such as 400d. Unset: as retention says.", show_default=False),
    ] = None,
    retention_class: Annotated[
        str | None, typer.Option("--class", help="Only this retention class.", show_default=False)
    ] = None,
    data_dir: DataDir = None,
    url: Url = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be purged.")] = False,
    output: Output = TableOrJson.TABLE,
) -> None:
    """Delete what is older than it is to be kept, and leave a signed gap in its place.

    What a hold covers stays. The books are not lowered.

    \b
    Examples:
      e2i-serving audit purge --dry-run
      e2i-serving audit purge --older-than 400d
      e2i-serving audit purge --older-than 90d --class failure
    """  # noqa: D301  # \b is click's mark for lines that stay as they are
    from e2i_serving.evidence.opening import open_log  # noqa: PLC0415  # keeps --help fast
    from e2i_serving.runtime.purging import cutoffs  # noqa: PLC0415  # likewise
    from e2i_serving.runtime.purging import purge as purge_store  # noqa: PLC0415  # likewise
    from e2i_serving.stores.maintenance import SqlMaintenance  # noqa: PLC0415  # likewise

    place = find_place(data_dir, url)
    until = cutoffs(place.settings, older_than, retention_class)
    log = None if dry_run else open_log(place.settings, place.data_dir)
    with SqlMaintenance(place.url) as store, progress("Purging") as meter:
        done = purge_store(place.settings, place.data_dir, store, log, until, progress=meter.advance)
    if output is TableOrJson.JSON:
        names = ("rows", "held", "payload_files", "purge_ids")
        print_json_lines([{**{name: getattr(done, name) for name in names}, "dry_run": dry_run}])
        return
    rows = table("WHAT", "WOULD BE PURGED" if dry_run else "PURGED")
    for name, count in sorted(done.rows.items()):
        rows.add_row(text(name), text(count))
    if not dry_run:
        rows.add_row(text("payload files"), text(done.payload_files))
    show(rows)
    if done.held:
        show(text(f"{done.held} predictions are under a hold and stay.", "yellow"))


def find_place(data_dir: Path | None, url: str | None) -> Place:
    """The store and the data directory that are meant; both may be named.

    Raises:
        ConfigurationError: Nothing says which.
    """
    from e2i_serving.runtime.places import locate  # noqa: PLC0415  # keeps --help fast

    if data_dir is None or url is None:
        return locate(url or data_dir)
    folder = data_dir.expanduser().absolute()
    place = locate(url)
    changed = place.settings.model_copy(update={"data_dir": folder, "audit_url": place.url})
    return place._replace(data_dir=folder, settings=changed, is_reader_s_own=False)


def _show_report(report: Report) -> None:
    rows = table("WHAT", "ROWS")
    for name in ("predictions", "items", "entities", "events", "outcomes", "accesses"):
        rows.add_row(text(name), text(report.rows[name]))
    for reason, count in sorted(report.gaps.items()):
        rows.add_row(text(f"gaps: {reason}"), text(count))
    notes = (
        ("erased in part", report.erased),
        ("behind the last checkpoint", report.unanchored),
        ("stored by a release without chains", report.unchained),
        ("stored again in another form", report.unproved),
    )
    for name, count in notes:
        if count:
            rows.add_row(text(name), text(count))
    show(rows)
    newest = iso_time(report.checkpoint_ns) if report.checkpoint_ns else "none"
    signed = ", ".join(f"{count} by {key}" for key, count in sorted(report.keys.items()))
    show(text(f"{report.chains} chains. Newest checkpoint: {newest}. Signed entries: {signed or 'none'}."))
    if report.passed:
        show(text("Nothing was altered.", "green"))
        return
    show(text(f"{report.found} problems. The first:", "bold red"))
    for problem in report.problems[:_SHOWN]:
        show(text(f"  {_where(problem)}{problem.what}"))


def _where(problem: Problem) -> str:
    parts = [f"life {problem.life}, row {problem.sequence}"] if problem.life else []
    if problem.prediction_id:
        parts.append(f"prediction {problem.prediction_id}")
    return f"{', '.join(parts)}: " if parts else ""


def _as_object(report: Report) -> dict[str, Any]:
    first = report.first
    names = ("passed", "found", "chains", "rows", "gaps", "erased", "purged", "unanchored", "unchained", "unproved")
    return {
        **{name: getattr(report, name) for name in names},
        "keys": report.keys,
        "checkpoint": iso_time(report.checkpoint_ns) if report.checkpoint_ns else None,
        "first": _problem(first) if first else None,
        "problems": [_problem(problem) for problem in report.problems],
    }


def _problem(problem: Problem) -> dict[str, Any]:
    return {name: getattr(problem, name) for name in ("life", "sequence", "prediction_id", "what")}


def _show_erasure(done: Erasure, *, dry_run: bool) -> None:
    if not (done.rows.total() or done.frames or done.dead_letters or done.payload_files):
        show(text("Nothing here is about them. See that the name is right, and the key where entities are hashed."))
        return
    if not done.rows["items"]:
        show(
            text("No prediction here is about them. See that the name is right, and the key where entities are hashed.")
        )
    rows = table("WHAT", "WOULD BE ERASED" if dry_run else "ERASED")
    for name, count in sorted(done.rows.items()):
        rows.add_row(text(name), text(count))
    if not dry_run:
        rows.add_row(text("delivered journal frames"), text(done.frames))
        rows.add_row(text("dead letters"), text(done.dead_letters))
        rows.add_row(text("payload files"), text(done.payload_files))
    show(rows)
    if done.elsewhere:
        show(text(f"Not reached: {', '.join(done.elsewhere)}. Erase them there.", "yellow"))
    if not dry_run:
        show(text("Not reached: backups, log lines, and request ids that someone asked the trail for.", "yellow"))
