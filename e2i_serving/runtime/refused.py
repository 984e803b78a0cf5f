"""Requests that are refused for a reason that their caller may read, whatever the status."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, Final

from bentoml.exceptions import BentoMLException

from e2i_serving.record import Outcome

RETRY_AFTER_SECONDS: Final = 5
"""When a caller may try again whose prediction could not be put on record."""


class RefusedRequest(BentoMLException):
    """An error that is answered as it is. BentoML itself hides the message of any status from 500 on.

    Args:
        message: What was wrong.
        status: The status that it is answered with.
        detail: More about it, for programs.
        outcome: How the request ended, where the status alone would say otherwise.
    """

    def __init__(self, message: str, status: HTTPStatus, detail: Any, *, outcome: Outcome | None = None) -> None:
        super().__init__(message, error_code=status)
        self.detail = detail
        self.outcome = outcome

    headers: Mapping[str, str] = {}
    """Headers of the answer, beside those of any."""

    def body(self) -> dict[str, Any]:
        """What is answered."""
        return {"error": self.message, "detail": self.detail}


class NotOnRecord(RefusedRequest):
    """A prediction that must be on record, and can't be.

    Args:
        reason: Why, in a word.
    """

    headers: Mapping[str, str] = {"Retry-After": str(RETRY_AFTER_SECONDS)}

    def __init__(self, reason: str) -> None:
        message = "The prediction can't be put on record, which is required here."
        super().__init__(message, HTTPStatus.SERVICE_UNAVAILABLE, reason, outcome=Outcome.REJECTED)
