"""The Grafana dashboards that come with the package."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from e2i_serving.exceptions import ConfigurationError

_PACKAGE: Final = Path(__file__).resolve().parents[1]
_PLACES: Final = (_PACKAGE / "_dashboards", _PACKAGE.parent / "dashboards")
"""In the wheel, and in the source tree."""


def dashboard_files() -> dict[str, str]:
    """The text of each dashboard by its file's name.

    Raises:
        ConfigurationError: They are missing from the installation.
    """
    for place in _PLACES:
        found = {path.name: path.read_text(encoding="utf-8") for path in sorted(place.glob("e2i-*.json"))}
        if found:
            return found
    raise ConfigurationError("This installation has no dashboards. Install the package again, from its wheel.")
