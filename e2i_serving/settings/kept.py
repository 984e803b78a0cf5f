"""A service's settings in its data directory, so that commands run beside it do as the service does."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from pydantic import SecretStr, ValidationError

from e2i_serving.exceptions import ConfigurationError
from e2i_serving.settings.declared import Settings

if TYPE_CHECKING:
    from e2i_serving.settings.loading import ResolvedSettings

KEPT_NAME = "settings.json"
"""The file in a data directory; readable by its owner only, since URLs stand in it as they are, passwords included."""

OF_A_SERVICE: Final = frozenset(
    {
        *("data_dir", "allow_network_data_dir", "instance", "environment", "namespace", "pod", "revision", "arm"),
        *("audit_enabled", "audit_required", "durability", "segment_bytes", "segment_seconds", "record_bytes"),
        *("failure_bytes", "sampling_rate", "sampling_always", "sampling_errors", "retention_class"),
        *("failure_retention_class", "labels", "label_values", "label_series", "metrics_enabled"),
        *("access_log_enabled", "access_log_sample_rate", "log_format", "log_level", "log_exporter"),
        *("slow_request_seconds", "trace_sample_rate", "instrument", "sentry_dsn", "replace_middlewares"),
        *("gc_freeze", "relay_enabled"),
    }
)
"""Settings that workers go by. By all others the relay does, or a command: of a data directory there is one of each."""

_SHOWN: Final = frozenset(
    {"instance", "environment", "namespace", "pod", "revision", "arm", "trace_sample_rate", "log_format", "log_level"}
)
"""Of these, what a relay shows of itself, in its spans, metrics and log lines: that of whoever began last."""

_FINGERPRINTS: Final = "fingerprints"
_ROUNDS: Final = 100_000
_SALT_BYTES: Final = 16


def keep_settings(resolved: ResolvedSettings, data_dir: Path) -> None:
    """Write down what was set, without secrets, for ``load_settings(data_dir=...)``.

    Args:
        resolved: The service's settings.
        data_dir: Its data directory.

    Raises:
        OSError: It can't be written there.
    """
    values = resolved.settings.model_dump(mode="json")
    kept = {
        name: values[name]
        for name, origin in resolved.origins.items()
        if origin != "default" and name != "data_dir" and not isinstance(getattr(resolved.settings, name), SecretStr)
    }
    fingerprints = _fingerprints(resolved.settings, (_read(data_dir) or {}).get(_FINGERPRINTS))
    if fingerprints:
        kept[_FINGERPRINTS] = fingerprints
    content = json.dumps(kept, sort_keys=True).encode()
    target = data_dir / KEPT_NAME
    draft = target.with_suffix(f".{os.getpid()}")
    fd = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(content)
    draft.replace(target)


def kept_settings(data_dir: Path) -> dict[str, Any]:
    """What a service wrote down; nothing where none did.

    Names that this release does not know are left out: another one may have written them.

    Raises:
        ConfigurationError: The file can't be read.
    """
    path = data_dir / KEPT_NAME
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ConfigurationError(
            f"{path} can't be read: {error}. Delete it; the service writes it at its start."
        ) from error
    known = content.items() if isinstance(content, dict) else ()
    return {name: value for name, value in known if name in Settings.model_fields}


def kept_for_relay(data_dir: Path) -> dict[str, Any] | None:
    """Those of the settings written down that a relay goes by, to be compared; ``None`` where none can be read."""
    kept = _read(data_dir)
    if kept is None:
        return None
    return {name: value for name, value in kept.items() if name not in OF_A_SERVICE or name in _SHOWN}


def differing(settings: Settings, others: Settings) -> list[str]:
    """The names of those settings that differ and that services must agree on if they share a data directory."""
    return [
        name
        for name in Settings.model_fields
        if name not in OF_A_SERVICE and getattr(settings, name) != getattr(others, name)
    ]


def differing_from_kept(settings: Settings, data_dir: Path) -> list[str]:
    """As ``differing``, from what is written down; nothing where that is nothing, or can't be read."""
    kept = _read(data_dir)
    if kept is None:
        return []
    try:
        others = Settings.model_validate({name: kept[name] for name in kept if name in Settings.model_fields})
    except ValidationError:
        return []
    theirs = kept.get(_FINGERPRINTS) or {}
    ours = _fingerprints(settings, theirs)
    secret = {name for name in {*ours, *theirs} if ours.get(name) != theirs.get(name)}
    plain = {name for name in differing(settings, others) if not isinstance(getattr(settings, name), SecretStr)}
    return sorted(secret | plain)


def _read(data_dir: Path) -> dict[str, Any] | None:
    try:
        content = json.loads((data_dir / KEPT_NAME).read_bytes())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _fingerprints(settings: Settings, before: dict[str, str] | None) -> dict[str, str]:
    """By which secrets can be told apart, and not be found out; those of before where they are of the same secrets."""
    found: dict[str, str] = {}
    for name in Settings.model_fields:
        secret = getattr(settings, name)
        if name not in OF_A_SERVICE and isinstance(secret, SecretStr) and secret.get_secret_value():
            known = (before or {}).get(name, "")
            salt = known.partition(":")[0] or os.urandom(_SALT_BYTES).hex()
            digest = hashlib.pbkdf2_hmac("sha256", secret.get_secret_value().encode(), salt.encode(), _ROUNDS).hex()
            found[name] = f"{salt}:{digest}"
    return found
