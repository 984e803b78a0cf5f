"""Requests that are refused for a reason that their caller may read, whatever the status."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

from bentoml.exceptions import BentoMLException

from e2i_serving.record import Outcome


class RefusedRequest(BentoMLException):
    """An error that is answered as it is. BentoML itself hides the message of any status from 500 on.

    Args:
        message: What was wrong.
        status: The status that it is answered with.
        detail: More about it, for programs.
        outcome: How the request ended, where the status alone would say otherwise.
    """

    def __init__(
        self, message: str, status: HTTPStatus, detail: dict[str, Any], *, outcome: Outcome | None = None
    ) -> None:
        super().__init__(message, error_code=status)
        self.detail = detail
        self.outcome = outcome

    def body(self) -> dict[str, Any]:
        """What is answered."""
        return {"error": self.message, "detail": self.detail}
