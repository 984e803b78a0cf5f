"""A worker's numbers: its metrics, and the counts by which its records are accounted for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from e2i_serving.guard import FailureGuard
from e2i_serving.observers.metrics import AuditCounters, Measured, MetricsObserver, SeriesFile
from e2i_serving.record import Life
from e2i_serving.settings import Settings


class Numbers:
    """Keeps a worker's numbers in one file, where that can be made; nothing here raises.

    Args:
        folder: ``<data>/metrics``.
        settings: Which numbers are wanted.
        measured: What is measured beside the predictions themselves.
        life: Who serves, asked when the file is made.
        guard: Takes what goes wrong.
        on_open: Called with the metrics once they can be kept.

    Attributes:
        metrics: Counts and times predictions; ``None`` where that is off or can't be.
    """

    def __init__(
        self,
        folder: Path,
        settings: Settings,
        measured: Measured,
        life: Callable[[], Life],
        guard: FailureGuard,
        on_open: Callable[[MetricsObserver], None],
    ) -> None:
        self._folder = folder
        self._with_audit = settings.audit_enabled
        self._with_metrics = settings.metrics_enabled
        self._measured = measured
        self._life = life
        self._guard = guard
        self._on_open = on_open
        self._series: SeriesFile | None = None
        self._counters: AuditCounters | None = None
        self.metrics: MetricsObserver | None = None
        self._open()

    def started(self, route: str, *, predicts: bool) -> None:
        """Note that a request is being served.

        Args:
            route: Its route, never the raw path.
            predicts: Whether it is for a prediction.
        """
        metrics = self.metrics
        if metrics is None:
            return
        try:
            if predicts:
                metrics.in_progress.add(1.0)
            if metrics.bentoml is not None:
                metrics.bentoml.began(route)
        except Exception as error:  # noqa: BLE001  # promise 4: observability never harms
            self._guard.caught("metrics", error)

    def ended(self, route: str, status: int, seconds: float, *, predicts: bool) -> None:
        """Note that it no longer is.

        Args:
            route: As above.
            status: The status answered; 0 when nothing was.
            seconds: How long it took, to its last byte.
            predicts: As above.
        """
        metrics = self.metrics
        if metrics is None:
            return
        try:
            if predicts:
                metrics.in_progress.add(-1.0)
            if metrics.bentoml is not None:
                metrics.bentoml.ended(route, status, seconds)
        except Exception as error:  # noqa: BLE001  # promise 4: observability never harms
            self._guard.caught("metrics", error)

    def http_request(self, route: str, status: int) -> None:
        """Count a request by its route."""
        if self.metrics is not None:
            try:
                self.metrics.http_request(route, status)
            except Exception as error:  # noqa: BLE001  # promise 4: observability never harms
                self._guard.caught("metrics", error)

    def set_ready(self, *, is_ready: bool) -> None:
        """Note whether BentoML finds the service ready."""
        if self.metrics is not None:
            try:
                self.metrics.set_ready(is_ready=is_ready)
            except OSError as error:
                self._guard.caught("metrics", error)

    def observed(self) -> None:
        """Count a record, before anything is done with it."""
        if self._counters is not None:
            self._counters.observed()

    def sampled_out(self) -> None:
        """Count that sampling left it out."""
        if self._counters is not None:
            self._counters.sampled_out()

    def journaled(self, unjournaled: str | None) -> None:
        """Count that it is in the journal, or why it is not."""
        if self._counters is None:
            return
        if unjournaled is None:
            self._counters.accepted()
            return
        try:
            self._counters.unjournaled(unjournaled)
        except OSError as error:
            self._guard.caught("metrics", error)

    def restore(self) -> None:
        """Make the file where there is none, or none any more.

        Raises:
            OSError: It can't be made again.
        """
        if self._series is None:
            self._open()
        else:
            self._series.restore()

    def close(self) -> None:
        """Give the file up."""
        if self.metrics is not None:
            self.metrics.close()
        if self._series is not None:
            self._series.close()

    def _open(self) -> None:
        if not (self._with_metrics or self._with_audit):
            return
        try:
            series = SeriesFile(self._folder, self._life().life)
            counters = AuditCounters(series) if self._with_audit else None
            metrics = MetricsObserver(series, self._life(), self._measured) if self._with_metrics else None
        except OSError as error:
            self._guard.caught("metrics", error)
            return
        self._series, self._counters, self.metrics = series, counters, metrics
        if metrics is not None:
            self._on_open(metrics)
