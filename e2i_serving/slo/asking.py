"""Asking a service or a Prometheus server over HTTP: bounded, and no secret of an address is ever shown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import httpx

from e2i_serving.exceptions import QueryError

LARGEST_ANSWER: Final = 64 * 1024 * 1024
_SECONDS: Final = 60.0


def opened_client() -> httpx.Client:
    """What asks; to be closed."""
    return httpx.Client(timeout=_SECONDS, follow_redirects=True)


def service_metrics(url: str) -> str:
    """A service's own metrics, in Prometheus' text format as far as can be told.

    Args:
        url: The service, as ``http://host:port``.

    Raises:
        QueryError: It can't be asked, or what answers is no service.
    """
    with opened_client() as client:
        answer = ask(client, f"{url.rstrip('/')}/metrics")
    if answer.status_code != httpx.codes.OK:
        raise QueryError(f"{shown(url)}/metrics answered {answer.status_code}. Is a service there?")
    return answer.text


def ask(client: httpx.Client, url: str, parameters: Mapping[str, Any] | None = None) -> httpx.Response:
    """Get what an address answers.

    Args:
        client: What asks.
        url: The address.
        parameters: Those of the query.

    Raises:
        QueryError: It can't be asked, or answers too much.
    """
    try:
        with client.stream("GET", url, params=parameters) as answer:
            body = bytearray()
            for part in answer.iter_bytes():
                body += part
                if len(body) > LARGEST_ANSWER:
                    raise QueryError(f"{shown(url)} answers more than {LARGEST_ANSWER} bytes. Is it the right address?")
            return httpx.Response(answer.status_code, content=bytes(body))
    except httpx.InvalidURL:
        raise QueryError("The address can't be asked: it is malformed. Correct it.") from None
    except httpx.HTTPError as error:
        raise QueryError(
            f"{shown(url)} can't be asked: {str(error) or type(error).__name__}. Correct the address."
        ) from error


def shown(url: str) -> str:
    """An address without what may be secret in it."""
    try:
        return str(httpx.URL(url).copy_with(username=None, password=None, query=None))
    except httpx.InvalidURL:
        return "The address"
