"""The metrics that a service counts itself with ``prometheus_client``, which BentoML keeps in a folder of its own."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any


class UserMetrics:
    """Collects the metrics of all workers that share BentoML's folder, once a scrape.

    Args:
        hook: The service's ``__metrics__``, if it has one of its own.
    """

    def __init__(self, hook: Callable[[str], Any] | None = None) -> None:
        self.hook = hook
        self._folder: Path | None = None
        self._seen: set[str] = set()
        self._own = f"_{os.getpid()}.db"

    def families(self, without: Iterable[str] = ()) -> list[Any]:
        """The families as they stand.

        Args:
            without: Names of families to leave out, as they are shown already.
        """
        from prometheus_client import REGISTRY, CollectorRegistry, multiprocess  # noqa: PLC0415  # reads the environment

        hidden = {name.removesuffix("_total") for name in without}
        registry = CollectorRegistry()
        try:
            collector: Any = multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
        except ValueError:  # it counts in memory
            collected = REGISTRY.collect()
        else:
            self._folder = Path(collector._path)  # noqa: SLF001  # it alone knows which of several variables named it
            collected = registry.collect()
        found = [family for family in collected if family.name.removesuffix("_total") not in hidden]
        for family in found:
            if family.type == "histogram":
                family.samples.sort(key=_in_order)
        return found

    @property
    def was_wiped(self) -> bool:
        """Whether files that this process writes to are gone: another server with the same home has cleared them."""
        if self._folder is None:
            return False
        try:
            there = {entry.name for entry in os.scandir(self._folder) if entry.name.endswith(self._own)}
        except FileNotFoundError:
            there = set()
        gone = self._seen - there
        self._seen |= there
        return bool(gone)


def render_text(families: list[Any]) -> str:
    """Families in Prometheus' text format."""
    from prometheus_client import generate_latest  # noqa: PLC0415  # reads the environment

    return generate_latest(_Collected(families)).decode()


def render_openmetrics(families: list[Any]) -> str:
    """Families as OpenMetrics, without the line that ends it."""
    from prometheus_client.openmetrics.exposition import generate_latest  # noqa: PLC0415  # as above

    text: str = generate_latest(_Collected(families)).decode()  # type: ignore[no-untyped-call]
    return text.removesuffix("# EOF\n")


def parse(text: str) -> list[Any]:
    """The families of a text, as a service's ``__metrics__`` may give one."""
    from prometheus_client.parser import text_string_to_metric_families  # noqa: PLC0415  # as above

    return list(text_string_to_metric_families(text))


class _Collected:
    """Stands for a registry whose metrics have been collected."""

    def __init__(self, families: list[Any]) -> None:
        self._families = families

    def collect(self) -> Iterator[Any]:
        return iter(self._families)


def _in_order(sample: Any) -> tuple[Any, ...]:
    labels = sorted((name, value) for name, value in sample.labels.items() if name != "le")
    if sample.name.endswith("_bucket"):
        return labels, 0, float(sample.labels["le"])
    return labels, 1, 0.0 if sample.name.endswith("_sum") else 1.0
