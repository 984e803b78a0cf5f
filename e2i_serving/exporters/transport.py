"""HTTP as exporters use it: bounded in time and memory, and every answer made into what the relay understands."""

from __future__ import annotations

import gzip
import time
from collections.abc import Mapping
from email.utils import parsedate_to_datetime
from typing import Final, NamedTuple

import httpx

from e2i_serving.exceptions import ConfigurationError, RefusedError, StoreError

DENIED_SECONDS: Final = 30.0
"""How long a receiver that does not let us in is left alone; someone has to mend something there."""
ANSWER_BYTES: Final = 64 * 1024
"""How much of an answer is read."""

_REASON: Final = 300
_DENIED: Final = frozenset({401, 403})
_REFUSED: Final = frozenset({400, 409, 413, 422})
_GZIP_LEVEL: Final = 1


class Answer(NamedTuple):
    """What a receiver answered."""

    status: int
    headers: httpx.Headers
    body: bytes


class Transport:
    """Sends requests to one receiver, one after another.

    Args:
        receiver: What to call the receiver in messages.
        url: Its address, to which paths are added.
        headers: Sent with every request.
        timeout_seconds: Longest that a request may take as a whole.
        mend_denied: What to do when it does not let us in.
        answers_pages: Whether a page of HTML may be its own answer, and not that of a proxy's sign-in in its place.

    Raises:
        ConfigurationError: The address is no HTTP address.

    Attributes:
        url: The address, without a slash at its end.
    """

    def __init__(
        self,
        receiver: str,
        url: str,
        headers: Mapping[str, str],
        *,
        timeout_seconds: float,
        mend_denied: str,
        answers_pages: bool = False,
    ) -> None:
        try:
            parsed = httpx.URL(url)
        except (httpx.InvalidURL, TypeError) as error:
            raise ConfigurationError(f"{receiver}'s address {url!r} is malformed: {error}.") from error
        if parsed.scheme not in {"http", "https"} or not parsed.host:
            raise ConfigurationError(f"{receiver}'s address {url!r} is none of http:// or https://.")
        self.url = url.rstrip("/")
        self._receiver = receiver
        self._mend_denied = mend_denied
        self._answers_pages = answers_pages
        self._timeout_seconds = timeout_seconds
        try:
            self._client = httpx.Client(headers=dict(headers), timeout=timeout_seconds, follow_redirects=False)
        except UnicodeEncodeError as error:
            raise ConfigurationError(f"What is set for {receiver} does not fit into a header: use ASCII.") from error
        # Answers are read as they come, and bounded: what was compressed could not be read, nor told how long it is.
        self._client.headers["Accept-Encoding"] = "identity"

    def send(
        self,
        method: str,
        path: str,
        body: bytes = b"",
        *,
        headers: Mapping[str, str] | None = None,
        compress: bool = False,
    ) -> Answer:
        """Send a request, and wait for an answer that says it was taken.

        Args:
            method: The HTTP method.
            path: Added to the address.
            body: The body.
            headers: Further headers.
            compress: Send the body with gzip.

        Raises:
            RefusedError: What was sent is refused for good.
            StoreError: Anything else that is not a success.
        """
        if compress:
            body = gzip.compress(body, _GZIP_LEVEL)
            headers = {**(headers or {}), "Content-Encoding": "gzip"}
        if self._client.is_closed:
            raise StoreError(f"The exporter to {self._receiver} was shut down.")
        address = self.url + path
        try:
            answer = self._ask(method, address, body, headers or {})
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            reason = str(error) or type(error).__name__
            raise StoreError(f"{self._receiver} can't be reached at {address}: {reason}") from error
        self._judge(address, answer)
        return answer

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def _ask(self, method: str, address: str, body: bytes, headers: Mapping[str, str]) -> Answer:
        until = time.monotonic() + self._timeout_seconds
        with self._client.stream(method, address, content=body or None, headers=dict(headers)) as response:
            read = bytearray()
            for chunk in response.iter_raw():
                read += chunk
                if time.monotonic() > until:  # else a receiver that sends a byte now and then holds us for ever
                    raise httpx.ReadTimeout("the answer did not end in time")
                if len(read) > ANSWER_BYTES:
                    break
            return Answer(response.status_code, response.headers, bytes(read[:ANSWER_BYTES]))

    def _judge(self, address: str, answer: Answer) -> None:
        status = answer.status
        said = f"{self._receiver} answered {status} at {address}"
        if httpx.codes.is_success(status):
            if not self._answers_pages and answer.headers.get("content-type", "").startswith("text/html"):
                raise StoreError(f"{said} with a page of HTML, as something else does that stands in its place.")
            return
        reason = _reason(answer)
        if status in _DENIED:
            raise StoreError(f"{said}: it does not let us in. {self._mend_denied} {reason}", retry_after=DENIED_SECONDS)
        if status in _REFUSED:
            raise RefusedError(f"{said}: {reason}")
        raise StoreError(f"{said}: {reason}", retry_after=retry_after(answer.headers))


def retry_after(headers: Mapping[str, str]) -> float:
    """For how many seconds a receiver asks to be left alone; 0 when it says nothing that can be read.

    Read are ``Retry-After``, in seconds or as a date, and ``RateLimit-Reset``, in seconds; the longer one holds.
    """
    return max(_seconds(headers.get("retry-after", "")), _seconds(headers.get("ratelimit-reset", "")), 0.0)


def _seconds(text: str) -> float:
    text = text.strip()
    try:
        seconds = float(text)
    except ValueError:
        try:
            return parsedate_to_datetime(text).timestamp() - time.time()
        except (ValueError, OverflowError):
            return 0.0
    return seconds if 0 <= seconds < float("inf") else 0.0


def _reason(answer: Answer) -> str:
    """The beginning of an answer, on one line."""
    text = answer.body[: _REASON * 4].decode("utf-8", "replace")
    return " ".join("".join(each if each.isprintable() else " " for each in text).split())[:_REASON]
