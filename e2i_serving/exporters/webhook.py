"""The webhook: batches of CloudEvents, signed."""

from __future__ import annotations

import base64
import hashlib
import hmac
import time
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import quote

from e2i_serving.exceptions import ConfigurationError
from e2i_serving.exporters.documents import as_json, document, event_id, event_time_ns, iso_time, kind_of
from e2i_serving.exporters.transport import Transport
from e2i_serving.record import Entry

WEBHOOK: Final = "webhook"
"""Name of the destination."""

BATCH_EVENTS: Final = 500
BATCH_BYTES: Final = 1024 * 1024
"""Bytes of JSON after which a post takes no more events."""
SHORTEST_SECRET: Final = 16
ENCODED: Final = "whsec_"
"""How a secret begins that is the base64 of its bytes, as Standard Webhooks has it."""


class WebhookExporter:
    """Posts entries as CloudEvents 1.0 in batches of JSON, with the signature of Standard Webhooks.

    An event's ``source`` and ``id`` are the same whenever it is sent. The signature is HMAC-SHA256 over
    ``<webhook-id>.<webhook-timestamp>.<body>``, in base64, in the header ``webhook-signature`` behind ``v1,``.

    Args:
        url: Where to.
        secret: Signs what is posted: text, or ``whsec_`` and base64.
        timeout_seconds: Longest that a post may take.

    Raises:
        ConfigurationError: The address is no HTTP address, or the secret is too short or no base64.
    """

    name = WEBHOOK

    def __init__(self, url: str, secret: str, *, timeout_seconds: float = 10.0) -> None:
        self._secret = _key(secret)
        self._transport = Transport(
            "The webhook",
            url,
            {"Content-Type": "application/cloudevents-batch+json; charset=utf-8"},
            timeout_seconds=timeout_seconds,
            mend_denied="Check webhook_secret on both sides.",
            answers_pages=True,  # web frameworks call any text so, unless told otherwise
        )

    def export(self, entries: Sequence[Entry]) -> None:
        """Post entries; see ``Exporter.export``."""
        batch: list[bytes] = []
        names: list[str] = []
        size = 0
        for entry in entries:
            text = as_json(cloud_event(entry))
            if batch and (len(batch) == BATCH_EVENTS or size + len(text) > BATCH_BYTES):
                self._post(names, batch)
                batch, names, size = [], [], 0
            batch.append(text)
            names.append(event_id(entry))
            size += len(text)
        self._post(names, batch)

    def check(self) -> None:
        """Post a batch without an event."""
        self._post([], [])

    def force_flush(self, timeout_seconds: float) -> bool:  # noqa: ARG002  # as the Protocol has it
        """Nothing is held back."""
        return True

    def shutdown(self) -> None:
        """Close the connections."""
        self._transport.close()

    def _post(self, names: list[str], batch: list[bytes]) -> None:
        body = b"[" + b",".join(batch) + b"]"
        number = "msg_" + hashlib.sha256("\n".join(names).encode()).hexdigest()[:32]
        self._transport.send("POST", "", body, headers=signature(self._secret, number, int(time.time()), body))


def _key(secret: str) -> bytes:
    """What a secret signs with, as those that verify have it."""
    if not secret.startswith(ENCODED):
        if len(secret) < SHORTEST_SECRET:
            raise ConfigurationError(f"webhook_secret needs at least {SHORTEST_SECRET} characters.")
        return secret.encode()
    try:
        key = base64.b64decode(secret.removeprefix(ENCODED), validate=True)
    except ValueError:
        raise ConfigurationError(f"webhook_secret is no base64 behind {ENCODED}. Copy all of it.") from None
    if len(key) < SHORTEST_SECRET:
        raise ConfigurationError(f"webhook_secret needs at least {SHORTEST_SECRET} bytes, in base64 behind {ENCODED}.")
    return key


def cloud_event(entry: Entry) -> dict[str, Any]:
    """An entry as a CloudEvent."""
    event: dict[str, Any] = {
        "specversion": "1.0",
        "id": event_id(entry),
        "source": f"/e2i-serving/{quote(entry.life.service or 'unknown')}",
        "type": f"e2i_serving.{kind_of(entry)}",
        "datacontenttype": "application/json",
        "data": document(entry),
    }
    if subject := getattr(entry.body, "prediction_id", ""):
        event["subject"] = subject
    if (time_ns := event_time_ns(entry)) > 0:
        event["time"] = iso_time(time_ns)
    return event


def signature(secret: bytes, number: str, at: int, body: bytes) -> dict[str, str]:
    """The headers that sign a post.

    Args:
        secret: The secret.
        number: The post's id.
        at: When it is sent, seconds since the epoch.
        body: The body.
    """
    signed = hmac.digest(secret, b"%s.%d.%s" % (number.encode(), at, body), "sha256")
    return {
        "webhook-id": number,
        "webhook-timestamp": str(at),
        "webhook-signature": f"v1,{base64.b64encode(signed).decode()}",
    }
