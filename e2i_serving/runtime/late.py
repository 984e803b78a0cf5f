"""What the thread of a request comes to that was answered without it, with a 504 usually."""

from __future__ import annotations

import os
from typing import Any

from e2i_serving.record import Column, LateResult, Outcome, Values
from e2i_serving.runtime.observation import Observation, describe_error
from e2i_serving.runtime.plain import columns, plain


def late_result(request: Observation) -> LateResult | None:
    """The event that says how a request's method ended; ``None`` if it has not. Any thread may call it.

    Args:
        request: The request, which is on record.
    """
    if request.finished is None:
        return None
    at, result, error = request.finished
    duration = at - request.arrived
    prediction_id = request.context.prediction_id
    salt = os.urandom(16)
    if error is not None:
        kind, message = describe_error(error, Outcome.ERROR)
        return LateResult(prediction_id, duration, Outcome.ERROR, kind, message, salt=salt)
    try:
        outputs, items = _outputs(request, result)
    except Exception:  # noqa: BLE001  # a result that has no plain form is late all the same
        outputs, items = {}, 0
    return LateResult(prediction_id, duration, Outcome.OK, items=items, outputs=outputs, salt=salt)


def _outputs(request: Observation, result: Any) -> tuple[dict[str, Column], int]:
    if request.outputs:
        return request.outputs, request.items
    found = columns({"prediction": result}) if request.items else None
    if found is not None and found[1] == request.items:
        return found
    return {"prediction": Values([plain(result)])}, 1
