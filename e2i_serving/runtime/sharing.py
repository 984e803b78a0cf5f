"""Services that share a data directory: one relay delivers for all of them, so what it goes by must be one."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from e2i_serving.exceptions import ConfigurationError, E2IServingError
from e2i_serving.journal import JournalReader, LifeFolder, list_lives
from e2i_serving.runtime.bento import dependencies_of
from e2i_serving.runtime.definition import ATTRIBUTE, ServiceDefinition, make_private
from e2i_serving.runtime.events import SERVICE
from e2i_serving.settings import ResolvedSettings, differing, differing_from_kept, keep_settings

MEND = (
    "Put them into the environment or into one observability.yaml, the same for all, or give each service a data "
    "directory of its own (data_dir)."
)


@contextmanager
def in_turn(service: str, resolved: ResolvedSettings, data_dir: Path) -> Iterator[None]:
    """Write the settings down for the relay and for commands, and keep other workers from it until the block ends.

    By then there must be a journal, by which others see who lives here.

    Args:
        service: The service's name.
        resolved: Its settings.
        data_dir: Its data directory.

    Raises:
        ConfigurationError: Another service uses the directory, with settings of the relay that differ.
    """
    turn = -1
    # What can't be made or locked there says so itself.
    with suppress(OSError):
        make_private(data_dir)
        turn = os.open(data_dir, os.O_RDONLY)
        fcntl.flock(turn, fcntl.LOCK_EX)
    try:
        problem = shared_with_another(service, resolved, data_dir)
        if problem:
            raise ConfigurationError(f"{problem} {MEND}")
        if resolved.settings.audit_enabled or not _others(service, data_dir):
            with suppress(OSError):
                keep_settings(resolved, data_dir)
        yield
    finally:
        if turn >= 0:
            os.close(turn)


def sharing_problems(definition: ServiceDefinition, resolved: ResolvedSettings) -> Iterator[str]:
    """What keeps a service from sharing its data directory with those that it depends on, and with those that run.

    Args:
        definition: The service.
        resolved: Its settings.
    """
    data_dir = definition.data_dir(resolved)
    sharing = [(definition.name, resolved)] if resolved.settings.audit_enabled else []
    for inner in dependencies_of(definition.inner) if sharing else ():
        other: ServiceDefinition | None = inner.__dict__.get(ATTRIBUTE)
        if other is None:
            continue
        try:
            theirs = other.load_settings()
        except ConfigurationError:
            continue  # its own check says so
        if theirs.settings.audit_enabled and other.data_dir(theirs) == data_dir:
            sharing.append((other.name, theirs))
    for at, (name, theirs) in enumerate(sharing):
        for earlier, before in sharing[:at]:
            names = differing(theirs.settings, before.settings)
            if names:
                yield _problem(names, f"{name} and {earlier}", data_dir)
    problem = shared_with_another(definition.name, resolved, data_dir)
    if problem:
        yield problem


def shared_with_another(service: str, resolved: ResolvedSettings, data_dir: Path) -> str:
    """What keeps a service from sharing its data directory with those that run there now; empty when nothing does."""
    if not resolved.settings.audit_enabled:
        return ""  # no relay of it delivers anything
    names = differing_from_kept(resolved.settings, data_dir)
    others = _others(service, data_dir) if names else []
    return _problem(names, f"{service} and {' and '.join(others)}, which runs,", data_dir) if others else ""


def _problem(names: list[str], services: str, data_dir: Path) -> str:
    return (
        f"{services} share the data directory {data_dir}, and so one relay and one settings.json, but are set "
        f"differently: {', '.join(names)}."
    )


def _others(service: str, data_dir: Path) -> list[str]:
    """The other services whose workers write to the journal now."""
    found = {_writer_of(folder) for folder in list_lives(data_dir / "journal")}
    return sorted(found - {"", service, SERVICE})


def _writer_of(folder: LifeFolder) -> str:
    """The service of a life; empty when it is over, or can't be told."""
    try:
        if not folder.alive():
            return ""
        reader = JournalReader(folder)
        reader.read(1, ended=False)
    except (E2IServingError, OSError):
        return ""
    return reader.life.service if reader.life is not None else ""
