"""Rows of what is appended beside predictions: ends, late results, outcomes, accesses and gaps."""

from __future__ import annotations

from e2i_serving.evidence import event_salt
from e2i_serving.record import AccessEvent, Gap, LateResult, OutcomeEvent, Row, RowBatch, StreamEnd
from e2i_serving.relay.cells import json_text, number_cells, size_cell, text_cell
from e2i_serving.relay.spreading import spread_columns

Event = StreamEnd | LateResult | OutcomeEvent | AccessEvent | Gap

END = "end"
LATE = "late"


def add_event(batch: RowBatch, life: str, sequence: int, body: Event) -> None:
    """Add the row of an event to a batch.

    Args:
        batch: Where to.
        life: The life's id.
        sequence: Its sequence number there.
        body: The event.
    """
    if isinstance(body, StreamEnd):
        batch.events.append(_end_row(body, _place(life, sequence, body.salt)))
    elif isinstance(body, LateResult):
        batch.events.append(_late_row(body, _place(life, sequence, body.salt)))
    elif isinstance(body, OutcomeEvent):
        batch.outcomes.append(_outcome_row(body, _place(life, sequence, body.salt)))
    elif isinstance(body, AccessEvent):
        batch.accesses.append(_access_row(body, _place(life, sequence, body.salt)))
    else:
        batch.gaps.append(_gap_row(body, life))


def _place(life: str, sequence: int, salt: bytes) -> Row:
    return {"life": life, "sequence": sequence, "salt": event_salt(salt), "erased": None, "hash": None}


def _end_row(end: StreamEnd, place: Row) -> Row:
    return {
        **place,
        "prediction_id": end.prediction_id,
        "kind": END,
        "duration": float(end.duration),
        "outcome": end.outcome.value,
        "status": end.status or None,
        "response_bytes": size_cell(end.response_bytes),
        "error_type": text_cell(end.error_type),
        "error_message": text_cell(end.error_message),
        "outputs": None,
        "redactions": None,
    }


def _late_row(late: LateResult, place: Row) -> Row:
    outputs = spread_columns(late.outputs, late.items, "", (), [], "outputs") if late.items > 0 else {}
    return {
        **place,
        "prediction_id": late.prediction_id,
        "kind": LATE,
        "duration": float(late.duration),
        "outcome": late.outcome.value,
        "status": None,
        "response_bytes": None,
        "error_type": text_cell(late.error_type),
        "error_message": text_cell(late.error_message),
        "outputs": json_text(outputs) if outputs else None,
        "redactions": json_text(late.redactions) if late.redactions else None,
    }


def _outcome_row(outcome: OutcomeEvent, place: Row) -> Row:
    scores = number_cells([outcome.score])
    return {
        **place,
        "outcome_id": outcome.outcome_id,
        "time_ns": outcome.time_ns,
        "prediction_id": outcome.prediction_id or None,
        "item_index": outcome.item_index,
        "request_id": text_cell(outcome.request_id),
        "name": text_cell(outcome.name) or "",
        "value": json_text(outcome.value),
        "score": scores[0] if scores else None,
        "source": text_cell(outcome.source),
        "comment": text_cell(outcome.comment),
        "observed_ns": outcome.observed_ns or None,
    }


def _access_row(access: AccessEvent, place: Row) -> Row:
    return {
        **place,
        "access_id": access.access_id,
        "time_ns": access.time_ns,
        "principal": text_cell(access.principal),
        "source": text_cell(access.source),
        "way": text_cell(access.way),
        "action": text_cell(access.action),
        "conditions": json_text(access.conditions) if access.conditions else None,
        "predictions": access.predictions,
    }


def _gap_row(gap: Gap, life: str) -> Row:
    return {
        "life": life,
        "first": gap.first,
        "last": gap.last,
        "records": gap.records,
        "reason": gap.reason,
        "digest": gap.digest.hex() or None,
        "removal": None,
        "hash": None,
    }
