"""``e2i-serving outcomes``: record what turned out to be true of predictions, and look at it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from e2i_serving.cli.audit import DataDir, Url, condition, one_of, open_trail
from e2i_serving.cli.printing import TableOrJson, print_error, print_json_lines, show
from e2i_serving.cli.progress import progress

if TYPE_CHECKING:
    from e2i_serving.outcomes import GivenOutcome, Line
    from e2i_serving.runtime.outcomes import OutcomeRecorder, Recorded

outcomes_app = typer.Typer(
    name="outcomes",
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Record what turned out to be true of predictions, and look at it.",
)

_LISTED_PROBLEMS = 100

AllowUnknown = Annotated[
    bool, typer.Option("--allow-unknown", help="Record what the trail knows no single prediction of, too.")
]


@outcomes_app.command()
def add(
    prediction_id: Annotated[str, typer.Argument(help="The prediction's id.", show_default=False)] = "",
    *,
    request_id: Annotated[str, condition("--request-id", "The caller's request id, instead of the prediction's.")] = "",
    item: Annotated[int | None, condition("--item", "The item's index. Unset: the request as a whole.")] = None,
    name: Annotated[str, typer.Option("--name", help="What was observed: truth, or the name of a score.")] = "truth",
    value: Annotated[str | None, condition("--value", "The truth, as JSON or as plain text.")] = None,
    score: Annotated[float | None, condition("--score", "A number.")] = None,
    source: Annotated[str, condition("--source", "Who or what says so.")] = "",
    comment: Annotated[str, condition("--comment", "Free text.")] = "",
    observed: Annotated[
        str | None, condition("--observed", "When it became true or known: an ISO time in UTC, or 30m, 1h, 7d ago.")
    ] = None,
    allow_unknown: AllowUnknown = False,
    data_dir: DataDir = None,
    url: Url = None,
) -> None:
    """Record a truth or a score for a prediction.

    Nothing is ever overwritten: a correction is one more, and the last one holds.

    \b
    Examples:
      e2i-serving outcomes add 0192f7b0-5c1e-7d4a-9f1e-2b7c6c1e8a11 --item 0 --value true --source claims
      e2i-serving outcomes add --request-id 4711 --name quality --score 0.8 --observed 2030-01-31
    """  # noqa: D301  # \b is click's mark for lines that stay as they are
    from e2i_serving.outcomes.files import value_of  # noqa: PLC0415  # keeps --help fast

    with _recorder(data_dir, url, allow_unknown=allow_unknown) as recorder:
        outcome_id = recorder.record(
            prediction_id,
            request_id=request_id,
            item=item,
            name=name,
            value=None if value is None else value_of(value),
            score=score,
            source=source,
            comment=comment,
            observed=observed,
        )
        is_stored = recorder.deliver()
    typer.echo(f"{outcome_id} {_where(is_stored=is_stored)}")


@outcomes_app.command("import")
def import_outcomes(
    file: Annotated[Path, typer.Argument(help="A .csv, .jsonl or .parquet file.")],
    *,
    allow_unknown: AllowUnknown = False,
    data_dir: DataDir = None,
    url: Url = None,
) -> None:
    """Record the outcomes of a file, one a line.

    Columns are prediction_id or request_id, item, name, value, score, source, comment and observed. What is wrong is
    listed by its line, and the rest is recorded; then the command exits with 1. What the trail has already is not
    recorded again, so that a file can be imported twice.

    \b
    Examples:
      e2i-serving outcomes import claims.csv
      e2i-serving outcomes import truths.jsonl --allow-unknown
    """  # noqa: D301  # \b is click's mark for lines that stay as they are
    from e2i_serving.outcomes import count_lines, read_outcomes  # noqa: PLC0415  # keeps --help fast
    from e2i_serving.runtime.questions import time_ns_of  # noqa: PLC0415  # likewise

    problems = new = known = 0
    with (
        _recorder(data_dir, url, allow_unknown=allow_unknown) as recorder,
        progress("Recording", total=count_lines(file)) as meter,
    ):
        for number, recorded in _recorded(recorder, read_outcomes(file, time_ns_of)):
            meter.advance()
            new += recorded.is_new
            known += bool(recorded.outcome_id) and not recorded.is_new
            if recorded.problem:
                problems += 1
                if problems <= _LISTED_PROBLEMS:
                    print_error(f"line {number}: {recorded.problem}")
        is_stored = recorder.deliver()
    typer.echo(f"{new} outcomes {_where(is_stored=is_stored)}, {known} known already, {problems} refused")
    if problems:
        raise typer.Exit(1)


@outcomes_app.command("list")
def list_outcomes(
    prediction_id: Annotated[str, typer.Argument(help="Only of this prediction.", show_default=False)] = "",
    *,
    request_id: Annotated[str, condition("--request-id", "Only of predictions with this request id.")] = "",
    name: Annotated[str | None, condition("--name", "Only of this name.")] = None,
    source: Annotated[str | None, condition("--source", "Only from this source.")] = None,
    since: Annotated[str | None, condition("--since", "Recorded since: a time in UTC, or 30m, 1h, 7d ago.")] = None,
    until: Annotated[str | None, condition("--until", "Recorded before: likewise.")] = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="Most outcomes to print.")] = 50,
    output: Annotated[TableOrJson, typer.Option("--format", help="json prints one object an outcome.")] = (
        TableOrJson.TABLE
    ),
    data_dir: DataDir = None,
    url: Url = None,
) -> None:
    """List outcomes, the last recorded first.

    \b
    Examples:
      e2i-serving outcomes list --since 1d
      e2i-serving outcomes list 0192f7b0-5c1e-7d4a-9f1e-2b7c6c1e8a11 --format json
    """  # noqa: D301  # \b is click's mark for lines that stay as they are
    from e2i_serving.cli.prediction import as_object, outcome_table  # noqa: PLC0415  # keeps --help fast

    with open_trail(data_dir, url, "outcomes list") as trail:
        found = trail.outcomes(
            prediction_id=prediction_id or None,
            request_id=request_id or None,
            name=name,
            source=source,
            since=since,
            until=until,
            limit=limit,
        )
    if output is TableOrJson.JSON:
        print_json_lines(map(as_object, found))
    else:
        names = ("TIME", "PREDICTION", "ITEM", "NAME", "VALUE", "SCORE", "SOURCE", "OBSERVED", "REQUEST", "COMMENT")
        show(outcome_table(found, names))


@contextmanager
def _recorder(data_dir: Path | None, url: str | None, *, allow_unknown: bool) -> Iterator[OutcomeRecorder]:
    from e2i_serving.runtime.outcomes import OutcomeRecorder  # noqa: PLC0415  # keeps --help fast

    with OutcomeRecorder.open(one_of(data_dir, url), allow_unknown=allow_unknown) as recorder:
        yield recorder


def _recorded(recorder: OutcomeRecorder, lines: Iterable[Line]) -> Iterator[tuple[int, Recorded]]:
    """What became of each line, in the order of the file."""
    from e2i_serving.runtime.outcomes import Recorded  # noqa: PLC0415  # keeps --help fast

    numbers: list[int] = []
    refused: list[tuple[int, Recorded]] = []

    def given() -> Iterator[GivenOutcome]:
        for line in lines:
            if line.given is None:
                refused.append((line.number, Recorded("", is_new=False, problem=line.problem)))
            else:
                numbers.append(line.number)
                yield line.given

    for place, recorded in enumerate(recorder.record_all(given())):
        while refused and refused[0][0] < numbers[place]:
            yield refused.pop(0)
        yield numbers[place], recorded
    yield from refused


def _where(*, is_stored: bool) -> str:
    return "stored" if is_stored else "recorded; the store will have them once a relay reaches it"
