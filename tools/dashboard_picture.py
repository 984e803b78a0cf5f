"""Draw a dashboard's panels from a Prometheus, as an SVG: for the README, where no Grafana is at hand.

The panels, their places, queries, units and names are those of dashboards/*.json; only the drawing is this file's.

.venv/bin/python tools/dashboard_picture.py dashboards/e2i-overview.json docs/images/dashboard.svg \
    --prometheus http://localhost:9090 --minutes 10
"""

from __future__ import annotations

import argparse
import json
import math
import re
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple
from xml.sax.saxutils import escape

import httpx

WIDTH: Final = 1200
COLUMNS: Final = 24
"""Of Grafana's grid."""
ROW: Final = 26
"""Pixels of a row of Grafana's grid."""
GAP: Final = 4
POINTS: Final = 240
_PLAIN: Final = 100
COLOURS: Final = ("#73bf69", "#f2cc0c", "#5794f2", "#ff780a", "#f2495c", "#b877d9", "#8ab8ff", "#c0d8ff")
VARIABLES: Final = {"job": ".*", "model": ".*", "version": ".*", "label": "brand", "__rate_interval": "30s"}
STYLE: Final = (
    "text{font:11px sans-serif;fill:#9fa7b3}.title{font-weight:600;fill:#ccccdc}.row{font-size:13px;fill:#ccccdc}"
    ".value{font-size:30px;fill:#73bf69}.panel{fill:#181b1f;stroke:#2c3235}.grid{stroke:#2c3235}"
    "path{fill:none;stroke-width:1.5}"
)


class Series(NamedTuple):
    """A line: its name, and its points as seconds and values."""

    name: str
    points: list[tuple[float, float]]


class Frame(NamedTuple):
    """A rectangle in pixels."""

    x: float
    y: float
    width: float
    height: float


def filled(expression: str) -> str:
    """An expression with Grafana's variables replaced."""
    return re.sub(r"\$(\w+)", lambda found: VARIABLES[found[1]], expression)


def asked(prometheus: str, target: Mapping[str, Any], start: float, end: float) -> Iterator[Series]:
    """What a panel's query gives.

    Raises:
        httpx.HTTPError: Prometheus did not answer, or not well.
    """
    asks = {"query": filled(target["expr"]), "start": start, "end": end, "step": (end - start) / POINTS}
    answer = httpx.get(f"{prometheus}/api/v1/query_range", params=asks)
    answer.raise_for_status()
    for found in answer.json()["data"]["result"]:
        labels = found["metric"]
        form = target.get("legendFormat") or ", ".join(f"{name}={value}" for name, value in labels.items())
        name = re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda each, labels=labels: labels.get(each[1], ""), form)
        points = [(at, float(value)) for at, value in found["values"]]
        yield Series(name, [(at, value) for at, value in points if math.isfinite(value)])


def shown(value: float, unit: str) -> str:
    """A value in its unit, in few digits."""
    if unit == "percentunit":
        return f"{value * 100:.4g} %"
    if unit == "s":
        small = abs(value) < 1
        return f"{value * 1000:.3g} ms" if small and value else f"{value:.3g} s"
    few = f"{value:,.0f}" if abs(value) >= _PLAIN else f"{value:.3g}"
    return few + (" req/s" if unit == "reqps" else "")


def text(x: float, y: float, content: str, kind: str = "", anchor: str = "start", colour: str = "") -> str:
    """A line of text."""
    fill = f' style="fill:{colour}"' if colour else ""
    name = f' class="{kind}"' if kind else ""
    return f'<text x="{x:.0f}" y="{y:.0f}" text-anchor="{anchor}"{name}{fill}>{escape(content)}</text>'


def stat(frame: Frame, series: Sequence[Series], unit: str) -> Iterator[str]:
    """The last value, large."""
    last = next((each.points[-1][1] for each in series if each.points), math.nan)
    content = shown(last, unit) if math.isfinite(last) else "No data"
    yield text(frame.x + frame.width / 2, frame.y + frame.height / 2 + 20, content, "value", "middle")


def chart(frame: Frame, series: Sequence[Series], unit: str, start: float, end: float) -> Iterator[str]:
    """Lines over time, with a scale at the left and their names below."""
    left, right, top, bottom = frame.x + 72, frame.x + frame.width - 10, frame.y + 32, frame.y + frame.height - 46
    values = [value for each in series for _, value in each.points]
    low, high = (min(0.0, *values), max(values)) if values else (0.0, 1.0)
    high = high if high > low else low + 1.0
    for part in range(4):
        y = bottom - (bottom - top) * part / 3
        yield f'<path class="grid" d="M{left:.0f} {y:.1f}H{right:.0f}"/>'
        yield text(left - 6, y + 4, shown(low + (high - low) * part / 3, unit), anchor="end")
    for part in range(4):
        at = start + (end - start) * part / 3
        anchor = ("start", "middle", "middle", "end")[part]
        clock = time.strftime("%H:%M", time.gmtime(at))
        yield text(left + (right - left) * part / 3, bottom + 16, clock, anchor=anchor)
    if not values:
        yield text((left + right) / 2, (top + bottom) / 2, "No data", anchor="middle")
    x = left
    for number, each in enumerate(series):
        colour = COLOURS[number % len(COLOURS)]
        dots = [
            f"{left + (at - start) / (end - start) * (right - left):.1f} "
            f"{bottom - (value - low) / (high - low) * (bottom - top):.1f}"
            for at, value in each.points
        ]
        if dots:
            yield f'<path stroke="{colour}" d="M{"L".join(dots)}"/>'
        if x < right - 40:
            yield f'<rect x="{x:.0f}" y="{frame.y + frame.height - 15:.0f}" width="10" height="3" fill="{colour}"/>'
            yield text(x + 14, frame.y + frame.height - 10, each.name)
            x += 30 + 6.2 * len(each.name)


def drawn(board: Mapping[str, Any], prometheus: str, start: float, end: float, rows: int) -> str:
    """The picture of a dashboard's first rows."""
    parts: list[str] = []
    panels = [panel for panel in board["panels"] if panel["gridPos"]["y"] < rows]
    height = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels) * ROW + 44
    for panel in panels:
        place = panel["gridPos"]
        unit = WIDTH / COLUMNS
        frame = Frame(
            place["x"] * unit + GAP, place["y"] * ROW + 40, place["w"] * unit - 2 * GAP, place["h"] * ROW - 2 * GAP
        )
        if panel["type"] == "row":
            parts.append(text(frame.x + 4, frame.y + 15, f"▾ {panel['title']}", "row"))
            continue
        series = [line for target in panel["targets"] for line in asked(prometheus, target, start, end)]
        shape = "".join(f' {name}="{value:.0f}"' for name, value in frame._asdict().items())
        parts += [f'<rect class="panel" rx="2"{shape}/>', text(frame.x + 8, frame.y + 17, panel["title"], "title")]
        form = panel.get("fieldConfig", {}).get("defaults", {}).get("unit", "")
        parts += stat(frame, series, form) if panel["type"] == "stat" else chart(frame, series, form, start, end)
    head = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}">',
        f"<title>{escape(board['title'])}</title><style>{STYLE}</style>",
        f'<rect width="{WIDTH}" height="{height}" fill="#111217"/>',
        text(GAP + 4, 26, board["title"], "row"),
        text(WIDTH - 10, 26, f"Last {round((end - start) / 60)} minutes", anchor="end"),
    ]
    return "\n".join([*head, *parts, "</svg>"]) + "\n"


def main() -> None:
    """Write the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("board", type=Path, help="the dashboard")
    parser.add_argument("target", type=Path, help="the file to write")
    parser.add_argument("--prometheus", default="http://localhost:9090", help="its address")
    parser.add_argument("--minutes", type=float, default=10.0, help="how far back")
    parser.add_argument("--rows", type=int, default=31, help="how many rows of the grid, from the top")
    given = parser.parse_args()
    end = time.time()
    board = json.loads(given.board.read_text(encoding="utf-8"))
    picture = drawn(board, given.prometheus, end - given.minutes * 60, end, given.rows)
    given.target.write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()
