"""W3C Baggage (https://www.w3.org/TR/baggage/): what a calling service says of the request, and we say onward."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from e2i_serving.context import RequestContext
from e2i_serving.propagation.refusals import refuse
from e2i_serving.propagation.request_id import ACCEPTED_ID

REQUEST_ID = "e2i.request_id"
PREDICTION_ID = "e2i.prediction_id"
LABEL_PREFIX = "e2i.label."

LONGEST = 8192
"""Most bytes of a header that is read: what the specification lets a platform refuse beyond."""
MOST_MEMBERS = 64
LONGEST_VALUE = 256

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128}")


class BaggagePropagator:
    """Reads ``baggage``: its members, among them the request id, prediction id and labels of the calling service.

    Members that are malformed or too long are left out, as are all beyond the 64th.
    """

    fields = (b"baggage",)

    def extract(self, headers: Mapping[bytes, bytes], into: dict[str, Any]) -> None:
        """Put the members into ``into``, and the request's ids where no header of their own gave them."""
        value = headers.get(b"baggage")
        if value is None:
            return
        members = _members(value) if len(value) <= LONGEST else {}
        if not members:
            refuse("baggage", into)
            return
        into["baggage"] = members
        request_id = members.get(REQUEST_ID, "")
        if ACCEPTED_ID.fullmatch(request_id.encode()):
            into.setdefault("request_id", request_id)
        caller = members.get(PREDICTION_ID, "")
        if ACCEPTED_ID.fullmatch(caller.encode()):
            into["parent_request_id"] = caller

    def inject(self, context: RequestContext) -> Sequence[tuple[bytes, bytes]]:  # noqa: ARG002  # a Propagator's signature
        """Nothing: baggage goes onward, with OpenTelemetry's context, and never back."""
        return ()


def _members(value: bytes) -> dict[str, str]:
    found: dict[str, str] = {}
    for member in value.decode("ascii", "replace").split(",")[:MOST_MEMBERS]:
        name, separator, text = member.partition(";")[0].partition("=")
        name = name.strip()
        if not (separator and _TOKEN.fullmatch(name)):
            continue
        text = unquote(text.strip())
        if len(text) <= LONGEST_VALUE and text.isprintable():
            found[name] = text
    return found
