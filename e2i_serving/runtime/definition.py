"""What a service class says of itself, before any process serves it."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from e2i_serving.settings import ResolvedSettings, data_dir_of, load_settings

PRIVATE = 0o700
"""Mode of a data directory: what is predicted about people is nobody else's."""

ATTRIBUTE = "__e2i_serving_definition__"


@dataclass(frozen=True)
class ServiceDefinition:
    """A service as it was written.

    Attributes:
        name: The BentoML service's name.
        inner: The class that BentoML's service wraps.
        arguments: Settings given in code.
        label_names: Business labels that the class declares.
        layered: Whether ``@e2i_serving.service`` made it, so that a layer sees every request.
    """

    name: str
    inner: type
    arguments: Mapping[str, Any] = field(default_factory=dict)
    label_names: tuple[str, ...] = ()
    layered: bool = False

    def load_settings(self) -> ResolvedSettings:
        """Resolve the settings; ``observability.yaml`` is looked for beside the service file.

        Raises:
            ConfigurationError: One of them is wrong.
        """
        source = source_file(self.inner)
        return load_settings(self.arguments, config_dir=source.parent if source else None)

    def data_dir(self, resolved: ResolvedSettings) -> Path:
        """The data directory under these settings."""
        return data_dir_of(resolved.settings, self.name)


def define(
    inner: type, *, name: str | None = None, arguments: Mapping[str, Any] | None = None, layered: bool = False
) -> ServiceDefinition:
    """Attach a definition to a service class, or replace the one it has.

    Args:
        inner: The class.
        name: The service's name; the class's by default.
        arguments: Settings given in code.
        layered: Whether a layer will see its requests.
    """
    labels = tuple(getattr(inner, "label_names", ()))
    definition = ServiceDefinition(name or inner.__name__, inner, dict(arguments or {}), labels, layered)
    setattr(inner, ATTRIBUTE, definition)
    return definition


def definition_of(inner: type) -> ServiceDefinition:
    """The definition attached to a class itself, or a plain one when there is none."""
    found = inner.__dict__.get(ATTRIBUTE)
    return found if isinstance(found, ServiceDefinition) else define(inner)


def make_private(data_dir: Path) -> None:
    """Make a data directory that only its owner may enter; one that is there keeps its mode.

    Raises:
        OSError: It can't be made.
    """
    data_dir.mkdir(mode=PRIVATE, parents=True, exist_ok=True)


def source_file(inner: type) -> Path | None:
    """The file that a class is written in; ``None`` for one made in a console."""
    try:
        return Path(inspect.getfile(inner)).absolute()
    except (TypeError, OSError):
        return None


def code_digest(inner: type) -> str:
    """What the service's code was: SHA-256, in hex, over the files of its class and of its bases.

    Files of installed packages are left out; the bento and the release say which those were.
    """
    files = {
        source_file(cls) for cls in inner.__mro__ if cls.__module__.partition(".")[0] not in sys.stdlib_module_names
    }
    digest = hashlib.sha256()
    for path in sorted(path for path in files if path is not None and path.is_file()):
        if "site-packages" in path.parts or path.is_relative_to(Path(__file__).parents[1]):
            continue
        digest.update(path.name.encode())
        digest.update(path.read_bytes())
    return digest.hexdigest()
