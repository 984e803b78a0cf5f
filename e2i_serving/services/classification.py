"""Classification: a class and its probabilities an instance."""

from __future__ import annotations

from typing import Any, ClassVar

import bentoml
import numpy as np

from e2i_serving.exceptions import ConfigurationError
from e2i_serving.record import Column, Constant, Matrix, Values
from e2i_serving.services.base import PredictionService
from e2i_serving.services.loading import as_probabilities, require_probabilities
from e2i_serving.services.requests import PredictionRequest, PredictionRequestBody
from e2i_serving.services.responses import Answer, ClassificationResponse


class ClassificationService(PredictionService):
    """Serves a classifier with ``predict_proba``, or with ``predict`` giving probabilities.

    Attributes:
        class_names: Names of the classes in the order of the probability columns; taken from ``class_names`` in the
            model's metadata, or from its ``classes_``, when not given.
        threshold: For two classes, the score at and above which the second one is predicted.
    """

    task: ClassVar[str] = "classification"
    class_names: tuple[Any, ...] = ()
    threshold: float = 0.5

    @bentoml.api(input_spec=PredictionRequestBody, output_spec=ClassificationResponse)
    def predict(self, request: PredictionRequest, /) -> Answer:
        """Predict the class of one or many instances."""
        return self._answer(request)

    def infer(self, inputs: Any) -> Any:
        """Class probabilities, shape ``(n, classes)``."""
        predict_proba = getattr(self.estimator, "predict_proba", None)
        return predict_proba(inputs) if predict_proba is not None else as_probabilities(self.estimator.predict(inputs))

    def postprocess(self, raw: Any, request: PredictionRequest) -> tuple[dict[str, Column], dict[str, Any]]:
        """Decide on a class: by threshold for two, by the highest probability for more."""
        probabilities = np.asarray(raw, dtype=np.float64)
        names = self.class_names or tuple(range(probabilities.shape[-1]))
        if probabilities.shape != (len(request.instances), len(names)):
            raise ValueError(
                f"{type(self).__name__}.infer must give one probability for each instance and class, shape "
                f"{(len(request.instances), len(names))}; it gave {probabilities.shape}."
            )
        binary = len(names) == 2  # noqa: PLR2004  # two classes
        if binary:
            scores = probabilities[:, 1]
            chosen = (scores >= self.threshold).tolist()
        else:
            chosen = probabilities.argmax(axis=1).tolist()
            scores = probabilities.max(axis=1)
        predictions = [names[index] for index in chosen]
        outputs: dict[str, Column] = {
            "prediction": Values(predictions),
            "score": Matrix.of(scores),
            "probabilities": Matrix.of(probabilities),
        }
        body: dict[str, Any] = {
            "predictions": predictions,
            "scores": scores,
            "probabilities": probabilities,
            "classes": names,
        }
        if binary:
            outputs["threshold"] = Constant(self.threshold)
            body["threshold"] = self.threshold
        return outputs, body

    def e2i_load(self) -> None:
        """Load the model, and refuse one that gives no probabilities unless ``infer`` is overridden."""
        super().e2i_load()
        if type(self).infer is ClassificationService.infer:
            require_probabilities(type(self).__name__, self.estimator)

    def model_classes(self) -> tuple[str, ...]:
        """The classes' names, found where they are given first: the class, the metadata, the model."""
        names = self.class_names
        if not names and self.model is not None:
            names = tuple(self.model.info.metadata.get("class_names") or ())
        known = getattr(self.estimator, "classes_", None)
        if not names and known is not None:
            names = tuple(np.asarray(known).tolist())
        if known is not None and len(names) != len(known):
            raise ConfigurationError(
                f"{type(self).__name__} names {len(names)} classes, {', '.join(map(str, names))}, "
                f"but the model has {len(known)}. Correct class_names."
            )
        self.class_names = names
        return tuple(str(name) for name in names)
