"""The parts of one worker process, wired together."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

import e2i_serving
from e2i_serving.exceptions import JournalError
from e2i_serving.guard import FailureGuard
from e2i_serving.journal import JournalWriter, new_life_id
from e2i_serving.observers.access_log import AccessLogObserver, configure_access_log
from e2i_serving.observers.metrics import MetricsObserver, SeriesFile, collect, render
from e2i_serving.propagation import ContextExtractor
from e2i_serving.record import Deployment, Life, ModelInfo, Outcome, PredictionRecord, StreamEnd
from e2i_serving.runtime.definition import ServiceDefinition, code_digest, make_private
from e2i_serving.runtime.journaling import Journaling
from e2i_serving.runtime.observation import Endpoint, Observation, describe_error
from e2i_serving.runtime.relay_supervisor import RelaySupervisor
from e2i_serving.settings import Settings, instance_name
from e2i_serving.typing import Observer

logger = logging.getLogger("e2i_serving")

HOUSEKEEPING_SECONDS = 1.0


class Worker:
    """What serves a service's requests with, in one process; all but housekeeping is called on the event loop.

    Args:
        definition: The service.
        model: The model it serves, if it has exactly one.
        endpoints: Its API methods, by path.
        other_routes: Paths of all other routes, the only raw paths that metrics may show.
        bento: Name and version of the bento; the version is empty when served from source.
        access_log: Whether BentoML's own settings ask for an access log.
        observers: More observers than the settings ask for.
        strict: Let our own faults raise, as tests want.

    Raises:
        ConfigurationError: A setting is wrong.
    """

    def __init__(
        self,
        definition: ServiceDefinition,
        model: ModelInfo,
        endpoints: Mapping[str, Endpoint],
        *,
        other_routes: frozenset[str] = frozenset(),
        bento: tuple[str, str] = ("", ""),
        access_log: bool = True,
        observers: Sequence[tuple[str, Observer]] = (),
        strict: bool = False,
    ) -> None:
        resolved = definition.load_settings()
        self.settings: Settings = resolved.settings
        self.data_dir: Path = definition.data_dir(resolved)
        with contextlib.suppress(OSError):  # what can't be made there says so itself
            make_private(self.data_dir)
        self.endpoints = endpoints
        self.other_routes = other_routes
        self.extractor = ContextExtractor()
        self.guard = FailureGuard(strict=strict)
        self.life = _life(definition, model, bento, self.settings)
        self._writer: JournalWriter | None = None
        self._journaling: Journaling | None = None
        self._open_journal()
        self._metrics = self._open_metrics()
        self._observers: list[tuple[str, Observer]] = [*observers]
        if self._metrics is not None:
            self._observers.append(("metrics", self._metrics))
        if self.settings.access_log_enabled and access_log:
            configure_access_log()
            self._observers.append(("access log", AccessLogObserver()))
        self._supervisor = (
            RelaySupervisor(self.settings, self.data_dir)
            if self.settings.audit_enabled and self.settings.relay_enabled
            else None
        )
        self._housekeeping: asyncio.Task[None] | None = None

    # The path of a request.

    def started(self) -> None:
        """Note that a request for a prediction is being served."""
        if self._metrics is not None:
            self._metrics.in_progress.add(1.0)

    def ended(self) -> None:
        """Note that it no longer is."""
        if self._metrics is not None:
            self._metrics.in_progress.add(-1.0)

    def end(self, request: Observation, outcome: Outcome | None = None) -> str | None:
        """Put a request on record and show it to the observers; never raises.

        Args:
            request: What was gathered about it.
            outcome: How it ended, when its status alone does not say.

        Returns:
            Why it could not be journaled; ``None`` if it is, or need not be.
        """
        try:
            record = request.record(self.life.model, outcome=outcome)
        except Exception as error:  # noqa: BLE001  # promise 4: observability never harms
            self.guard.caught("record", error)
            return "not-recordable" if self.settings.audit_enabled else None
        unjournaled = self._journal(record)
        if unjournaled is not None and self.settings.audit_required:
            record = _refused(record, unjournaled)
        for part, fault in request.faults:
            self.guard.caught(part, fault)
        if record.outcome is Outcome.INTERRUPTED:
            request.streaming = record
        else:
            self._observe(record)
        self.http_request(request.endpoint.route, record.status)
        return unjournaled

    def end_stream(self, request: Observation, outcome: Outcome, sent_bytes: int, error: BaseException | None) -> None:
        """Put the end of a streamed answer on record and show it to the observers; never raises."""
        record, request.streaming = request.streaming, None
        if record is None:
            return
        kind, message = describe_error(error, outcome) if outcome is not Outcome.OK else ("", "")
        end = StreamEnd(record.prediction_id, time.perf_counter() - request.arrived, outcome, sent_bytes, kind, message)
        if self._journaling is not None:
            self._journaling.append(end)
        self._observe(
            msgspec.structs.replace(
                record,
                duration=end.duration,
                outcome=outcome,
                response_bytes=sent_bytes,
                error_type=kind,
                error_message=message,
            )
        )

    async def sync(self) -> str | None:
        """Wait until what was journaled is as durable as was asked for; says why it is not."""
        return await self._journaling.sync() if self._journaling is not None else None

    def can_journal(self) -> bool:
        """Whether the next record could be journaled, found out by trying."""
        if self._writer is None:
            return not self.settings.audit_enabled
        try:
            self._writer.probe()
        except OSError:
            return False
        return True

    def http_request(self, route: str, status: int) -> None:
        """Count a request by its route."""
        if self._metrics is not None:
            try:
                self._metrics.http_request(route, status)
            except Exception as error:  # noqa: BLE001  # promise 4: observability never harms
                self.guard.caught("metrics", error)

    def response_headers(self, request: Observation) -> list[tuple[bytes, bytes]]:
        """The headers that tell a caller the ids and the time taken."""
        # A copy: after a timeout the thread that runs the model still adds to them.
        phases = request.phases.copy()
        timing = [f"{phase};dur={seconds * 1000:.3f}" for phase, seconds in phases.items()]
        timing.append(f"total;dur={(time.perf_counter() - request.arrived) * 1000:.3f}")
        return [
            *self.extractor.inject(request.context),
            (b"x-prediction-id", request.context.prediction_id.encode()),
            (b"server-timing", ", ".join(timing).encode()),
        ]

    def log_escaped(self, error: BaseException) -> None:
        """Log what escaped from the application, which nothing further out would."""
        logger.error("A request failed outside its API method: %s", error, exc_info=error)

    # Beside it.

    def metrics_text(self) -> str:
        """The numbers of all workers of the data directory, in Prometheus' text format. Blocks on files."""
        if self._metrics is None:
            return ""
        try:
            self._metrics.failures(self.guard.failures)
            return render(collect(self.data_dir / "metrics"))
        except Exception as error:  # noqa: BLE001  # promise 4: the user's own metrics are served with or without ours
            self.guard.caught("metrics", error)
            return ""

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
        if self._writer is not None:
            try:
                self._writer.close()
            except OSError as error:
                self.guard.caught("journal", error)
        if self._metrics is not None:
            self._metrics.close()

    async def _keep_house(self) -> None:
        while True:
            try:
                if self._supervisor is not None:
                    await asyncio.to_thread(self._supervisor.ensure)
                if self._metrics is not None:
                    self._metrics.failures(self.guard.failures)
                if self._writer is None:
                    self._open_journal()
                else:
                    await asyncio.to_thread(self._writer.prepare)
            except Exception as error:  # noqa: BLE001  # promise 4: observability never harms
                self.guard.caught("housekeeping", error)
            await asyncio.sleep(HOUSEKEEPING_SECONDS)

    def _observe(self, record: PredictionRecord) -> None:
        for part, observer in self._observers:
            try:
                observer.on_end(record)
            except Exception as error:  # noqa: BLE001  # promise 4: observability never harms
                self.guard.caught(part, error)

    def _journal(self, record: PredictionRecord) -> str | None:
        if not self.settings.audit_enabled:
            return None
        unjournaled = self._journaling.append(record) if self._journaling is not None else "no-journal"
        if self._metrics is not None:
            self._metrics.journaled(unjournaled)
        return unjournaled

    def _open_journal(self) -> None:
        if not self.settings.audit_enabled:
            return
        # An id of its own for each try: a folder that was made and could not be filled belongs to none.
        life = msgspec.structs.replace(self.life, life=new_life_id())
        try:
            self._writer = JournalWriter(
                self.data_dir / "journal",
                life,
                segment_bytes=self.settings.segment_bytes,
                record_bytes=self.settings.record_bytes,
                power_loss=self.settings.durability == "power-loss",
            )
        except JournalError as error:
            self.guard.caught("journal", error)
            return
        self.life = life
        self._journaling = Journaling(self._writer, self.guard)

    def _open_metrics(self) -> MetricsObserver | None:
        if not self.settings.metrics_enabled:
            return None
        try:
            return MetricsObserver(SeriesFile(self.data_dir / "metrics", self.life.life), self.life)
        except OSError as error:
            self.guard.caught("metrics", error)
            return None


def _refused(record: PredictionRecord, reason: str) -> PredictionRecord:
    """What becomes of a request that must be on record and can't be: it is answered 503."""
    return msgspec.structs.replace(
        record, outcome=Outcome.REJECTED, status=503, outputs={}, error_type="unjournaled", error_message=reason
    )


def _life(definition: ServiceDefinition, model: ModelInfo, bento: tuple[str, str], settings: Settings) -> Life:
    name, version = bento
    return Life(
        life=new_life_id(),
        service=definition.name,
        started_ns=time.time_ns(),
        pid=os.getpid(),
        release=e2i_serving.__version__,
        bento=name,
        bento_version=version,
        code_digest=code_digest(definition.inner),
        model=model,
        deployment=Deployment(
            settings.environment,
            settings.namespace,
            settings.pod or instance_name(settings),
            settings.revision,
            settings.arm,
        ),
    )
