"""The parts of one worker process, wired together."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import msgspec
from starlette.routing import compile_path

from e2i_serving.guard import FailureGuard
from e2i_serving.observers.metrics import Measured
from e2i_serving.propagation import ContextExtractor
from e2i_serving.record import LateResult, Life, ModelInfo, Outcome, PredictionRecord, StreamEnd
from e2i_serving.redaction import redactor_of
from e2i_serving.relay import RelayLock
from e2i_serving.runtime.definition import ServiceDefinition, make_private
from e2i_serving.runtime.identity import new_life
from e2i_serving.runtime.journaling import FAILURE_QUOTA, JOURNAL_FULL, Journaling
from e2i_serving.runtime.labels import LabelReader, declared_labels, label_bounds
from e2i_serving.runtime.late import late_result
from e2i_serving.runtime.numbers import Numbers
from e2i_serving.runtime.objectives import latency_bounds
from e2i_serving.runtime.observation import Endpoint, Observation, describe_error
from e2i_serving.runtime.observing import Observing
from e2i_serving.runtime.redacting import Redacting
from e2i_serving.runtime.relay_supervisor import RelaySupervisor
from e2i_serving.runtime.sampling import Sampler, is_success
from e2i_serving.runtime.scrape import Scrape, ServedBy
from e2i_serving.runtime.sharing import in_turn
from e2i_serving.settings import KEPT_NAME, Settings, keep_settings
from e2i_serving.typing import Observer

logger = logging.getLogger("e2i_serving")

HOUSEKEEPING_SECONDS = 1.0

_UNFINISHED = frozenset({Outcome.TIMEOUT, Outcome.CANCELLED})
"""How a request ends whose method may run on in its thread."""


class Worker:
    """What serves a service's requests with, in one process; all but housekeeping is called on the event loop.

    Args:
        definition: The service.
        model: The model it serves, if it has exactly one.
        endpoints: Its API methods, by path.
        other_routes: Paths of all other routes, the only raw paths that metrics may show.
        bento: Name and version of the bento; the version is empty when served from source.
        served_by: How BentoML serves it.
        observers: More observers than the settings ask for.
        strict: Let our own faults raise, as tests want.

    Raises:
        ConfigurationError: A setting is wrong, or another service uses the data directory with others of the relay.
    """

    def __init__(
        self,
        definition: ServiceDefinition,
        model: ModelInfo,
        endpoints: Mapping[str, Endpoint],
        *,
        other_routes: frozenset[str] = frozenset(),
        bento: tuple[str, str] = ("", ""),
        served_by: ServedBy | None = None,
        observers: Sequence[tuple[str, Observer]] = (),
        strict: bool = False,
    ) -> None:
        self._resolved = resolved = definition.load_settings()
        self.settings: Settings = resolved.settings
        self.data_dir: Path = definition.data_dir(resolved)
        self.endpoints = endpoints
        self.other_routes = other_routes
        self._patterns = [(compile_path(route)[0], endpoint) for route, endpoint in endpoints.items()]
        self.served_by = served_by or ServedBy()
        self.tracing = self.served_by.telemetry.tracing
        self.extractor = ContextExtractor(sample_rate=self.tracing.sample_rate)
        self.guard = FailureGuard(strict=strict)
        self._identity = new_life(definition, model, bento, self.settings)
        redactor = redactor_of(self.settings, model)
        self._redacting = Redacting(redactor, self.guard)
        labels = declared_labels(definition.inner, definition.label_names, self.settings)
        self.labels = LabelReader(labels)
        measured = Measured(
            latency_bounds(definition.inner),
            label_bounds(labels, self.settings),
            self.served_by.load_seconds,
            self.served_by.bentoml,
            self.served_by.workers,
        )
        self._sampler = Sampler(self.settings, model.name)
        self._retention = getattr(definition.inner, "retention_class", "") or self.settings.retention_class
        # What may still be refused when the disk fails is not shown to observers before.
        self._holds_back = self.settings.audit_required and self.settings.durability == "power-loss"
        with in_turn(definition.name, resolved, self.data_dir):
            self._journaling = (
                Journaling(self.data_dir, self._identity, self.settings, self.guard)
                if self.settings.audit_enabled
                else None
            )
        self._observing = Observing(
            self.settings,
            self._identity,
            self.served_by.telemetry,
            redactor,
            self.guard,
            access_log=self.served_by.access_log,
            observers=observers,
        )
        self.numbers = Numbers(
            self.data_dir / "metrics",
            self.settings,
            measured,
            lambda: self.life,
            self.guard,
            partial(self._observing.add, "metrics"),
        )
        self._supervisor = (
            RelaySupervisor(self.settings, self.data_dir)
            if self.settings.audit_enabled and self.settings.relay_enabled
            else None
        )
        self.scrape = Scrape(
            self.data_dir / "metrics" if self.settings.metrics_enabled else None,
            self.served_by,
            self._has_relay if self.settings.audit_enabled else None,
            self._take_failures,
            self.guard,
        )
        self._housekeeping: asyncio.Task[None] | None = None

    @property
    def life(self) -> Life:
        """Who serves, by the life that is written to the journal now."""
        return self._identity if self._journaling is None else self._journaling.life

    # The path of a request.

    def routed(self, path: str) -> Endpoint | None:
        """The API method that a path leads to which is not literally its route: a route may have parameters."""
        if path in self.other_routes:
            return None
        for pattern, endpoint in self._patterns:
            if pattern.match(path):
                return endpoint
        return None

    def end(self, request: Observation, outcome: Outcome | None = None) -> str | None:
        """Put a request on record and show it to the observers; never raises.

        Args:
            request: What was gathered about it.
            outcome: How it ended, when its status alone does not say.

        Returns:
            Why it could not be journaled; ``None`` if it is, or need not be.
        """
        request.over = True
        self.numbers.observed()
        status = request.status
        fraction = self._sampler.fraction(request.endpoint.name, status)
        try:
            record = self._redacting.record(
                request.record(
                    self.life.model,
                    outcome=outcome,
                    sampling_fraction=fraction,
                    retention=self._retention if is_success(status) else self.settings.failure_retention_class,
                )
            )
        except Exception as error:  # noqa: BLE001  # promise 4: observability never harms
            self.numbers.journaled("not-recordable")
            self.guard.caught("record", error)
            return "not-recordable" if self.settings.audit_enabled else None
        unjournaled = self._journal(request, record, fraction)
        if unjournaled is not None and self.refuses(unjournaled):
            record = _refused(record, unjournaled)
        for part, fault in request.faults:
            self.guard.caught(part, fault)
        if record.outcome in _UNFINISHED and request.journaled:
            self._await_late_result(request)
        if record.outcome is Outcome.INTERRUPTED:
            request.streaming = record
        elif unjournaled is None and self._holds_back:
            request.held = record
            return None
        else:
            self._observing.show(record, request.error)
        self._count(request, record)
        return unjournaled

    def synced(self, request: Observation, failure: str | None) -> None:
        """Show the observers a record that the disk has now, or put on record that its answer was refused.

        Never raises.

        Args:
            request: The request, which is journaled.
            failure: Why the disk may not have it.
        """
        refused = failure is not None and self.refuses(failure)
        record, request.held = request.held, None
        if refused and request.streaming is not None:
            record, request.streaming = request.streaming, None
        if record is None:
            return
        if failure is not None and refused:
            duration = time.perf_counter() - request.arrived
            record = _refused(record, failure)
            self._append_end(
                request,
                StreamEnd(
                    record.prediction_id, duration, record.outcome, -1, record.error_type, failure, 503, os.urandom(16)
                ),
            )
        self._observing.show(record, request.error)
        self._count(request, record)

    def end_stream(self, request: Observation, outcome: Outcome, sent_bytes: int, error: BaseException | None) -> None:
        """Put the end of a streamed answer on record and show it to the observers; never raises."""
        record, request.streaming = request.streaming, None
        if record is None:
            return
        kind, message = describe_error(error, outcome) if outcome is not Outcome.OK else ("", "")
        duration = time.perf_counter() - request.arrived
        end = self._redacting.stream_end(
            StreamEnd(record.prediction_id, duration, outcome, sent_bytes, kind, message, salt=os.urandom(16))
        )
        self._append_end(request, end)
        self._observing.show(
            msgspec.structs.replace(
                record,
                duration=end.duration,
                outcome=outcome,
                response_bytes=sent_bytes,
                error_type=kind,
                error_message=end.error_message,
            ),
            error,
        )

    def refuses(self, unjournaled: str) -> bool:
        """Whether an answer is refused that can't be journaled for this reason."""
        if unjournaled == FAILURE_QUOTA:
            return False
        return self.settings.audit_required or (unjournaled == JOURNAL_FULL and self.settings.overflow == "refuse")

    async def sync(self) -> str | None:
        """Wait until what was journaled is as durable as was asked for; says why it is not."""
        return await self._journaling.sync() if self._journaling is not None else None

    def may_predict(self) -> bool:
        """Whether the next prediction would be answered, as far as it must be on record; found out by trying."""
        if self._journaling is None or not (self.settings.audit_required or self.settings.overflow == "refuse"):
            return True
        fault = self._journaling.fault()
        return fault is None or not self.refuses(fault)

    def response_headers(self, request: Observation, *, with_ids: bool = True) -> list[tuple[bytes, bytes]]:
        """The headers that tell a caller the ids and the time taken.

        Args:
            request: The request.
            with_ids: Whether those of its trace and the caller's own id are among them.
        """
        # A copy: after a timeout the thread that runs the model still adds to them.
        phases = request.phases.copy()
        timing = [f"{phase};dur={seconds * 1000:.3f}" for phase, seconds in phases.items()]
        timing.append(f"total;dur={(time.perf_counter() - request.arrived) * 1000:.3f}")
        return [
            *(self.extractor.inject(request.context) if with_ids else ()),
            (b"x-prediction-id", request.context.prediction_id.encode()),
            (b"server-timing", ", ".join(timing).encode()),
        ]

    def log_escaped(self, error: BaseException) -> None:
        """Log what escaped from the application, which nothing further out would."""
        text = self._redacting.log_text(error)
        logger.error("A request failed outside its API method: %s", text or error, exc_info=None if text else error)

    # Beside it.

    def metrics_text(self) -> str:
        """The numbers of all workers of the data directory, in Prometheus' text format. Blocks on files."""
        return self.scrape.text()

    def start(self) -> None:
        """Begin housekeeping, on the running event loop, and freeze the heap if so set."""
        self._housekeeping = asyncio.get_running_loop().create_task(self._keep_house())
        if self.settings.gc_freeze:
            gc.collect()
            gc.freeze()

    async def stop(self) -> None:
        """End the life in good order."""
        if self._housekeeping is not None:
            self._housekeeping.cancel()
            await asyncio.gather(self._housekeeping, return_exceptions=True)
        self.close()

    def close(self) -> None:
        """Give up files and locks."""
        self._observing.close()
        if self._journaling is not None:
            self._journaling.close()
        self.numbers.close()

    async def _keep_house(self) -> None:
        while True:
            # Each by itself: what one of them needs may be what another is about to restore.
            for step in (self._restore_directory, self._keep_journal, self._keep_relay):
                try:
                    await step()
                except Exception as error:  # noqa: BLE001  # promise 4: observability never harms
                    self.guard.caught("housekeeping", error)
            await asyncio.sleep(HOUSEKEEPING_SECONDS)

    async def _restore_directory(self) -> None:
        make_private(self.data_dir)
        if not (self.data_dir / KEPT_NAME).exists():
            await asyncio.to_thread(keep_settings, self._resolved, self.data_dir)
        self._take_failures()
        self.numbers.restore()

    async def _keep_journal(self) -> None:
        if self._journaling is not None:
            await self._journaling.keep_house()

    async def _keep_relay(self) -> None:
        if self._supervisor is not None:
            await asyncio.to_thread(self._supervisor.ensure)

    def _has_relay(self) -> bool:
        return RelayLock(self.data_dir).holder() is not None

    def _take_failures(self) -> None:
        metrics = self.numbers.metrics
        if metrics is not None:
            metrics.failures(self.guard.failures)
            metrics.refused_headers(self.extractor.refused)
            lost = self._observing
            metrics.lost(lost.spans_dropped, lost.events_dropped, lost.lines_dropped)

    def _journal(self, request: Observation, record: PredictionRecord, fraction: float) -> str | None:
        if self._journaling is None:
            return None
        if fraction < 1.0 and not self._sampler.keeps(record.trace_id, fraction):
            self.numbers.sampled_out()
            return None
        unjournaled = self._journaling.append(record)
        request.journaled = unjournaled is None
        self.numbers.journaled(unjournaled)
        return unjournaled

    def _count(self, request: Observation, record: PredictionRecord) -> None:
        if not request.within:
            self.numbers.http_request(request.endpoint.route, record.status)

    def _append_end(self, request: Observation, end: StreamEnd) -> None:
        if self._journaling is not None and request.journaled:
            self._journaling.append(end)

    def _await_late_result(self, request: Observation) -> None:
        """Let the method's thread, which may run on after the answer, put on record what it comes to."""
        loop = asyncio.get_running_loop()

        def on_late(request: Observation) -> None:
            late = late_result(request)
            if late is not None:
                with contextlib.suppress(RuntimeError):  # the loop is closed: the worker is gone
                    loop.call_soon_threadsafe(self._append_late, request, late)

        request.on_late = on_late
        on_late(request)

    def _append_late(self, request: Observation, late: LateResult) -> None:
        if request.late or self._journaling is None:
            return
        request.late = True
        self._journaling.append(self._redacting.late_result(late))


def _refused(record: PredictionRecord, reason: str) -> PredictionRecord:
    """What becomes of a request that must be on record and can't be: it is answered 503."""
    return msgspec.structs.replace(
        record, outcome=Outcome.REJECTED, status=503, outputs={}, error_type="unjournaled", error_message=reason
    )
