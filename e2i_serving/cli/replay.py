"""``e2i-serving audit replay``: run recorded predictions once more, and compare."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from e2i_serving.cli.audit import DataDir, Url, condition, open_trail
from e2i_serving.cli.printing import TableOrJson, as_json, print_error, print_json_lines, show, table, text
from e2i_serving.cli.progress import progress

if TYPE_CHECKING:
    from e2i_serving.services.replay import ReplayReport

SHOWN = 20
"""Most differences that the table shows."""


def replay(
    any_id: Annotated[
        str | None, typer.Argument(metavar="[ID]", help="A prediction id, request id or trace id.", show_default=False)
    ] = None,
    *,
    target: Annotated[
        str, typer.Option("--target", help="The service, as `bentoml serve` takes it: module:Class, a folder, a tag.")
    ] = ".",
    working_dir: Annotated[
        Path, typer.Option("--working-dir", help="The folder to import it from.", file_okay=False)
    ] = Path(),
    data_dir: DataDir = None,
    url: Url = None,
    model: Annotated[str | None, condition("--model", "The model's name.")] = None,
    version: Annotated[str | None, condition("--version", "The model's version.")] = None,
    entity: Annotated[str | None, condition("--entity", "An entity, as value or name=value.")] = None,
    since: Annotated[str | None, condition("--since", "At or after: an ISO time in UTC, or 30m, 1h, 7d ago.")] = None,
    until: Annotated[str | None, condition("--until", "Before: likewise.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Most predictions.", show_default=False)] = None,
    against: Annotated[
        str, typer.Option("--against", help="A candidate model, name:version, in place of the recorded ones.")
    ] = "",
    tolerance: Annotated[float, typer.Option("--tolerance", min=0, help="How far numbers may be apart.")] = 1e-9,
    allow_code: Annotated[
        bool, typer.Option("--allow-code", help="Replay by other code of the service than was recorded.")
    ] = False,
    output: Annotated[TableOrJson, typer.Option("--format", help="json prints one object.")] = TableOrJson.TABLE,
) -> None:
    """Run recorded predictions through their exact model once more, and compare what comes out.

    The inputs, thresholds and interval levels are those on record; nothing is fetched and nothing recorded. Exits with
    1 when something comes out otherwise, unless --against asks what would; with 2 when a model is not the one on
    record, nothing can be replayed, or other code than this made some of them, after the others were replayed.

    \b
    Examples:
      e2i-serving audit replay 0192f7b0-5c1e-7d4a-9f1e-2b7c6c1e8a11 --target service:Churn
      e2i-serving audit replay --model churn --since 1d --target service:Churn
      e2i-serving audit replay --model churn --since 7d --against churn_candidate:latest --target service:Churn
    """  # noqa: D301  # \b is click's mark for lines that stay as they are
    from e2i_serving.runtime.checks import importable, load_service  # noqa: PLC0415  # imports BentoML
    from e2i_serving.services.replay import OTHER_CODE  # noqa: PLC0415  # likewise
    from e2i_serving.services.replay import replay as run_replay  # noqa: PLC0415  # likewise

    service = load_service(target, working_dir)
    with (
        open_trail(data_dir, url, "audit replay") as trail,
        importable(service.inner, working_dir),
        progress("Replaying") as meter,
    ):
        conditions: dict[str, Any] = {
            "model": model,
            "model_version": version,
            "entity": entity,
            "since": since,
            "until": until,
        }
        rows = (
            trail.find(any_id)
            if any_id is not None
            else trail.query(limit=limit, **{name: value for name, value in conditions.items() if value is not None})
        )
        report = run_replay(
            service, rows, against=against, tolerance=tolerance, allow_code=allow_code, progress=meter.advance
        )
    if any_id is None and (sampled_out := round(report.sampled_out)):
        report.left_out["sampled-out"] = sampled_out
    if output is TableOrJson.JSON:
        print_json_lines([_as_object(report)])
    else:
        _show(report, is_shadow=bool(against))
    if others := report.left_out[OTHER_CODE]:
        print_error(
            f"Other code of {service.inner.__name__} than this made {others} predictions, which were left out. "
            "Check out that code, or allow this one (--allow-code)."
        )
        raise typer.Exit(2)
    if not report.replayed:
        print_error("Nothing was replayed.")
        raise typer.Exit(2)
    if report.changed and not against:
        raise typer.Exit(1)


def _as_object(report: ReplayReport) -> dict[str, Any]:
    labels = [
        {"label": name, "value": value, "replayed": replayed, "changed": changed, "decisions_changed": decisions}
        for (name, value), (replayed, changed, decisions) in sorted(report.labels.items())
    ]
    return {
        "replayed": report.replayed,
        "equal": report.replayed - report.changed,
        "changed": report.changed,
        "decisions_changed": report.decisions_changed,
        "left_out": dict(report.left_out),
        "labels": labels,
        "differences": [each._asdict() for each in report.differences],
    }


def _show(report: ReplayReport, *, is_shadow: bool) -> None:
    counts = table("REPLAYED", "EQUAL", "CHANGED", "DECISIONS", "LEFT OUT")
    left_out = ", ".join(f"{number} {reason}" for reason, number in sorted(report.left_out.items()))
    numbers = (report.replayed, report.replayed - report.changed, report.changed, report.decisions_changed)
    counts.add_row(*(text(each) for each in numbers), text(left_out or 0))
    show(counts)
    if report.differences:
        rows = table("PREDICTION", "ITEM", "OUTPUT", "RECORDED", "REPLAYED")
        for each in report.differences[:SHOWN]:
            cells = (each.prediction_id, each.item_index, each.column, as_json(each.recorded), as_json(each.replayed))
            rows.add_row(*map(text, cells))
        show(rows)
    if is_shadow and report.labels:
        labels = table("LABEL", "VALUE", "REPLAYED", "CHANGED", "DECISIONS")
        for label, of_label in sorted(report.labels.items()):
            labels.add_row(*map(text, (*label, *of_label)))
        show(labels)
