"""What ``/metrics`` answers: one collection over all workers, in the format that is asked for."""

from __future__ import annotations

import gzip
import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import anyio.to_thread

from e2i_serving.guard import FailureGuard
from e2i_serving.observers.metrics import (
    CONTENT_TYPE,
    OPENMETRICS_CONTENT_TYPE,
    OPENMETRICS_END,
    BentoMLNames,
    Totals,
    collect,
    render,
)
from e2i_serving.observers.metrics.families import RELAY_UP
from e2i_serving.runtime.telemetry import Telemetry
from e2i_serving.runtime.user_metrics import UserMetrics, parse, render_openmetrics, render_text
from e2i_serving.typing import Headers

COMPRESSED_ABOVE = 1024
"""Bytes from which a body is worth compressing."""
USER_METRICS = "user metrics"

_OPENMETRICS = re.compile(rb"application/openmetrics-text(?![^,]*;\s*q=0(?:\.0*)?\s*(?:,|$))")
_GZIP = re.compile(rb"(?:^|[,\s])gzip(?![^,]*;\s*q=0(?:\.0*)?\s*(?:,|$))")


class MetricsFolderWiped(Exception):
    """The folder of the service's own metrics was cleared under its running workers."""


@dataclass(frozen=True)
class ServedBy:
    """How BentoML serves a service.

    Attributes:
        workers: How many worker processes it is set to have.
        access_log: Whether BentoML's own settings ask for an access log.
        load_seconds: How long this one took to make the service and load its model; ``None`` when not known.
        probes: Paths that ask after the service itself, whose answers are left as they are.
        metrics_path: Where metrics are asked for; empty when nowhere, or when BentoML answers.
        bentoml: The names of BentoML's own metrics, when its middleware does not count them.
        users: The metrics that the service counts itself.
        telemetry: The process's tracing and log lines.
    """

    workers: int = 1
    access_log: bool = True
    load_seconds: float | None = None
    probes: frozenset[str] = frozenset({"/livez", "/readyz", "/healthz", "/metrics"})
    metrics_path: str = ""
    bentoml: BentoMLNames | None = None
    users: UserMetrics = field(default_factory=UserMetrics)
    telemetry: Telemetry = field(default_factory=Telemetry)


class Scrape:
    """Writes the numbers of all workers of a data directory.

    Args:
        folder: ``<data>/metrics``; ``None`` when nothing of ours is shown.
        served_by: How the service is served.
        has_relay: Says whether a relay runs; ``None`` when none should.
        before: Called first, to bring this worker's numbers up to date.
        guard: Takes what goes wrong.
    """

    def __init__(
        self,
        folder: Path | None,
        served_by: ServedBy,
        has_relay: Callable[[], bool] | None,
        before: Callable[[], None],
        guard: FailureGuard,
    ) -> None:
        self._folder = folder
        self._served_by = served_by
        self._has_relay = has_relay
        self._before = before
        self._guard = guard
        self._wiped = False

    def totals(self) -> Totals:
        """The numbers, and what is known where they are asked for. Blocks on files; never raises."""
        totals = Totals()
        if self._folder is None:
            return totals
        try:
            self._before()
            totals = collect(self._folder)
            if self._has_relay is not None:
                totals.put(RELAY_UP, (), float(self._has_relay()))
        except Exception as error:  # noqa: BLE001  # promise 4: the user's own metrics are served with or without ours
            self._guard.caught("metrics", error)
        return totals

    def text(self) -> str:
        """Our own numbers alone, in Prometheus' text format. Blocks on files; never raises."""
        try:
            return render(self.totals())
        except Exception as error:  # noqa: BLE001  # as above
            self._guard.caught("metrics", error)
            return ""

    async def answer(self, headers: Headers) -> tuple[list[tuple[bytes, bytes]], bytes]:
        """The headers and body of an answer, ours and the user's own; never raises.

        Args:
            headers: The request's, which say what its sender can read.
        """
        wanted = {name: value for name, value in headers if name in (b"accept", b"accept-encoding")}
        openmetrics = _OPENMETRICS.search(wanted.get(b"accept", b"")) is not None
        totals = await anyio.to_thread.run_sync(self.totals)
        theirs = await self._theirs(totals.families, openmetrics=openmetrics)
        pack = _GZIP.search(wanted.get(b"accept-encoding", b"")) is not None
        body, packed = await anyio.to_thread.run_sync(partial(_written, totals, theirs, openmetrics, pack))
        content_type = OPENMETRICS_CONTENT_TYPE if openmetrics else CONTENT_TYPE
        answered = [
            (b"content-type", content_type.encode()),
            (b"content-length", str(len(body)).encode()),
            (b"vary", b"accept, accept-encoding"),
        ]
        return [*answered, (b"content-encoding", b"gzip")] if packed else answered, body

    async def _theirs(self, ours: Iterable[str], *, openmetrics: bool) -> str:
        users = self._served_by.users
        write = render_openmetrics if openmetrics else render_text
        try:
            families = await anyio.to_thread.run_sync(partial(self._collect, ours))
            if users.hook is None:
                return await anyio.to_thread.run_sync(write, families)
            text = await _hooked(users.hook, await anyio.to_thread.run_sync(render_text, families))
            return await anyio.to_thread.run_sync(lambda: write(parse(text))) if openmetrics else text
        except Exception as error:  # noqa: BLE001  # ours are served with or without the user's
            self._guard.caught(USER_METRICS, error)
            return ""

    def _collect(self, ours: Iterable[str]) -> list[Any]:
        users = self._served_by.users
        if not self._wiped and users.was_wiped:
            self._wiped = True
            self._guard.caught(
                USER_METRICS,
                MetricsFolderWiped(
                    "The folder of the service's own metrics was cleared while it ran, as a second server with the "
                    "same BENTOML_HOME does when it starts. What it counts is not shown until it is started again; "
                    "give each server a BENTOML_HOME of its own."
                ),
            )
        return users.families(ours)


async def _hooked(hook: Callable[[str], Any], text: str) -> str:
    if inspect.iscoroutinefunction(hook):
        return str(await hook(text))
    return str(await anyio.to_thread.run_sync(hook, text))


def _written(totals: Totals, theirs: str, openmetrics: bool, pack: bool) -> tuple[bytes, bool]:  # noqa: FBT001  # as asked for
    if theirs and not theirs.endswith("\n"):
        theirs += "\n"
    end = OPENMETRICS_END if openmetrics else ""
    body = f"{theirs}{render(totals, openmetrics=openmetrics)}{end}".encode("utf-8", "replace")
    if pack and len(body) > COMPRESSED_ABOVE:
        return gzip.compress(body, 1), True
    return body, False
