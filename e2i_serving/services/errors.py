"""Errors of a request, in the form in which BentoML answers 400."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from bentoml.exceptions import BentoMLException
from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from e2i_serving.exceptions import FeatureError

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


_CALLERS: Final = frozenset({"missing", "null", "invalid"})
"""Kinds of feature errors that another request would not meet."""


class FeaturesRefused(BentoMLException):
    """A prediction whose features can't be had, answered with 422 where the entity is the reason, else with 503."""


def refused_features(error: FeatureError) -> FeaturesRefused:
    """A feature error in the form in which BentoML answers it."""
    status = HTTPStatus.UNPROCESSABLE_ENTITY if error.kind in _CALLERS else HTTPStatus.SERVICE_UNAVAILABLE
    return FeaturesRefused(f"{error} ({error.kind})", error_code=status)
