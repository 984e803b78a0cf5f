"""A destination's own redaction rules, on top of those that the worker applied."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from e2i_serving.record import (
    AccessEvent,
    Body,
    Entry,
    Gap,
    LateResult,
    ModelInfo,
    OutcomeEvent,
    PredictionRecord,
    StreamEnd,
)
from e2i_serving.redaction import Redactor

RedactorFor = Callable[[ModelInfo], Redactor | None]
"""Makes the redactor of what a model's life journaled; ``None`` when nothing is to be taken out."""


class DestinationRedaction:
    """Redacts entries before a destination sees them, with one redactor a life.

    Args:
        redactor_for: Makes the redactors, if the destination has rules of its own.
    """

    def __init__(self, redactor_for: RedactorFor | None = None) -> None:
        self._redactor_for = redactor_for
        self._redactors: dict[str, Redactor | None] = {}

    def redacted(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Entries of one life, at least one, without what the rules take out.

        Raises:
            ConfigurationError: A rule is wrong.
        """
        if self._redactor_for is None:
            return entries
        life = entries[0].life
        if life.life not in self._redactors:
            self._redactors[life.life] = self._redactor_for(life.model)
        redactor = self._redactors[life.life]
        if redactor is None:
            return entries
        return [msgspec.structs.replace(entry, body=_redact(redactor, entry)) for entry in entries]

    def forget(self, life: str) -> None:
        """Give up the redactor of a life that is over."""
        self._redactors.pop(life, None)


def _redact(redactor: Redactor, entry: Entry) -> Body | Gap:
    body = entry.body
    if isinstance(body, PredictionRecord):
        return redactor.record(body)
    if isinstance(body, StreamEnd):
        return redactor.stream_end(body)
    if isinstance(body, LateResult):
        return redactor.late_result(body)
    if isinstance(body, OutcomeEvent):
        return redactor.outcome(body)
    if isinstance(body, AccessEvent):
        return redactor.access(body)
    return body
