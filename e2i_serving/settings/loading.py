"""Where settings come from, in which order, and what is said when one is wrong."""

from __future__ import annotations

import difflib
import os
import re
import socket
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from pydantic import SecretStr, ValidationError
from pydantic_settings import EnvSettingsSource

from e2i_serving.exceptions import ConfigurationError
from e2i_serving.settings.declared import Settings
from e2i_serving.settings.kept import kept_settings
from e2i_serving.settings.standards import with_signal_variables

PREFIX = "E2I_SERVING_"
CONFIG_FILE_NAME = "observability.yaml"
CONFIG_FILE_VARIABLE = "E2I_SERVING_CONFIG_FILE"
RESOLVED_VARIABLE = "E2I_SERVING_RESOLVED"
"""Says to a child process that its environment is all there is to read: what is not in it is at its default."""

# Kubernetes gives each pod variables about the Services of its namespace. Those of one named e2i-serving, or
# e2i-serving-churn, begin with the prefix of the settings, and nobody set them.
_OF_KUBERNETES = re.compile(
    rf"{PREFIX}(?:\w+_)?"
    r"(?:SERVICE_HOST|SERVICE_PORT(?:_\w+)?|PORT|PORT_\d+_(?:TCP|UDP|SCTP)(?:_(?:ADDR|PORT|PROTO))?)"
)

_QUOTED_NAME = re.compile(r"\b(alias|anchor|tag handle|tag) ['\"].*")


class Origin(StrEnum):
    """Where a setting's value came from."""

    ARGUMENT = "argument"
    ENVIRONMENT = "environment"
    FILE = "file"
    SERVICE = "service"
    """The service wrote it down in its data directory."""
    DEFAULT = "default"


class ResolvedSettings(NamedTuple):
    """Settings, and for each where it came from."""

    settings: Settings
    origins: dict[str, Origin]
    config_file: Path | None


def load_settings(
    arguments: Mapping[str, Any] | None = None,
    *,
    config_dir: Path | None = None,
    environ: Mapping[str, str] | None = None,
    data_dir: Path | None = None,
) -> ResolvedSettings:
    """Resolve every setting.

    Args:
        arguments: Settings given in code; they win.
        config_dir: Folder in which ``observability.yaml`` is looked for, the service file's; the
            variable ``E2I_SERVING_CONFIG_FILE`` names another file.
        environ: The environment; the process's by default.
        data_dir: A data directory whose service's settings take the place of the file's and of the defaults.

    Returns:
        The settings, where each came from, and the file that was read.

    Raises:
        ConfigurationError: A name is unknown or a value is wrong; one line for each.
    """
    environ = os.environ if environ is None else environ
    is_handed_on = bool(environ.get(RESOLVED_VARIABLE))
    config_file = None if is_handed_on else _config_file(config_dir, environ)
    layers = (
        (Origin.FILE, _from_file(config_file) if config_file else {}),
        # Behind the file: the service has read it, and what its code says came before.
        (Origin.SERVICE, kept_settings(data_dir) if data_dir and not is_handed_on else {}),
        (Origin.ENVIRONMENT, _from_environment(environ)),
        (Origin.ARGUMENT, dict(arguments or {})),
    )
    merged: dict[str, Any] = {}
    origins = dict.fromkeys(Settings.model_fields, Origin.DEFAULT)
    problems: list[str] = []
    for origin, values in layers:
        for name, value in values.items():
            if name not in Settings.model_fields:
                problems.append(_unknown(name, origin, config_file))
            else:
                merged[name] = value
                origins[name] = origin
    if not problems:
        try:
            return ResolvedSettings(Settings.model_validate(merged), origins, config_file)
        except ValidationError as error:
            problems += [_invalid(detail, origins, config_file) for detail in error.errors(include_url=False)]
    raise ConfigurationError("\n".join(problems))


def environment_of(resolved: Settings) -> dict[str, str]:
    """Settings as environment variables, so that a child process resolves the same ones, whatever it finds there.

    Defaults are among them, empty ones too: one that was given in code still wins over this process's own environment,
    and over every file. So is what OpenTelemetry's variables say of spans, metrics and log lines, which in the child no
    longer fill in for a default.
    Secrets are in clear: the result must not be shown or logged.
    """
    resolved = with_signal_variables(resolved)
    values = resolved.model_dump(mode="json")
    for name in values:
        if isinstance(secret := getattr(resolved, name), SecretStr):
            values[name] = secret.get_secret_value()
    variables = {
        PREFIX + name.upper(): value if isinstance(value, str) else "" if value is None else _as_variable(value)
        for name, value in values.items()
    }
    return {**variables, RESOLVED_VARIABLE: "true"}


def instance_name(settings: Settings) -> str:
    """This instance's name, safe as a folder's name."""
    return settings.instance or re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:64] or "local"


def data_dir_of(settings: Settings, service: str) -> Path:
    """The data directory of a service: the one set, or its own under BentoML's home."""
    if settings.data_dir is not None:
        return settings.data_dir.expanduser().absolute()
    return _bentoml_home() / "e2i" / service / instance_name(settings)


def default_data_dirs() -> list[Path]:
    """The data directories that services made under BentoML's home, the newest first."""
    found = [path for path in (_bentoml_home() / "e2i").glob("*/*") if (path / "journal").is_dir()]
    return sorted(found, key=lambda path: path.stat().st_mtime, reverse=True)


def readers_dir(settings: Settings) -> Path:
    """Where those who read stores by their URL keep what they record about it."""
    return _bentoml_home() / "e2i" / "_readers" / instance_name(settings)


def _bentoml_home() -> Path:
    return Path(os.environ.get("BENTOML_HOME", "~/bentoml")).expanduser().absolute()


def _config_file(config_dir: Path | None, environ: Mapping[str, str]) -> Path | None:
    named = environ.get(CONFIG_FILE_VARIABLE)
    if named:
        path = Path(named).expanduser()
        if not path.is_file():
            raise ConfigurationError(f"{CONFIG_FILE_VARIABLE} names {path}, which is no file. Correct or unset it.")
        return path
    path = (config_dir or Path.cwd()) / CONFIG_FILE_NAME
    return path if path.is_file() else None


def _from_file(path: Path) -> dict[str, Any]:
    """Read the YAML file; ``audit: {required: true}`` and ``audit_required: true`` mean the same."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        # Not chained: a traceback would show the line, which may hold the store's password.
        raise ConfigurationError(f"{path} can't be read: {_yaml_problem(error)}.") from None
    except (OSError, ValueError) as error:  # a date that there is not is a ValueError
        raise ConfigurationError(f"{path} can't be read: {str(error).rstrip('.')}.") from error
    if content is None:
        return {}
    if not isinstance(content, dict):
        raise ConfigurationError(f"{path} must hold settings by name, not {type(content).__name__}.")
    flat: dict[str, Any] = {}
    for name, value in content.items():
        if isinstance(value, dict) and name not in Settings.model_fields:
            flat.update({f"{name}_{key}": inner for key, inner in value.items()})
        else:
            flat[str(name)] = value
    return flat


def _yaml_problem(error: yaml.YAMLError) -> str:
    """What is wrong and where, without what stands there."""
    if not isinstance(error, yaml.MarkedYAMLError):
        return str(error).partition("\n")[0]
    # Of the names that are quoted, a value may be one that was left without quotes and begins with * or !.
    problem = _QUOTED_NAME.sub(r"\1", ": ".join(part for part in (error.context, error.problem) if part))
    mark = error.problem_mark or error.context_mark
    return f"{problem} in line {mark.line + 1}, column {mark.column + 1}" if mark else problem


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    known = {PREFIX + name.upper(): name for name in Settings.model_fields}
    unknown = {
        key[len(PREFIX) :].lower(): value
        for key, value in environ.items()
        if key.startswith(PREFIX)
        and key not in known
        and key not in (CONFIG_FILE_VARIABLE, RESOLVED_VARIABLE)
        and not _OF_KUBERNETES.fullmatch(key)
    }
    source = EnvSettingsSource(Settings)
    source.env_vars = {key.lower(): value for key, value in environ.items() if key in known and value}
    try:
        return {**source(), **unknown}
    except ValueError as error:
        raise ConfigurationError(
            f"{error}. A list setting is written as JSON in the environment, such as '[\"brand\"]'."
        ) from error


def _as_variable(value: Any) -> str:
    import json  # noqa: PLC0415  # only when a relay is started

    return json.dumps(value)


def _spell(name: str, origin: Origin, config_file: Path | None) -> str:
    if origin is Origin.ENVIRONMENT:
        return f"environment variable {PREFIX}{name.upper()}"
    if origin is Origin.SERVICE:
        return f"setting {name!r} that the service wrote into its data directory"
    return f"setting {name!r} in {config_file}" if origin is Origin.FILE else f"setting {name!r}"


def _unknown(name: str, origin: Origin, config_file: Path | None) -> str:
    close = difflib.get_close_matches(name, Settings.model_fields, n=1)
    meant = close[0] if close else ""
    if meant and origin is Origin.ENVIRONMENT:
        meant = PREFIX + meant.upper()
    mend = f"Did you mean {meant!r}?" if meant else "`e2i-serving settings` lists all."
    return f"Unknown {_spell(name, origin, config_file)}. {mend}"


def _invalid(detail: Any, origins: Mapping[str, Origin], config_file: Path | None) -> str:
    name = str(detail["loc"][0]) if detail["loc"] else "?"
    where = _spell(name, origins.get(name, Origin.ARGUMENT), config_file)
    return f"Bad value for {where}: {detail['msg'].rstrip('.')}; `e2i-serving settings` shows what it takes."
