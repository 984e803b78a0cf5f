"""Errors of a request, in the form in which BentoML answers 400."""

from __future__ import annotations

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

TITLE = "PredictionRequest"


def invalid_request(message: str, *location: str | int) -> ValidationError:
    """An error that BentoML answers with 400, ``{"error", "detail"}``, and that never quotes the input.

    Args:
        message: What is wrong and what is expected.
        location: Where in the body, such as ``"instances", 2``.
    """
    detail = InitErrorDetails(
        type=PydanticCustomError("invalid_request", "{message}", {"message": message}), loc=location, input=None
    )
    return ValidationError.from_exception_data(TITLE, [detail], hide_input=True)
