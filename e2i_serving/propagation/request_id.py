"""The caller's own id of the request: ``X-Request-ID``, or ``X-Correlation-ID``."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from e2i_serving.context import RequestContext
from e2i_serving.propagation.refusals import refuse

ACCEPTED_ID: Final = re.compile(rb"[A-Za-z0-9._:/+=@,#~-]{1,128}")


class RequestIdPropagator:
    """Reads ``X-Request-ID``, then ``X-Correlation-ID``, and writes ``X-Request-ID``.

    An id of more than 128 characters, or with one outside ``A-Za-z0-9._:/+=@,#~-``, is not taken over, so
    that it can't reach a log line, a header or a page.
    """

    fields = (b"x-request-id", b"x-correlation-id")

    def extract(self, headers: Mapping[bytes, bytes], into: dict[str, Any]) -> None:
        """Put the caller's id into ``into``."""
        for name in self.fields:
            value = headers.get(name)
            if value is None:
                continue
            if not ACCEPTED_ID.fullmatch(value):
                refuse(name.decode(), into)
            elif "request_id" not in into:
                into["request_id"] = value.decode()

    def inject(self, context: RequestContext) -> Sequence[tuple[bytes, bytes]]:
        """The id under which the request stands on record."""
        return ((b"x-request-id", context.request_id.encode()),)
