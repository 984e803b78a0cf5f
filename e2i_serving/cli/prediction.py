"""How predictions are shown: in a list, in full, as an object, as CSV."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from rich.console import RenderableType
from rich.padding import Padding
from rich.text import Text

from e2i_serving.cli.printing import as_json, clean, csv_lines, iso_time, milliseconds, table, text
from e2i_serving.record import WHOLE_REQUEST, Row
from e2i_serving.record.rows import ITEM_OUTPUT_COLUMNS
from e2i_serving.runtime.rows import ITEM_ROWS, LATE_ROWS, OUTCOME_ROWS
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
_PROVENANCE: Final = ("store", "service", "registry", "duration", "cache_hits", "cache_misses", "error_type")
_RECORD: Final = (
    *("items", "request_bytes", "response_bytes", "sampling_fraction", "redactions"),
    *("retention", "payload_digest", "erased", "release", "schema_version", "life", "sequence", "hash"),
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
            text(_model(row) or f"{row['service']}.{row['endpoint']}"),
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
    yield from _section("Lineage", row["lineage"])
    yield from _section("Features", _provenance(row))
    yield from _section("Error", _chosen(row, ("error_type", "error_message")))
    yield from _section("Labels", row["labels"])
    yield from _section("Attributes", row["attributes"])
    yield from _section("Record", _chosen(row, _RECORD))
    for number, late in enumerate(row[LATE_ROWS], start=1):
        yield from _section(f"After the answer ({number})", _late(late))
    yield from _outcomes(row, WHOLE_REQUEST)
    for item in row[ITEM_ROWS]:
        yield from _item(row, item)
        yield from _outcomes(row, item["item_index"])


def _late(late: Row) -> dict[str, Any]:
    told = _chosen(late, ("outcome", "error_type", "error_message", "outputs"))
    return {"duration": milliseconds(late["duration"]), **told}


def _outcomes(row: Row, index: int) -> Iterator[RenderableType]:
    """What turned out to be true of an item, or of the request: every version, the last one last."""
    found = [outcome for outcome in row[OUTCOME_ROWS] if outcome["item_index"] == index]
    if not found:
        return
    yield text("Outcomes" if index == WHOLE_REQUEST else "  Outcomes", "cyan")
    yield outcome_table(found, names=("TIME", "NAME", "VALUE", "SCORE", "SOURCE", "OBSERVED", "COMMENT"), indent=4)


def outcome_table(found: Iterable[Row], names: Sequence[str], indent: int = 0) -> RenderableType:
    """Outcomes one a line.

    Args:
        found: Their rows.
        names: The headings wanted.
        indent: How far from the left.
    """
    made = table(*names)
    for outcome in found:
        cells = {
            "TIME": iso_time(outcome["time_ns"]),
            "PREDICTION": outcome["prediction_id"],
            "REQUEST": outcome["request_id"],
            "ITEM": outcome["item_index"] if outcome["item_index"] != WHOLE_REQUEST else "all",
            "NAME": outcome["name"],
            "VALUE": as_json(outcome["value"]) if outcome["value"] is not None else None,
            "SCORE": outcome["score"],
            "SOURCE": outcome["source"],
            "OBSERVED": iso_time(outcome["observed_ns"]) if outcome["observed_ns"] else None,
            "COMMENT": outcome["comment"],
        }
        made.add_row(*[text(cells[name]) for name in names])
    return Padding(made, (0, 0, 0, indent))


def _item(row: Row, item: Row) -> Iterator[RenderableType]:
    yield Text()
    yield text(f"Item {item['item_index']}", "bold")
    yield from _section("  Entity", item["entity"])
    yield from _section("  Features", _readings(row, item["item_index"]))
    yield from _section("  Inputs", _named(item["inputs"]))
    yield from _section("  Outputs", {**_chosen(item, ITEM_OUTPUT_COLUMNS), **_named(item["outputs"])})


def _provenance(row: Row) -> dict[str, Any]:
    """Where the features came from: what stood in its way, and by view how many values there were of each outcome."""
    found = row["feature_provenance"]
    if not found:
        return {}
    told = {name: found[name] for name in _PROVENANCE if name in found}
    if "duration" in told:
        told["duration"] = milliseconds(told["duration"])
    for view, reading in found.get("views", {}).items():
        told[view] = ", ".join(f"{number} {outcome}" for outcome, number in reading.get("outcomes", {}).items())
    return told


def _readings(row: Row, index: int) -> dict[str, str]:
    """What each view gave for an item: the worst outcome, and since when the oldest of its values was true."""
    views = (row["feature_provenance"] or {}).get("views", {})
    told: dict[str, str] = {}
    for view, reading in views.items():
        status, event_ns = (reading.get(name, ())[index : index + 1] for name in ("statuses", "event_ns"))
        since = [f"of {iso_time(ns)}, {_age(row['time_ns'] - ns)} old" for ns in event_ns if ns]
        if status:
            told[view] = ", ".join([*status, *since])
    return told


def _age(nanoseconds: int) -> str:
    seconds = nanoseconds / 1e9
    for unit, length in (("d", 86_400), ("h", 3_600), ("min", 60)):
        if abs(seconds) >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:.1f} s"


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
