"""How predictions are shown: in a list, in full, as an object, as CSV."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from rich.console import RenderableType
from rich.text import Text

from e2i_serving.cli.printing import as_json, clean, csv_lines, iso_time, milliseconds, table, text
from e2i_serving.record import Row
from e2i_serving.record.rows import ITEM_OUTPUT_COLUMNS
from e2i_serving.runtime.trail import ITEM_ROWS
from e2i_serving.stores.tables import predictions

_MESSAGE: Final = 80
"""How much of an error's message a list shows."""

_HEADINGS: Final = ("TIME", "PREDICTION", "MODEL", "OUTCOME", "STATUS", "DURATION", "ITEMS", "REQUEST", "ERROR")
_WIDTHS: Final = (27, 36, 20, 9, 6, 11, 5, 36)
_STYLES: Final = {"ok": "green", "error": "red", "timeout": "red", "interrupted": "yellow", "invalid": "yellow"}

_IDENTITY: Final = (
    *("request_id", "trace_id", "span_id", "parent_span_id", "parent_request_id", "sampled"),
    *("principal", "principal_source", "service", "endpoint", "method", "route"),
    *("bento", "bento_version", "environment", "namespace", "pod", "revision", "arm"),
)
_MODEL: Final = ("model", "model_version", "task", "model_digest", "code_digest")
_RECORD: Final = (
    *("items", "request_bytes", "response_bytes", "sampling_fraction", "redactions"),
    *("release", "schema_version", "life", "sequence"),
)


def as_object(row: Row) -> dict[str, Any]:
    """A prediction's row with its time in UTC ISO 8601 before all else."""
    return {"time": iso_time(row["time_ns"]), **row}


def as_csv(rows: Iterable[Row], *, header: bool) -> str:
    """Predictions as CSV, one a line, without their items."""
    return csv_lines(("time", *predictions.columns.keys()), map(as_object, rows), header=header)


def listed(rows: Sequence[Row], *, header: bool = True) -> RenderableType:
    """Predictions one a line."""
    made = table(*_HEADINGS, header=header, widths=_WIDTHS)
    for row in rows:
        made.add_row(
            text(iso_time(row["time_ns"])),
            text(row["prediction_id"]),
            text(_model(row)),
            text(row["outcome"], _STYLES.get(row["outcome"], "")),
            text(row["status"]),
            text(milliseconds(row["duration"])),
            text(row["items"]),
            text(row["request_id"]),
            text(_error(row)),
        )
    return made


def _error(row: Row) -> str:
    kind = (row["error_type"] or "").rpartition(".")[2]
    message = (row["error_message"] or "")[:_MESSAGE]
    return f"{kind}: {message}" if message else kind


def full(row: Row) -> Iterator[RenderableType]:
    """All that is known of a prediction, in sections."""
    outcome = text(row["outcome"], _STYLES.get(row["outcome"], ""))
    yield Text.assemble(text(row["prediction_id"], "bold"), "  ", outcome, "  ", text(row["status"]))
    yield from _section("Identity", {"time": iso_time(row["time_ns"]), **_chosen(row, _IDENTITY)})
    phases = {name: milliseconds(seconds) for name, seconds in (row["phases"] or {}).items()}
    yield from _section("Timing", {"total": milliseconds(row["duration"]), **phases})
    yield from _section("Model", _chosen(row, _MODEL))
    yield from _section("Error", _chosen(row, ("error_type", "error_message")))
    yield from _section("Labels", row["labels"])
    yield from _section("Attributes", row["attributes"])
    yield from _section("Record", _chosen(row, _RECORD))
    for item in row[ITEM_ROWS]:
        yield from _item(item)


def _item(item: Row) -> Iterator[RenderableType]:
    yield Text()
    yield text(f"Item {item['item_index']}", "bold")
    yield from _section("  Entity", item["entity"])
    yield from _section("  Inputs", _named(item["inputs"]))
    yield from _section("  Outputs", {**_chosen(item, ITEM_OUTPUT_COLUMNS), **_named(item["outputs"])})


def _section(title: str, content: Mapping[str, Any] | None) -> Iterator[RenderableType]:
    if not content:
        return
    yield text(title, "cyan")
    rows = table("", "", header=False)
    indent = " " * (len(title) - len(title.lstrip()) + 2)
    for name, value in content.items():
        rows.add_row(Text(indent) + text(name), text(value if isinstance(value, str) else as_json(value)))
    yield rows


def _chosen(row: Row, names: Iterable[str]) -> dict[str, Any]:
    return {name: row[name] for name in names if row[name] is not None}


def _named(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    return value if isinstance(value, dict) else {"": value}


def _model(row: Row) -> str:
    return ":".join(clean(row[name]) for name in ("model", "model_version") if row[name])
