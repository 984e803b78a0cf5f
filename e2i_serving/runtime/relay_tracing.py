"""The relay's tracing: what it delivers in spans of its own, which no request waits for and none has in its trace."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from e2i_serving.record import Entry
from e2i_serving.relay.destination import Destination
from e2i_serving.settings import Settings, tracing_variables, with_signal_variables

if TYPE_CHECKING:
    from e2i_serving.runtime.relay_spans import BatchSpans
    from e2i_serving.stores.calls import OnCall

logger = logging.getLogger("e2i_serving.relay")

LAST_SECONDS: Final = 2.0
"""How long the relay's end may wait for the last spans to be taken."""


def relay_tracing_of(settings: Settings) -> RelayTracing:
    """The tracing that the settings ask for, and OpenTelemetry's variables where these leave it open.

    Args:
        settings: The settings.
    """
    settings = with_signal_variables(settings)
    if settings.trace_exporter == "none" or not settings.trace_sample_rate:
        return RelayTracing()
    try:
        return RelayTracing(_spans_of(settings))
    except ImportError as error:
        # A start-up check refuses this; what is journaled is delivered all the same.
        logger.error("The relay is not traced: %s. Install e2i-serving[otlp].", error)  # noqa: TRY400  # says it all
    except Exception as error:  # noqa: BLE001  # promise 4: observability never harms
        logger.error("The relay is not traced: %s: %s", type(error).__name__, error)  # noqa: TRY400  # likewise
    return RelayTracing()


class RelayTracing:
    """What traces the relay, or does nothing.

    Args:
        spans: What makes the spans; ``None`` when there are to be none.

    Attributes:
        on_call: Is to be told the audit store's calls of its database; ``None`` when nobody wants to know.
    """

    def __init__(self, spans: BatchSpans | None = None) -> None:
        self._spans = spans
        self.on_call: OnCall | None = spans.on_call if spans else None

    def traced(self, destination: Destination) -> Destination:
        """The same destination, with a span for each batch that it is handed."""
        return TracedDestination(destination, self._spans) if self._spans else destination

    def close(self) -> None:
        """Export what is there; blocks for a few seconds at most."""
        if self._spans:
            self._spans.close()


class TracedDestination:
    """A destination with a span for each batch that it is handed; all else goes to it as it is.

    Args:
        destination: The destination.
        spans: What makes the spans.
    """

    def __init__(self, destination: Destination, spans: BatchSpans) -> None:
        self.name = destination.name
        self._destination = destination
        self._spans = spans
        self.digest = destination.digest
        self.closed = destination.closed
        self.tick = destination.tick
        self.close = destination.close

    def deliver(self, entries: Sequence[Entry], state: bytes) -> bytes:
        """Take entries; see ``Destination.deliver``."""
        with self._spans.batch(self.name, entries):
            return self._destination.deliver(entries, state)

    def redeliver(self, entry: Entry, state: bytes, digest: bytes) -> None:
        """Take an entry that was refused before; see ``Destination.redeliver``."""
        with self._spans.batch(self.name, [entry]):
            self._destination.redeliver(entry, state, digest)


def _spans_of(settings: Settings) -> BatchSpans:
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415  # only where spans are made

    from e2i_serving.observers.spans import SpanSink  # noqa: PLC0415  # likewise
    from e2i_serving.runtime.relay_spans import BatchSpans  # noqa: PLC0415  # likewise
    from e2i_serving.runtime.tracing import exporter_of  # noqa: PLC0415  # likewise

    variables = tracing_variables()
    sink = SpanSink(
        exporter_of(settings.trace_exporter),
        Resource.get_empty(),  # of predictions, which are a worker's; each span here brings its own
        queue_size=variables.queue_size,
        batch_size=variables.batch_size,
        delay_seconds=variables.delay_seconds,
        last_seconds=LAST_SECONDS,
        log=logger,
    )
    return BatchSpans(sink, settings)
