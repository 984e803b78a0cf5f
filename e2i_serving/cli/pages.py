"""Pages of the documentation that a project or a command carries, so that they are at hand where only the wheel is."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from e2i_serving.exceptions import ConfigurationError

_PACKAGE: Final = Path(__file__).resolve().parents[1]
_PLACES: Final = (_PACKAGE / "_docs", _PACKAGE.parent / "docs")
"""In the wheel, which has some of the pages, and in the source tree."""

_LINK: Final = re.compile(r"\[([^\]]+)\]\((?!#)[^)]*\)")
_HEADING: Final = re.compile(r"(?m)^## (.+)$")


def page(name: str) -> str:
    """A page, in Markdown; of links to other pages, which are not beside it, the words.

    Args:
        name: The name of its file.

    Raises:
        ConfigurationError: The page is missing from the installation.
    """
    for place in _PLACES:
        if (place / name).is_file():
            return _LINK.sub(r"\1", (place / name).read_text(encoding="utf-8"))
    raise ConfigurationError(f"This installation has no page {name}. Install the package again, from its wheel.")


def sections(name: str) -> dict[str, str]:
    """The text of each section of a page, by its heading.

    Args:
        name: As for ``page``.

    Raises:
        ConfigurationError: As for ``page``.
    """
    _, *parts = _HEADING.split(page(name))
    return {heading: text.strip() for heading, text in zip(parts[::2], parts[1::2], strict=True)}
