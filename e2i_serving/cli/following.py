"""Following an audit store: print what is there, then what comes."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import msgspec

from e2i_serving.record import PredictionFilter, Row
from e2i_serving.runtime.trail import AuditTrail

POLL_SECONDS: Final = 1.0
OVERLAP_NS: Final = 60_000_000_000
"""How far back each look goes: predictions are stored in another order than they arrived."""


def follow_predictions(
    trail: AuditTrail, where: PredictionFilter, *, limit: int, items: bool, emit: Callable[[list[Row]], None]
) -> None:
    """Hand over the last predictions that meet a filter, then each new one, until interrupted.

    Args:
        trail: What to read.
        where: The filter.
        limit: How many of those there already to begin with.
        items: Whether rows have their items and outcomes.
        emit: Takes rows, the oldest first; called once even when there are none yet.
    """
    try:
        rows = trail.query(where, limit=limit, items=items, outcomes=items).rows()[::-1]
        newest = rows[-1]["time_ns"] if rows else time.time_ns()
        # What is older than the first one shown was left out by the limit, not missed.
        oldest = rows[0]["time_ns"] if rows and len(rows) == limit else newest if not limit else 0
        seen = {row["prediction_id"]: row["time_ns"] for row in rows}
        emit(rows)
        while True:
            time.sleep(POLL_SECONDS)
            start = max(newest - OVERLAP_NS, oldest, where.since_ns or 0)
            later = msgspec.structs.replace(where, since_ns=start)
            found = trail.query(later, newest_first=False, items=items, outcomes=items)
            rows = found.rows(without=seen)
            if rows:
                emit(rows)
                newest = max(newest, rows[-1]["time_ns"])
            seen.update((row["prediction_id"], row["time_ns"]) for row in rows)
            seen = {prediction_id: time_ns for prediction_id, time_ns in seen.items() if time_ns >= start}
    except KeyboardInterrupt:
        return
