"""Errors of a request, in the form in which they are answered."""

from __future__ import annotations

from http import HTTPStatus
from typing import Final

from pydantic import ValidationError
from pydantic_core import InitErrorDetails, PydanticCustomError

from e2i_serving.exceptions import FeatureError
from e2i_serving.record import Outcome
from e2i_serving.runtime.refused import RefusedRequest

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


_CALLERS: Final = frozenset({"missing", "null", "stale", "invalid"})
"""Kinds of feature errors that are about the entity, and not about the store."""


class FeaturesRefused(RefusedRequest):
    """A prediction whose features can't be had: answered with 422 where the entity is the reason, else with 503."""


def refused_features(error: FeatureError) -> FeaturesRefused:
    """A feature error in the form in which it is answered."""
    detail = {"type": error.kind, "features": list(error.features)}
    if error.kind in _CALLERS:
        return FeaturesRefused(str(error), HTTPStatus.UNPROCESSABLE_ENTITY, detail)
    # It was tried, so it was not rejected.
    return FeaturesRefused(str(error), HTTPStatus.SERVICE_UNAVAILABLE, detail, outcome=Outcome.ERROR)
