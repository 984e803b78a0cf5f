"""The answers: built as arrays, encoded at once, documented as schemas."""

from __future__ import annotations

from typing import Any, ClassVar

import msgspec
import numpy as np
from _bentoml_sdk.io_models import IODescriptor
from pydantic import ConfigDict, Field
from starlette.responses import Response


class Answer(msgspec.Struct, frozen=True, omit_defaults=True):
    """What every answer says.

    Attributes:
        prediction_id: Under which it stands on record.
        model_name: The model that answered.
        model_version: Its version.
        result: What the kind of service adds, by field name.
    """

    captures_items: ClassVar[bool] = True
    """That a base has put on record what is answered; ``runtime/instrument.py`` asks for it."""

    prediction_id: str
    model_name: str
    model_version: str
    result: dict[str, Any]

    def fields(self) -> dict[str, Any]:
        """The answer's fields, as they stand in its body."""
        return {
            "prediction_id": self.prediction_id,
            "model_name": self.model_name,
            "model_version": self.model_version,
            **self.result,
        }


def _plain_array(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    raise NotImplementedError(f"{type(value).__name__} has no JSON form")


_encoder = msgspec.json.Encoder(enc_hook=_plain_array)


def encode(answer: Answer) -> bytes:
    """An answer as JSON; NaN and infinities become null."""
    return _encoder.encode(answer.fields())


class PredictionResponse(IODescriptor):
    """The answer to a request for predictions."""

    model_config = ConfigDict(protected_namespaces=())

    prediction_id: str = Field(description="Under which the prediction stands in the audit trail.")
    model_name: str = Field(description="The model's name.")
    model_version: str = Field(description="The model's version.")

    @classmethod
    async def to_http_response(cls, obj: Any, serde: Any) -> Response:
        """Encode an answer."""
        if isinstance(obj, Answer):
            if getattr(serde, "media_type", "application/json") == "application/json":
                return Response(encode(obj), media_type="application/json")
            obj = cls.model_validate_json(encode(obj))
        response: Response = await super().to_http_response(obj, serde)
        return response


class ClassificationResponse(PredictionResponse):
    """Classes and their probabilities."""

    predictions: list[Any] = Field(description="The class of each instance.")
    scores: list[float | None] = Field(
        description="Probability of the second class for two classes, of the predicted one for more."
    )
    probabilities: list[list[float | None]] = Field(description="Of each class, in the order of `classes`.")
    classes: list[Any] = Field(description="The classes.")
    threshold: float | None = Field(
        None, description="At and above which score the second of two classes is predicted."
    )


class RegressionResponse(PredictionResponse):
    """Values, with intervals when the model gives them."""

    predictions: list[float | None] = Field(description="The value of each instance.")
    intervals: list[list[float | None]] | None = Field(None, description="Lower and upper bound of each value.")
    level: float | None = Field(None, description="The probability with which an interval covers the value.")


class CausalResponse(PredictionResponse):
    """Treatment effects, and the treatment they recommend."""

    effects: list[float | None] = Field(description="Effect of treating each instance, against not treating it.")
    intervals: list[list[float | None]] | None = Field(None, description="Lower and upper bound of each effect.")
    level: float | None = Field(None, description="The probability with which an interval covers the effect.")
    treatments: list[str] = Field(description="`treat` where the effect is above the threshold, else `control`.")
    threshold: float = Field(description="Above which effect treating is recommended.")
    outcomes_control: list[float | None] | None = Field(None, description="Expected outcome untreated.")
    outcomes_treated: list[float | None] | None = Field(None, description="Expected outcome treated.")
    propensities: list[float | None] | None = Field(None, description="Probability of having been treated.")


class ModelInfoResponse(IODescriptor):
    """What is served."""

    name: str = Field(description="The model's name.")
    version: str = Field(description="The model's version.")
    digest: str = Field(description="SHA-256 over the model's files.")
    task: str = Field(description="What it does.")
    framework: str = Field(description="The BentoML module that saved it.")
    feature_names: list[str] = Field(description="Its features, in order.")
    classes: list[str] = Field(description="Its classes, in order.")
    metadata: dict[str, Any] = Field(description="The metadata saved with it.")
    lineage: dict[str, str] = Field(
        {}, description="Training run, training data and feature service, as saved with it."
    )
