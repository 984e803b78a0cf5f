"""How a store's URL is shown."""

from __future__ import annotations

import re
from typing import Final

_USER_PASSWORD: Final = re.compile(r"(://[^/?#\s]*?):[^/?#\s]*@")
_SECRET_PARAMETER: Final = re.compile(r"(?i)([?&][^=&#\s]*(?:password|passwd|secret|token|key)=)[^&#\s]*")
_LAST_RESORT: Final = re.compile(r"(://[^:@\s]*):.*@")


def masked_url(url: str) -> str:
    """A URL with its password, and parameters named like secrets, replaced by ``***``.

    Args:
        url: Any text; what is no URL comes back as it is.

    Returns:
        Text that may be logged or shown.
    """
    masked = _USER_PASSWORD.sub(r"\1:***@", url)
    if masked == url:
        masked = _LAST_RESORT.sub(r"\1:***@", url)  # a password with an unquoted slash is still one
    return _SECRET_PARAMETER.sub(r"\1***", masked)
