"""Which predictions an outcome is about, for destinations that know predictions only by their own ids."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from e2i_serving.exceptions import RefusedError
from e2i_serving.record import WHOLE_REQUEST, Entry, OutcomeEvent, Row

Identities = Callable[[Sequence[str], Sequence[str]], Sequence[Row]]
"""Looks predictions up by their ids, and by request ids; what it returns is as in ``AuditQuery.identities``."""


def addressed(entries: Sequence[Entry], identities: Identities) -> list[Entry]:
    """Entries with each outcome made one of every prediction that it is about, under the service of that one.

    Of a prediction with a single item, what is said of the item is said of the whole.

    Args:
        entries: Entries of one life.
        identities: Looks predictions up.

    Raises:
        RefusedError: No prediction is known that an outcome is about.
        StoreError: The trail can't be read.
    """
    events = [entry.body for entry in entries if isinstance(entry.body, OutcomeEvent)]
    if not events:
        return list(entries)
    rows = identities(
        list({event.prediction_id for event in events if event.prediction_id}),
        list({event.request_id for event in events if not event.prediction_id}),
    )
    by_prediction = {row["prediction_id"]: [row] for row in rows}
    by_request: dict[str, list[Row]] = {}
    for row in rows:
        by_request.setdefault(row["request_id"] or "", []).append(row)
    found: list[Entry] = []
    for entry in entries:
        event = entry.body
        if not isinstance(event, OutcomeEvent):
            found.append(entry)
            continue
        meant = by_prediction.get(event.prediction_id) if event.prediction_id else by_request.get(event.request_id)
        of_item = [row for row in meant or () if event.item_index < row["items"]]
        if not of_item:
            raise RefusedError(_unknown(event))
        found += [_about(entry, event, row) for row in of_item]
    return found


def _about(entry: Entry, event: OutcomeEvent, row: Row) -> Entry:
    index = WHOLE_REQUEST if row["items"] == 1 else event.item_index
    return msgspec.structs.replace(
        entry,
        life=msgspec.structs.replace(entry.life, service=row["service"] or ""),
        body=msgspec.structs.replace(event, prediction_id=row["prediction_id"], item_index=index),
    )


def _unknown(event: OutcomeEvent) -> str:
    of = f"prediction {event.prediction_id!r}" if event.prediction_id else f"prediction of request {event.request_id!r}"
    item = f" with an item {event.item_index}" if event.item_index >= 0 else ""
    return (
        f"The trail has no {of}{item}, which the outcome {event.outcome_id} is about. Once it has, try again: "
        "e2i-serving audit dead-letters retry."
    )
