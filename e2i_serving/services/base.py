"""The base of all prediction services: a template whose steps are timed, and whose every request is on record."""

from __future__ import annotations

import inspect
import time
import warnings
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar

import attrs
import bentoml
import numpy as np
from bentoml.exceptions import BentoMLException

from e2i_serving.exceptions import ConfigurationError
from e2i_serving.features import FeaturePolicy, TimedFeatureStore
from e2i_serving.record import Column, Constant, Matrix, ModelInfo, Values
from e2i_serving.runtime import unlayered
from e2i_serving.runtime.bento import ObservedService
from e2i_serving.runtime.checks import Problem, add_deployment_hook, check
from e2i_serving.runtime.definition import ServiceDefinition, define, definition_of
from e2i_serving.runtime.instrument import UNAUDITED, instrument
from e2i_serving.runtime.labels import FIELD, METHOD, Label, declared_labels
from e2i_serving.runtime.models import ATTRIBUTE as MODEL_ATTRIBUTE
from e2i_serving.runtime.models import ServedModel, describe_model
from e2i_serving.runtime.observation import label_text, observation
from e2i_serving.runtime.plain import columns, member_columns, once, plain
from e2i_serving.services.errors import invalid_request
from e2i_serving.services.frames import frame_of, refuse_arrays, require_frames
from e2i_serving.services.loading import (
    accepts_missing,
    feature_count_of,
    feature_names_of,
    ignore_missing_feature_names,
    import_framework,
    load_model,
)
from e2i_serving.services.mistakes import refuse_mistakes
from e2i_serving.services.requests import (
    EntityPredictionRequestBody,
    MixedPredictionRequestBody,
    PredictionRequest,
    PredictionRequestBody,
)
from e2i_serving.services.responses import Answer, ModelInfoResponse
from e2i_serving.services.retrieval import FeatureRetrieval
from e2i_serving.settings import ResolvedSettings


class PredictionService:
    """Base of ``ClassificationService``, ``RegressionService`` and ``CausalService``.

    A subclass names its model and overrides the steps that are particular to it. It needs no ``__init__``, and
    none needs ``super().__init__()``. ``predict`` runs ``features``, ``preprocess``, ``infer`` and ``postprocess``
    in that order, in a thread.

    Attributes:
        model: Tag of a model in the BentoML store, such as ``"churn:latest"``.
        label_names: Names of the business labels that requests may carry.
        labels_from: Business labels by name, with where each comes from and which values it may have.
        feature_names: Names of the features in the model's order. Taken from the model when not given: from
            ``feature_names`` in its metadata, or from what it was fitted with.
        feature_dtype: ``float``, or ``object`` for a model that takes strings and numbers.
        as_frame: Whether ``features`` gives a pandas DataFrame with ``feature_names`` as its columns, for a
            pipeline that selects columns by name, as a ``ColumnTransformer`` does. With ``feature_dtype = object``
            each column has the dtype of its values, and what is missing is NaN. Needs pandas.
        accepts_missing: Whether the model takes missing values (null, as NaN). Asked of the model when not given.
        feature_service: Name of the feature service that has the model's features. Requests then carry entities, and
            their features are fetched.
        feature_store: Where it is: an ``InMemoryFeatureStore``, a ``FeastFeatureStore`` or one of your own.
        feature_policies: What is done about missing, null and stale features, by feature view.
        feature_timeout: Seconds that fetching them may take.
        feature_cache_seconds: How long fetched features are kept in the worker; 0 for not at all.
        estimator: What ``load`` returned.
    """

    model: ClassVar[Any] = None
    predict: ClassVar[Any]
    task: ClassVar[str] = ""
    label_names: ClassVar[tuple[str, ...]] = ()
    labels_from: ClassVar[Mapping[str, Label]] = {}
    feature_names: tuple[str, ...] = ()
    feature_dtype: ClassVar[type] = float
    as_frame: ClassVar[bool] = False
    accepts_missing: bool | None = None
    feature_service: ClassVar[str] = ""
    feature_store: ClassVar[Any] = None
    feature_policies: ClassVar[Mapping[str, FeaturePolicy]] = {}
    feature_timeout: ClassVar[float] = 1.0
    feature_cache_seconds: ClassVar[float] = 0.0
    estimator: Any = None

    def __init_subclass__(cls, **options: Any) -> None:
        """Check how the class is written, and instrument its API methods."""
        super().__init_subclass__(**options)
        refuse_mistakes(cls)
        model = cls.__dict__.get("model")
        if isinstance(model, str):
            cls.model = ServedModel(model)
        if {"feature_dtype", "feature_service"} & cls.__dict__.keys():
            _choose_body(cls)
        define(cls)
        instrument(cls)
        add_deployment_hook(cls)

    # Steps that a subclass may override.

    def load(self) -> Any:
        """Load what predicts, once, at start-up.

        Returns:
            By default the model named by ``model``, loaded by the BentoML module that saved it; what this
            returns becomes ``self.estimator``.
        """
        return load_model(self.model)

    def features(self, request: PredictionRequest) -> Any:
        """The features of each instance.

        Args:
            request: The decoded request.

        Returns:
            By default the instances as an array of shape ``(n, k)``, in the model's order of features, or as
            a frame of that shape where ``as_frame`` is set. These go on record as the inputs.

        Raises:
            pydantic.ValidationError: The instances do not fit the model; answered with 400.
        """
        matrix = request.matrix(self.feature_names, self.feature_dtype)
        expected = self._feature_count
        if expected is not None and matrix.shape[1] != expected:
            raise invalid_request(f"Expected {expected} values, got {matrix.shape[1]} values", "instances", 0)
        if not self.accepts_missing and matrix.dtype.kind == "f" and np.isnan(matrix).any():
            row, column = np.argwhere(np.isnan(matrix))[0].tolist()
            name = self.feature_names[column] if self.feature_names else column
            raise invalid_request("The model takes no missing values", "instances", row, name)
        return frame_of(matrix, self.feature_names) if self.as_frame else matrix

    def preprocess(self, features: Any) -> Any:
        """Turn features into what the model takes; by default by the ``preprocessor`` saved with the model, if any."""
        return features if self._preprocessor is None else self._preprocessor.transform(features)

    def infer(self, inputs: Any) -> Any:
        """Run the model; by default its ``predict``."""
        return self.estimator.predict(inputs)

    def postprocess(self, raw: Any, request: PredictionRequest) -> tuple[dict[str, Column], dict[str, Any]]:
        """Turn what the model gave into what goes on record and what is answered.

        Args:
            raw: What ``infer`` returned.
            request: The decoded request.

        Returns:
            The outputs by column, one value an instance, and the fields of the answer's body.
        """
        raise NotImplementedError

    def labels(self, request: PredictionRequest) -> dict[str, str]:
        """The business labels of a request; by default those it carries."""
        return request.labels

    # The template.

    _feature_count: int | None = None
    _preprocessor: Any = None
    _retrieval: FeatureRetrieval | None = None
    _allowed_labels: frozenset[str] = frozenset()

    def _answer(self, request: PredictionRequest) -> Answer:
        current = observation.get()
        clock = time.perf_counter
        began = clock()
        if current is not None:
            current.items = len(request.instances)
            current.entities = request.entities
            self._label(request, current)
        if self._retrieval is not None:
            self._retrieval.fill(request, self.feature_names, current)
        features = self.features(request)
        if current is not None:
            current.inputs = input_columns(features, len(request.instances), self.feature_names)
        fetched = clock()
        inputs = self.preprocess(features)
        prepared = clock()
        raw = self.infer(inputs)
        inferred = clock()
        outputs, body = self.postprocess(raw, request)
        info = self.info
        if current is None:
            return Answer("", info.name, info.version, body)
        current.outputs = outputs
        phases = current.phases
        phases["features"] = fetched - began
        phases["preprocess"] = prepared - fetched
        phases["predict"] = inferred - prepared
        phases["postprocess"] = clock() - inferred
        return Answer(current.context.prediction_id, info.name, info.version, body)

    def _label(self, request: PredictionRequest, current: Any) -> None:
        if request.attributes:
            # What the headers said of the caller, and what was annotated before, stays as it is.
            current.attributes = {**plain(request.attributes), **current.attributes}
        labels = self.labels(request)
        if not labels:
            return
        allowed = self._allowed_labels
        taken = {name: label_text(value) for name, value in labels.items() if name in allowed}
        current.labels = current.labels | taken
        if len(taken) < len(labels):
            others = plain({name: str(value) for name, value in labels.items() if name not in allowed})
            current.attributes = {**current.attributes, "undeclared_labels": others}

    @property
    def info(self) -> ModelInfo:
        """The exact model that is served."""
        found: ModelInfo = getattr(self, MODEL_ATTRIBUTE, None) or ModelInfo(task=self.task)
        return found

    def model_classes(self) -> tuple[str, ...]:
        """The classes, in the order of the probability columns; empty for other tasks."""
        return ()

    @bentoml.api(output_spec=ModelInfoResponse)
    def model_info(self) -> ModelInfoResponse:
        """Say exactly which model is served: version, digest, features, metadata."""
        info = self.info
        return ModelInfoResponse(**{name: getattr(info, name) for name in ModelInfoResponse.model_fields})

    setattr(model_info.func, UNAUDITED, True)

    # What BentoML calls.

    @bentoml.on_startup
    def _e2i_startup(self) -> None:
        service = getattr(self, "bento_service", None)
        began = time.perf_counter()
        self.e2i_load()
        if service is not None and not isinstance(service, ObservedService):
            unlayered.start(service, self, time.perf_counter() - began)

    def e2i_load(self) -> None:
        """Load the model and learn from it what requests need."""
        self.estimator = self.load()
        ignore_missing_feature_names()
        stored = self.model
        metadata = dict(stored.info.metadata) if stored is not None else {}
        if stored is not None:
            self._preprocessor = (stored.custom_objects or {}).get("preprocessor")
        first = self.estimator if self._preprocessor is None else self._preprocessor
        names = self.feature_names or metadata.get("feature_names") or feature_names_of(first)
        if self.feature_service:
            self._retrieval = self._open_features()
            names = names or self._retrieval.names
        self.feature_names = tuple(str(name) for name in names)
        if self.as_frame:
            require_frames(type(self).__name__, self.feature_names)
        elif type(self).features is PredictionService.features and not _makes_features(type(self)):
            refuse_arrays(type(self).__name__, first)
        expected = feature_count_of(first)
        if not self.feature_names:
            self._feature_count = expected
        elif expected not in (None, len(self.feature_names)) and not _makes_features(type(self)):
            raise ConfigurationError(
                f"{type(self).__name__} has {len(self.feature_names)} feature names, but the model "
                f"{'' if self._preprocessor is None else 'and its preprocessor '}takes {expected} features. Correct "
                "feature_names or the model's metadata, or override preprocess() if it makes the model's features."
            )
        if self.accepts_missing is None:
            self.accepts_missing = accepts_missing(first)
        self._allowed_labels = _own_labels(type(self))
        classes = self.model_classes()
        info = (
            describe_model(stored, task=self.task, feature_names=self.feature_names, classes=classes)
            if stored is not None
            else ModelInfo(name=type(self).__name__, task=self.task, feature_names=self.feature_names, classes=classes)
        )
        setattr(self, MODEL_ATTRIBUTE, info)

    def _open_features(self) -> FeatureRetrieval:
        store = TimedFeatureStore(
            self.feature_store,
            self.feature_service,
            policies=self.feature_policies,
            timeout=self.feature_timeout,
            cache_seconds=self.feature_cache_seconds,
        )
        type(self).predict.input_spec.feature_service = store.service
        # Features of its own may be made of anything that is sent.
        is_numeric = self.feature_dtype is not object and type(self).features is PredictionService.features
        return FeatureRetrieval(store, is_numeric=is_numeric)

    @bentoml.on_shutdown
    def _e2i_shutdown(self) -> None:
        unlayered.stop()
        if self._retrieval is not None:
            self._retrieval.close()

    async def __is_ready__(self) -> bool:
        """Ready once the model is loaded."""
        return self.estimator is not None

    def __metrics__(self, text: str) -> str:
        """BentoML's hook for metrics; used only under a plain ``@bentoml.service``."""
        return unlayered.with_metrics(text)

    setattr(__metrics__, unlayered.UNLAYERED, True)


def _own_labels(inner: type[PredictionService]) -> frozenset[str]:
    """Names of the labels that ``labels`` may give: those of a body, and its own where it is overridden."""
    definition = definition_of(inner)
    declared = declared_labels(inner, definition.label_names, definition.load_settings().settings)
    kinds = {FIELD} if inner.labels is PredictionService.labels else {FIELD, METHOD}
    return frozenset(name for name, label in declared.items() if label.kind in kinds)


def _makes_features(inner: type[PredictionService]) -> bool:
    """Whether a service's own code stands between the features of a request and those of the model."""
    return inner.features is not PredictionService.features or inner.preprocess is not PredictionService.preprocess


@check("framework")
def _framework(definition: ServiceDefinition, resolved: ResolvedSettings) -> Iterator[Problem]:  # noqa: ARG001  # a check's signature
    inner = definition.inner
    if not issubclass(inner, PredictionService) or inner.load is not PredictionService.load:
        return
    if inspect.getattr_static(inner, "model") is None:
        yield Problem(
            "framework", f"{inner.__name__} names no model.", "Set model = 'name:latest', or override load()."
        )
        return
    try:
        # Asked of the class itself, the attribute would resolve the model.
        stored = bentoml.models.get(inspect.getattr_static(inner, "model").tag)
    except (AttributeError, BentoMLException):
        return  # no model is named, or the check of models has said that it is missing
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # each worker says once more what a framework warns of
            import_framework(stored)
    except ConfigurationError as error:
        yield Problem("framework", str(error), "")


def input_columns(features: Any, items: int, names: tuple[str, ...]) -> dict[str, Column]:
    """Features as they go on record: an array as one matrix, frames and mappings by column, anything else once."""
    if isinstance(features, np.ndarray) and features.dtype.kind in "biuf":
        return {"features": Matrix.of(features)}
    found = columns({"features": features})
    if found is None or found[1] != items:
        members = dict(enumerate(features)) if isinstance(features, tuple) else features
        of_members = member_columns(members, items) if isinstance(members, Mapping) else None
        return of_members or {"features": Constant(once(features, items))}
    column = found[0].get("features")
    if not isinstance(column, Values) or not names or hasattr(features, "columns"):
        return found[0]
    if any(not isinstance(row, list) or len(row) != len(names) for row in column.values):
        return found[0]
    return {"features": Values([dict(zip(names, row, strict=True)) for row in column.values])}


def _choose_body(cls: Any) -> None:
    """Let ``predict`` take what the class says its features are, unless it takes something of the class's own."""
    if not issubclass(cls.predict.input_spec, PredictionRequestBody):
        return
    if cls.feature_service:
        cls.predict = attrs.evolve(cls.predict, input_spec=EntityPredictionRequestBody.of_a_service())
    elif cls.feature_dtype is object:
        cls.predict = attrs.evolve(cls.predict, input_spec=MixedPredictionRequestBody)
