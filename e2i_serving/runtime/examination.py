"""What ``e2i-serving doctor`` looks at: what keeps a service from starting, and what is better mended."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from bentoml._internal.container import BentoMLContainer
from bentoml.exceptions import BentoMLException

from e2i_serving.exceptions import ConfigurationError
from e2i_serving.runtime.checks import HOOK, Check, Problem, importable, load_service, run_checks
from e2i_serving.runtime.definition import ServiceDefinition, definition_of
from e2i_serving.runtime.exporting import round_trips
from e2i_serving.runtime.labels import declared_labels, label_bounds
from e2i_serving.runtime.signals import signal_trips
from e2i_serving.settings import ResolvedSettings

AHEAD_SECONDS: Final = 60.0
"""How much later than now a file may have been written, for clocks of file systems that are a little off."""

Found = list[tuple[str, list[Problem]]]


@dataclass(frozen=True, slots=True)
class Examination:
    """What was found.

    Attributes:
        checks: For each check, in order, its name and the problems that keep the service from starting, or its records
            from arriving.
        advice: Likewise, what it starts with all the same.
    """

    checks: Found
    advice: Found

    @property
    def is_sound(self) -> bool:
        """Whether the service can start, and its records arrive."""
        return not any(problems for _, problems in self.checks)


def examine(target: str, working_dir: Path) -> Examination:
    """Import a service as ``bentoml serve`` would, check it, load its model, and go to every destination and back.

    Likewise every service that it depends on and that would be served beside it.

    Args:
        target: The service: ``module:Class``, a folder, or a bento's tag.
        working_dir: The folder to import it from.
    """
    try:
        served = _served(load_service(target, working_dir))
    except (ConfigurationError, BentoMLException) as error:
        return Examination([("import", [Problem("import", str(error), "")])], [])
    found: Found = [("import", [])]
    for name, definition in served.items():
        found += _of(name, run_checks(definition))
    if any(problems for _, problems in found):
        return Examination(found, [])
    advice: Found = []
    for name, definition in served.items():
        with importable(definition.inner, working_dir):
            found += _of(name, [("load", list(_load(definition.inner)))])
        found += _of(name, reach(definition))
        advice += _of(name, advise(definition))
    return Examination(found, advice)


def _served(loaded: Any) -> dict[str, ServiceDefinition]:
    """What ``bentoml serve`` starts and checks: the service itself, and those beside it that are observed.

    Returns:
        The definitions by the services' names; by no name where there is but one.
    """
    beside = loaded.all_services(exclude_urls=True).values()
    observed = [each.inner for each in beside if each is not loaded and hasattr(each.inner, HOOK)]
    definitions = [definition_of(inner) for inner in (loaded.inner, *observed)]
    return {each.name if observed else "": each for each in definitions}


def _of(service: str, found: Found) -> Found:
    if not service:
        return found
    return [(f"{service}: {name}", [replace(each, service=service) for each in problems]) for name, problems in found]


def advise(definition: ServiceDefinition) -> Found:
    """Look at what a service starts with all the same.

    Args:
        definition: A service whose settings can be resolved.
    """
    resolved = definition.load_settings()
    return [(name, list(look(definition, resolved))) for name, look in ADVICE.items()]


def reach(definition: ServiceDefinition) -> Found:
    """Go to every destination of a service's records and back, and to the receivers of its other signals.

    Args:
        definition: A service whose settings can be resolved.

    Returns:
        For each destination and signal its name, and a problem if it does not answer as it should.
    """
    resolved = definition.load_settings()
    records = round_trips(resolved.settings, definition.data_dir(resolved))
    waits = "Mend that; until then, what it is to get waits in the journal."
    lost = "Mend that, by OpenTelemetry's own OTEL_EXPORTER_OTLP_* variables; until then, they are lost."
    return [
        *(_reached("destinations", name, problem, waits) for name, problem in records),
        *(_reached("signals", name, problem, lost) for name, problem in signal_trips(resolved.settings)),
    ]


def _reached(check: str, name: str, problem: str, mend: str) -> tuple[str, list[Problem]]:
    return f"{check}: {name}", [Problem(check, f"{name}: {problem.rstrip('.')}.", mend)] if problem else []


def _load(inner: type) -> Iterator[Problem]:
    load = getattr(inner, "e2i_load", None)
    if load is None:
        return
    try:
        load(inner())
    except Exception as error:  # noqa: BLE001  # whatever a service's own code raises is what is looked for
        what = f"{inner.__name__} can't load its model: {type(error).__name__}: {error}"
        yield Problem("load", what, "Save it anew with the packages that are installed here, or install its own.")


def _layer(definition: ServiceDefinition, resolved: ResolvedSettings) -> Iterator[Problem]:  # noqa: ARG001  # a check's signature
    if not definition.layered:
        yield Problem(
            "layer",
            f"{definition.name} is under a plain @bentoml.service: what BentoML answers by itself (405, 429, 504) is "
            "not seen.",
            "Decorate the class with @e2i_serving.service.",
        )


def _journal_volume(definition: ServiceDefinition, resolved: ResolvedSettings) -> Iterator[Problem]:
    path = definition.data_dir(resolved)
    free, most = shutil.disk_usage(path).free, resolved.settings.journal_bytes
    if free < most:
        yield Problem(
            "journal-volume",
            f"The disk of {path} has {free:,} bytes left, and the journal may take {most:,} while a store is away.",
            "Give it a larger volume, or lower journal_bytes.",
        )


def _clock(definition: ServiceDefinition, resolved: ResolvedSettings) -> Iterator[Problem]:
    latest = max((_changed(path) for path in definition.data_dir(resolved).iterdir()), default=0.0)
    ahead = latest - time.time()
    if ahead > AHEAD_SECONDS:
        yield Problem(
            "clock",
            f"The clock is behind: the data directory was written to {ahead:,.0f} s later than now. New records would "
            "be older than those before them.",
            "Synchronise the clock, by chrony or systemd-timesyncd for instance.",
        )


def _prometheus_folder(definition: ServiceDefinition, resolved: ResolvedSettings) -> Iterator[Problem]:  # noqa: ARG001  # as above
    path = Path(BentoMLContainer.prometheus_multiproc_dir.get())
    there = next(parent for parent in (path, *path.parents) if parent.exists())
    if not os.access(there, os.W_OK | os.X_OK):
        yield Problem(
            "prometheus-folder",
            f"BentoML's folder for metrics, {path}, can't be written to: metrics of the service's own would fail.",
            "Set BENTOML_HOME to a folder that the server may write to.",
        )


def _sampling(definition: ServiceDefinition, resolved: ResolvedSettings) -> Iterator[Problem]:  # noqa: ARG001  # as above
    settings = resolved.settings
    if settings.audit_enabled and settings.sampling_rate == 0 and not settings.sampling_always:
        kept = "only failures are" if settings.sampling_errors else "nothing is"
        yield Problem(
            "sampling",
            f"sampling_rate is 0: {kept} recorded.",
            "Raise it, or name models and endpoints in sampling_always.",
        )


def _labels(definition: ServiceDefinition, resolved: ResolvedSettings) -> Iterator[Problem]:
    labels = declared_labels(definition.inner, definition.label_names, resolved.settings)
    shown = label_bounds(labels, resolved.settings).allowed
    for name in labels:
        if name not in shown:
            yield Problem(
                "labels",
                f"No metric can have a label named {name!r}: it is in the audit record only.",
                "Name it by letters, digits and _, otherwise than the metrics' own labels.",
            )


ADVICE: Final[dict[str, Check]] = {
    "layer": _layer,
    "journal-volume": _journal_volume,
    "clock": _clock,
    "prometheus-folder": _prometheus_folder,
    "sampling": _sampling,
    "labels": _labels,
}


def _changed(path: Path) -> float:
    try:
        return path.stat().st_mtime
    except OSError:  # a relay beside may have deleted it
        return 0.0
