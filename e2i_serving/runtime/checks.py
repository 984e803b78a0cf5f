"""Start-up checks: what can be found wrong before a worker runs, each with its mend.

They run once in the supervisor, through BentoML's deployment hook, and by ``e2i-serving doctor``.
"""

from __future__ import annotations

import importlib.util
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import bentoml
from bentoml.exceptions import BentoMLException

from e2i_serving.encryption import cipher_of
from e2i_serving.exceptions import ConfigurationError, E2IServingError
from e2i_serving.record import ModelInfo
from e2i_serving.redaction import redactor_of
from e2i_serving.runtime.definition import ServiceDefinition, definition_of, make_private, source_file
from e2i_serving.runtime.exporting import audit_url, exporter_problems
from e2i_serving.runtime.models import missing_model
from e2i_serving.runtime.objectives import objectives_file
from e2i_serving.runtime.sharing import MEND, sharing_problems
from e2i_serving.settings import ResolvedSettings
from e2i_serving.slo import load_objectives

HOOK = "__e2i_serving_check__"

LEAST_SEGMENTS = 4
"""Segments that the journal must have room for, so that a few workers don't fill it by beginning."""

_RETENTION_CLASS = re.compile(r"[a-z0-9._-]{1,64}")

NETWORK_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "fuse.sshfs", "ceph", "lustre", "glusterfs"}
)


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that keeps a service from starting.

    Attributes:
        check: Name of the check that found it.
        what: What is wrong, and where.
        mend: What to do about it.
        service: Which service it is of; empty where there is but one.
    """

    check: str
    what: str
    mend: str
    service: str = ""

    def __str__(self) -> str:
        of = f"{self.service}: " if self.service else ""
        return f"{of}[{self.check}] {self.what} {self.mend}".rstrip()


Check = Callable[[ServiceDefinition, ResolvedSettings], Iterator[Problem]]

CHECKS: dict[str, Check] = {}


def check(name: str) -> Callable[[Check], Check]:
    """Register a check: a generator of the problems it finds."""

    def register(function: Check) -> Check:
        CHECKS[name] = function
        return function

    return register


def run_checks(definition: ServiceDefinition) -> list[tuple[str, list[Problem]]]:
    """Run every check of a service.

    Returns:
        For each check, in order, its name and the problems it found. When the settings can't be resolved, that
        is the only one.
    """
    try:
        resolved = definition.load_settings()
    except ConfigurationError as error:
        lines = str(error).splitlines()
        return [("settings", [Problem("settings", line, "") for line in lines])]
    return [("settings", []), *((name, list(function(definition, resolved))) for name, function in CHECKS.items())]


def load_service(target: str, working_dir: Path) -> Any:
    """Import a service as ``bentoml serve`` would.

    Args:
        target: The service: ``module:Class``, a folder, or a bento's tag.
        working_dir: The folder to import it from.

    Raises:
        ConfigurationError: It can't be imported.
    """
    try:
        return bentoml.load(target, working_dir=str(working_dir))
    except (E2IServingError, BentoMLException, ImportError, SyntaxError) as error:
        said = str(error)
    except (Exception, SystemExit) as error:  # noqa: BLE001  # a service file may do anything, and raise anything
        said = f"{type(error).__name__}: {error}{_raised_at(error, working_dir)}"
    raise ConfigurationError(f"{target} can't be imported from {working_dir.absolute()}: {said}")


def _raised_at(error: BaseException, working_dir: Path) -> str:
    """The last line of the user's own that an error came through, as syntax errors have it."""
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename).absolute()
        if path.is_relative_to(working_dir.absolute()) and "site-packages" not in path.parts:
            return f" ({path.name}, line {frame.lineno})"
    return ""


@contextmanager
def importable(inner: type, working_dir: Path) -> Iterator[None]:
    """Let a model import the modules beside its service, as a worker does; BentoML takes them away again.

    Args:
        inner: The service's class.
        working_dir: The folder that it was imported from.
    """
    source = source_file(inner)
    before = sys.path[:]
    sys.path[:0] = [str(working_dir.absolute()), *([str(source.parent)] if source else [])]
    try:
        yield
    finally:
        sys.path[:] = before


def add_deployment_hook(inner: type) -> None:
    """Let BentoML run the checks before it starts a worker of this class."""
    setattr(inner, HOOK, bentoml.on_deployment(staticmethod(partial(_refuse_if_wrong, inner))))


def _refuse_if_wrong(inner: type) -> None:
    definition = definition_of(inner)
    problems = [problem for _, found in run_checks(definition) for problem in found]
    if problems:
        lines = "\n".join(f"  {problem}" for problem in problems)
        sys.stderr.write(f"{definition.name} can't be served:\n{lines}\n")
        # Not an exception of ours: BentoML turns those into a traceback, and this must end the supervisor.
        raise SystemExit(1)


@check("data-directory")
def _data_directory(definition: ServiceDefinition, resolved: ResolvedSettings) -> Iterator[Problem]:
    name = "data-directory"
    path = definition.data_dir(resolved)
    mend = "Set E2I_SERVING_DATA_DIR to a local directory that the server may write to."
    try:
        make_private(path)
        probe = path / f".probe-{os.getpid()}"
        probe.write_bytes(b"probe")
        probe.unlink()
    except OSError as error:
        yield Problem(name, f"The data directory {path} can't be written to: {error.strerror}.", mend)
        return
    kind = file_system(path)
    if kind in NETWORK_FILE_SYSTEMS and not resolved.settings.allow_network_data_dir:
        yield Problem(
            name,
            f"The data directory {path} is on a network file system ({kind}), where locks and durability may not hold.",
            f"{mend} Or set E2I_SERVING_ALLOW_NETWORK_DATA_DIR=true and take the risk.",
        )
    yield from (Problem(name, problem, MEND) for problem in sharing_problems(definition, resolved))


@check("decorator")
def _decorator(definition: ServiceDefinition, resolved: ResolvedSettings) -> Iterator[Problem]:
    settings = resolved.settings
    asked = [name for name, on in (("audit_required", settings.audit_required),) if on]
    asked += ["overflow: refuse"] if settings.overflow == "refuse" else []
    asked += ["durability"] if settings.durability == "power-loss" else []
    if asked and not definition.layered:
        yield Problem(
            "decorator",
            f"{' and '.join(asked)} can't be kept under a plain @bentoml.service: no layer holds an answer back.",
            "Decorate the class with @e2i_serving.service.",
        )


@check("audit-store")
def _audit_store(definition: ServiceDefinition, resolved: ResolvedSettings) -> Iterator[Problem]:
    from e2i_serving.stores.sql import SqlAuditStore  # noqa: PLC0415  # workers import this module, and no database

    try:
        # Connects to nothing: a server that is away now is waited for by the relay.
        SqlAuditStore(audit_url(resolved.settings, definition.data_dir(resolved))).close()
    except ConfigurationError as error:
        yield Problem("audit-store", str(error), "Correct audit_url.")


@check("bounds")
def _bounds(definition: ServiceDefinition, resolved: ResolvedSettings) -> Iterator[Problem]:  # noqa: ARG001  # a check's signature
    settings = resolved.settings
    if settings.payload_bytes > settings.record_bytes:
        yield Problem(
            "bounds",
            f"payload_bytes ({settings.payload_bytes}) is more than record_bytes ({settings.record_bytes}), above "
            "which no payload is kept at all.",
            "Lower payload_bytes or raise record_bytes.",
        )
    least = LEAST_SEGMENTS * settings.segment_bytes
    if settings.journal_bytes < least:
        yield Problem(
            "bounds",
            f"journal_bytes ({settings.journal_bytes}) is less than {LEAST_SEGMENTS} segments of segment_bytes "
            f"({settings.segment_bytes}).",
            f"Raise journal_bytes to {least} or more, or lower segment_bytes.",
        )


@check("encryption")
def _encryption(definition: ServiceDefinition, resolved: ResolvedSettings) -> Iterator[Problem]:  # noqa: ARG001  # as above
    try:
        cipher_of(resolved.settings)
    except ConfigurationError as error:
        yield Problem("encryption", str(error), "")
    except ImportError:
        yield Problem("encryption", "encryption_key_file needs the package cryptography.", "Install it, or unset it.")


@check("redaction")
def _redaction(definition: ServiceDefinition, resolved: ResolvedSettings) -> Iterator[Problem]:  # noqa: ARG001  # as above
    settings = resolved.settings
    for destination in (None, *settings.redaction_destinations):
        try:
            redactor_of(settings, ModelInfo(), destination)
        except ConfigurationError as error:
            where = f"For the destination {destination}: " if destination else ""
            yield Problem("redaction", f"{where}{error}", "")


@check("tracing")
def _tracing(definition: ServiceDefinition, resolved: ResolvedSettings) -> Iterator[Problem]:  # noqa: ARG001  # as above
    for name in ("trace_exporter", "metrics_exporter", "log_exporter"):
        wanted = getattr(resolved.settings, name)
        if wanted.startswith("otlp") and importlib.util.find_spec("opentelemetry.exporter") is None:
            yield Problem(
                "tracing", f"{name} = {wanted} needs the OTLP exporter.", "Install e2i-serving[otlp], or set none."
            )


@check("errors")
def _errors(definition: ServiceDefinition, resolved: ResolvedSettings) -> Iterator[Problem]:  # noqa: ARG001  # as above
    if resolved.settings.sentry_dsn.get_secret_value() and importlib.util.find_spec("sentry_sdk") is None:
        yield Problem("errors", "sentry_dsn needs the Sentry SDK.", "Install e2i-serving[sentry], or unset it.")


@check("exporters")
def _exporters(definition: ServiceDefinition, resolved: ResolvedSettings) -> Iterator[Problem]:  # noqa: ARG001  # as above
    for problem in exporter_problems(resolved.settings):
        yield Problem("exporters", problem, "")


@check("retention")
def _retention(definition: ServiceDefinition, resolved: ResolvedSettings) -> Iterator[Problem]:  # noqa: ARG001  # as above
    named = getattr(definition.inner, "retention_class", "")
    if named and not (isinstance(named, str) and _RETENTION_CLASS.fullmatch(named)):
        yield Problem(
            "retention",
            f"{definition.inner.__name__}.retention_class is {named!r}.",
            "Name it by up to 64 lower-case letters, digits, dots, dashes and underscores.",
        )


@check("model")
def _model(definition: ServiceDefinition, resolved: ResolvedSettings) -> Iterator[Problem]:  # noqa: ARG001  # a check's signature
    for name, model in _declared_models(definition.inner):
        tag = getattr(model, "tag", None)
        if tag is None:
            continue
        try:
            bentoml.models.get(tag)
        except BentoMLException:
            yield Problem("model", f"{definition.inner.__name__}.{name}: {missing_model(tag)}", "")


@check("objectives")
def _objectives(definition: ServiceDefinition, resolved: ResolvedSettings) -> Iterator[Problem]:  # noqa: ARG001  # a check's signature
    try:
        load_objectives(objectives_file(definition.inner))
    except ConfigurationError as error:
        for line in str(error).splitlines():
            yield Problem("objectives", line, "")


def _declared_models(inner: type) -> Iterator[tuple[str, Any]]:
    for name in dir(inner):
        value = inner.__dict__.get(name, getattr(inner, name, None))
        if isinstance(value, bentoml.models.BentoModel):
            yield name, value


def file_system(path: Path) -> str:
    """The type of the file system that a path is on, as the kernel names it; empty where that can't be told."""
    mounts = Path("/proc/self/mounts")
    if not mounts.exists():
        return ""
    best, kind = "", ""
    target = str(path.resolve())
    for line in mounts.read_text(encoding="utf-8", errors="replace").splitlines():
        fields = line.split(" ")
        where = fields[1].replace("\\040", " ")
        inside = target == where or target.startswith(where.rstrip("/") + "/")
        if inside and len(where) >= len(best):
            best, kind = where, fields[2]
    return kind
