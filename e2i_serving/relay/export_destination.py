"""An exporter as a destination: what the trail says of itself stays behind, the rest is redacted and sent."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from e2i_serving.exceptions import E2IServingError, RefusedError
from e2i_serving.record import AccessEvent, Entry, Gap
from e2i_serving.relay.addressing import Identities, addressed
from e2i_serving.relay.redacting import DestinationRedaction, RedactorFor
from e2i_serving.typing import Exporter

FLUSH_SECONDS: Final = 5.0
"""How long an exporter that is closed may take to send what it holds back."""

_STATE: Final = b"begun"
"""So that it is told when a life is over."""


class ExportDestination:
    """Delivers to an exporter.

    Gaps and accesses are not handed over: they tell of the trail, not of predictions.

    Args:
        exporter: The exporter.
        redactor_for: Makes the redactor of what a model's life journaled, if this destination has rules of its own.
        identities: Looks up the predictions that outcomes are about; ``None`` to hand outcomes over as they are.

    Attributes:
        exporter: The exporter.
        name: Its name.
    """

    def __init__(
        self, exporter: Exporter, *, redactor_for: RedactorFor | None = None, identities: Identities | None = None
    ) -> None:
        self.exporter = exporter
        self.name = exporter.name
        self._redaction = DestinationRedaction(redactor_for)
        self._identities = identities

    def deliver(self, entries: Sequence[Entry], state: bytes) -> bytes:  # noqa: ARG002  # as the Protocol has it
        """Export entries; see ``Destination.deliver``."""
        wanted = [entry for entry in entries if not isinstance(entry.body, Gap | AccessEvent)]
        if wanted:
            self._export(wanted)
        return _STATE

    def digest(self, entry: Entry) -> bytes:  # noqa: ARG002  # likewise
        """Nothing: there is no chain in what is exported."""
        return b""

    def redeliver(self, entry: Entry, state: bytes, digest: bytes) -> None:  # noqa: ARG002  # likewise
        """Export an entry that was refused before."""
        self.deliver([entry], state)

    def closed(self, life: str) -> None:
        """Let go of what is kept for a life."""
        self._redaction.forget(life)

    def tick(self) -> None:
        """Nothing is due by time."""

    def close(self) -> None:
        """Let it send what it holds back, and close it."""
        try:
            self.exporter.force_flush(FLUSH_SECONDS)
        finally:
            self.exporter.shutdown()

    def _export(self, entries: Sequence[Entry]) -> None:
        try:
            if self._identities is not None:  # before this destination's own rules make other ids of them
                entries = addressed(entries, self._identities)
            self.exporter.export(self._redaction.redacted(entries))
        except (E2IServingError, OSError, MemoryError):
            raise
        except Exception as error:
            # The same entry would raise the same again: it must not hold up the others for ever.
            raise RefusedError(f"{self.name} can't send it: {type(error).__name__}: {error}") from error
