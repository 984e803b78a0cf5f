"""A service's settings in its data directory, so that commands run beside it do as the service does."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import SecretStr

from e2i_serving.exceptions import ConfigurationError
from e2i_serving.settings.declared import Settings

if TYPE_CHECKING:
    from e2i_serving.settings.loading import ResolvedSettings

KEPT_NAME = "settings.json"
"""The file in a data directory; readable by its owner only, since a store's URL may hold a password."""


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
