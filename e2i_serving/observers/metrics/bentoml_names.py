"""BentoML's own metrics of requests, under their own names, so that what is built on them goes on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from e2i_serving.observers.metrics.families import Family, MetricType
from e2i_serving.observers.metrics.series import Series, SeriesFile

_ENDPOINT = ("endpoint", "service_name", "service_version")
_ANSWER = (*_ENDPOINT, "http_response_code", "runner_name")


def bentoml_families(namespace: str, buckets: Sequence[float]) -> tuple[Family, Family, Family]:
    """BentoML's families: requests, their durations, those in progress.

    Args:
        namespace: What their names begin with.
        buckets: Bounds of the durations' buckets in seconds, without +Inf.
    """
    return (
        Family(f"{namespace}_request_total", MetricType.COUNTER, "Total number of runner RPC", _ANSWER),
        Family(
            f"{namespace}_request_duration_seconds",
            MetricType.HISTOGRAM,
            "runner RPC duration in seconds",
            _ANSWER,
            tuple(buckets),
        ),
        Family(
            f"{namespace}_request_in_progress",
            MetricType.GAUGE,
            "Total number of runner RPC in progress now",
            (*_ENDPOINT, "runner_name"),
        ),
    )


@dataclass(frozen=True)
class BentoMLNames:
    """Under which names and labels BentoML counts.

    Attributes:
        namespace: What the names begin with.
        buckets: Bounds of the durations' buckets in seconds, without +Inf.
        bento: The bento's name, which BentoML calls ``service_name``.
        version: Its version.
        service: The service's name, which BentoML calls ``runner_name``.
    """

    namespace: str
    buckets: tuple[float, ...]
    bento: str
    version: str
    service: str


class BentoMLSeries:
    """Counts requests as BentoML's middleware does, with the route as the endpoint, never a raw path.

    Args:
        file: Where the numbers stand.
        names: Under which names and labels.
    """

    def __init__(self, file: SeriesFile, names: BentoMLNames) -> None:
        self._file = file
        self._requests, self._durations, self._in_progress = bentoml_families(names.namespace, names.buckets)
        self._names = names
        self._running: dict[str, Series] = {}
        self._answered: dict[tuple[str, int], tuple[Series, Series]] = {}

    def began(self, route: str) -> None:
        """A request to a route began."""
        self._of(route).add(1.0)

    def ended(self, route: str, status: int, seconds: float) -> None:
        """It ended; a status of 0 says that nothing was answered."""
        self._of(route).add(-1.0)
        if not status:
            return
        series = self._answered.get((route, status))
        if series is None:
            names = self._names
            labels = (route, names.bento, names.version, str(status), names.service)
            series = self._answered[route, status] = (
                self._file.series(self._requests, *labels),
                self._file.series(self._durations, *labels),
            )
        series[0].add()
        series[1].observe(seconds)

    def _of(self, route: str) -> Series:
        series = self._running.get(route)
        if series is None:
            names = self._names
            series = self._file.series(self._in_progress, route, names.bento, names.version, names.service)
            self._running[route] = series
        return series
