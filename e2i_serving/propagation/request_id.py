"""The caller's own request id, ``X-Request-ID``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from e2i_serving.context import RequestContext

_ACCEPTED = re.compile(rb"[A-Za-z0-9._:/+=@,#~-]{1,128}")


class RequestIdPropagator:
    """Reads and writes ``X-Request-ID``.

    An id of more than 128 characters, or with one outside ``A-Za-z0-9._:/+=@,#~-``, is not taken over, so
    that it can't reach a log line, a header or a page.
    """

    fields = (b"x-request-id",)

    def extract(self, headers: Mapping[bytes, bytes], into: dict[str, Any]) -> None:
        """Put the caller's id into ``into``."""
        value = headers.get(b"x-request-id")
        if value is not None and "request_id" not in into and _ACCEPTED.fullmatch(value):
            into["request_id"] = value.decode()

    def inject(self, context: RequestContext) -> Sequence[tuple[bytes, bytes]]:
        """The id under which the request stands on record."""
        return ((b"x-request-id", context.request_id.encode()),)
