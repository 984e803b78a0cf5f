"""Headers that were not taken over, named so that they can be counted."""

from __future__ import annotations

from typing import Any

REFUSED = "refused"
"""Where propagators name the headers whose value was malformed."""


def refuse(header: str, into: dict[str, Any]) -> None:
    """Note that a header's value was not taken over.

    Args:
        header: The header's name, one of the propagator's own.
        into: What is being extracted.
    """
    into.setdefault(REFUSED, []).append(header)
