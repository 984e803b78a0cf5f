"""Run a service in process, and see what it answers and what goes on record."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import httpx
from _bentoml_sdk import Service
from anyio.from_thread import BlockingPortal, start_blocking_portal

from e2i_serving.exceptions import ServiceDefinitionError
from e2i_serving.record import PredictionRecord
from e2i_serving.runtime.app import ObservedAppFactory
from e2i_serving.runtime.bento import ObservedService
from e2i_serving.runtime.definition import definition_of
from e2i_serving.runtime.exporting import audit_url
from e2i_serving.runtime.places import Place
from e2i_serving.runtime.relay_process import run_relay
from e2i_serving.runtime.trail import AuditTrail


@dataclass(frozen=True, slots=True)
class Reply:
    """What a request was answered, and what went on record for it.

    Attributes:
        status: The HTTP status.
        body: The body, decoded if it is JSON.
        headers: The response headers.
        record: The record; ``None`` for a request that is counted only.
    """

    status: int
    body: Any
    headers: httpx.Headers
    record: PredictionRecord | None


_OF_ITS_OWN: Final[dict[str, Any]] = {
    "relay_enabled": False,
    "gc_freeze": False,
    "audit_url": "",
    "checkpoint_dir": None,
    "signing_key_file": None,
    "opik_enabled": False,
    "jsonl_path": "",
    "webhook_url": "",
    "otlp_logs_enabled": False,
    "sentry_dsn": "",
    "trace_exporter": "none",
    "metrics_exporter": "none",
    "log_exporter": "none",
}
"""What a service may be set to, and a test must not be: what it tries out would be taken for real."""


class ServiceHarness:
    """A service as ``bentoml serve`` would run it, with one worker, in this process and without a port.

    Faults of the observability itself raise here, instead of being guarded. The data directory is a temporary
    one, and the relay runs only when the trail is asked for. Nothing is stored elsewhere or exported, whatever the
    service's settings, ``observability.yaml`` and the environment say, unless ``observability`` asks for it by name.

    Args:
        service: A service made by ``@e2i_serving.service``.
        observability: Settings by name, on top of the service's own.

    Raises:
        ServiceDefinitionError: The service was not made by ``@e2i_serving.service``.

    Example:
        ```python
        with ServiceHarness(Churn) as churn:
            reply = churn.predict(instances=[[0.1, 0.2]])
            assert reply.record.outcome == "ok"
        ```
    """

    def __init__(self, service: Service[Any], *, observability: Mapping[str, Any] | None = None) -> None:
        if not isinstance(service, ObservedService):
            raise ServiceDefinitionError("ServiceHarness takes a service made by @e2i_serving.service.")
        self._service = service
        self._observability = dict(observability or {})
        self._records = _Records()
        self._exit = ExitStack()
        self._client: httpx.AsyncClient | None = None
        self._portal: BlockingPortal | None = None
        self._factory: ObservedAppFactory | None = None

    def __enter__(self) -> Self:
        """Load the model and begin to serve."""
        with ExitStack() as starting:
            self._start(starting)
            # Only a start that went well is left open, to be closed at the end of the with-block.
            self._exit = starting.pop_all()
        return self

    def _start(self, exits: ExitStack) -> None:
        folder = exits.enter_context(tempfile.TemporaryDirectory(prefix="e2i-serving-"))
        definition = definition_of(self._service.inner)
        settings = {"data_dir": folder} | _OF_ITS_OWN | self._observability
        self._service.inject_config()
        self._factory = ObservedAppFactory(
            self._service,
            is_main=True,
            definition=replace(definition, arguments={**definition.arguments, **settings}),
            observers=[("harness", self._records)],
            strict=True,
        )
        app = self._factory()
        self._portal = exits.enter_context(start_blocking_portal())
        exits.enter_context(self._portal.wrap_async_context_manager(app.router.lifespan_context(app)))
        client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://service")
        self._client = exits.enter_context(self._portal.wrap_async_context_manager(client))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop serving and clear away."""
        self._exit.close()
        self._client = self._portal = self._factory = None

    def request(self, method: str, path: str, **options: Any) -> Reply:
        """Send any request.

        Args:
            method: The HTTP method.
            path: The path.
            **options: As ``httpx.Client.request`` takes: ``json``, ``content``, ``headers`` ...
        """
        if self._client is None or self._portal is None:
            raise RuntimeError("Use the harness as a context manager: with ServiceHarness(Service) as service: ...")
        self._records.last = None
        answer = self._portal.call(partial(self._client.request, method, path, **options))
        is_json = answer.headers.get("content-type", "").startswith("application/json")
        return Reply(answer.status_code, answer.json() if is_json else answer.text, answer.headers, self._records.last)

    def predict(self, *, headers: Mapping[str, str] | None = None, **body: Any) -> Reply:
        """Send ``body`` to ``/predict`` as JSON."""
        return self.request("POST", "/predict", json=body, headers=dict(headers or {}))

    @property
    def data_dir(self) -> Path:
        """The temporary data directory."""
        if self._factory is None or self._factory.worker is None:
            raise RuntimeError("The service has not started.")
        return self._factory.worker.data_dir

    def trail(self) -> AuditTrail:
        """Relay what was recorded so far, and open the audit trail on it."""
        if self._factory is None or self._factory.worker is None:
            raise RuntimeError("The service has not started.")
        settings = self._factory.worker.settings
        run_relay(settings, self.data_dir, once=True)
        # By these settings: by the directory's name, the environment's would come before what the service wrote there.
        place = Place(audit_url(settings, self.data_dir), self.data_dir, settings, is_reader_s_own=False)
        return AuditTrail.open_place(place, way="python")


class _Records:
    def __init__(self) -> None:
        self.last: PredictionRecord | None = None

    def on_end(self, record: PredictionRecord) -> None:
        self.last = record
