"""An outcome as someone gives it, before it is known which prediction it is about."""

from __future__ import annotations

import hashlib
import math
import re
from typing import Any, Final
from uuid import UUID

import msgspec

from e2i_serving.exceptions import QueryError
from e2i_serving.record import OutcomeEvent

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_LONGEST: Final = {"prediction_id": 256, "request_id": 1024, "source": 256, "comment": 4096}
_LARGEST_VALUE: Final = 64 * 1024
_LARGEST_NS: Final = 2**63
_SCALARS: Final = frozenset({type(None), bool, int, float, str})
_json: Final = msgspec.json.Encoder(order="deterministic")
_msgpack: Final = msgspec.msgpack.Encoder()


class GivenOutcome(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What was observed of a prediction.

    Attributes:
        prediction_id: The prediction; this, or the request id, or both.
        request_id: The caller's request id.
        item: The item's index in the request; ``None`` for the request as a whole.
        name: What was observed: ``truth``, or the name of a score.
        value: The truth: a plain value.
        score: A number.
        source: Who or what says so.
        comment: Free text.
        observed_ns: When it became true or known, nanoseconds since the epoch; 0 when that is not said.
    """

    prediction_id: str = ""
    request_id: str = ""
    item: int | None = None
    name: str = "truth"
    value: Any = None
    score: float | None = None
    source: str = ""
    comment: str = ""
    observed_ns: int = 0


def checked_outcome(given: GivenOutcome) -> GivenOutcome:
    """An outcome that can be recorded.

    Args:
        given: The outcome.

    Returns:
        The same outcome, its value as JSON has it: that is what is redacted and kept.

    Raises:
        QueryError: Something is missing, or can't be kept.
    """
    if not (given.prediction_id or given.request_id):
        raise QueryError("An outcome needs a prediction_id or a request_id.")
    if given.value is None and given.score is None:
        raise QueryError("An outcome needs a value or a score.")
    if given.item is not None and not 0 <= given.item < _LARGEST_NS:
        raise QueryError(f"item is {given.item}; the first item of a request is 0.")
    if not _NAME.fullmatch(given.name):
        raise QueryError(
            f"{given.name!r} is no name of an outcome. Use up to 64 letters, digits, '_', '.' and '-', such as truth."
        )
    if given.score is not None and not math.isfinite(given.score):
        raise QueryError(f"score is {given.score}; it must be a finite number.")
    if not 0 <= given.observed_ns < _LARGEST_NS:
        raise QueryError("observed is out of range: before 1970, or after 2262.")
    for name, most in _LONGEST.items():
        _check_text(name, getattr(given, name), most)
    return msgspec.structs.replace(given, value=_checked_value(given.value))


def outcome_digest(event: OutcomeEvent) -> str:
    """An id that is the same for the same outcome, so that a file that is imported twice counts once.

    Args:
        event: The outcome. Its own id, its time and its comment don't matter.

    Returns:
        A UUID, of version 8, in text form.
    """
    identity = (
        event.prediction_id or f"request:{event.request_id}",
        event.item_index,
        event.name,
        _json.encode(event.value),
        event.score,
        event.source,
        event.observed_ns,
    )
    digest = bytearray(hashlib.sha256(_msgpack.encode(identity)).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x80
    digest[8] = digest[8] & 0x3F | 0x80
    return str(UUID(bytes=bytes(digest)))


def _check_text(name: str, value: str, most: int) -> None:
    if len(value) > most:
        raise QueryError(f"{name} has {len(value)} characters; at most {most} are kept.")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise QueryError(f"{name} is not valid text.") from None
    if "\0" in value:
        raise QueryError(f"{name} can't hold the character NUL.")


def _checked_value(value: Any) -> Any:
    try:
        written = _json.encode(value)
    except (TypeError, ValueError, RecursionError) as error:
        raise QueryError(f"value can't be written as JSON: {error}.") from None
    if len(written) > _LARGEST_VALUE:
        raise QueryError(f"value takes {len(written)} bytes as JSON; at most {_LARGEST_VALUE} are kept.")
    return value if type(value) in _SCALARS else msgspec.json.decode(written)
