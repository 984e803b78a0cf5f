"""The request for predictions: decoded straight into arrays, documented as a schema.

BentoML would validate a list of lists with pydantic, which costs more than a third of a bare request; here the
body is decoded by msgspec and becomes an array at once. The pydantic class is what OpenAPI and clients see.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, ClassVar

import msgspec
import numpy as np
from _bentoml_sdk.io_models import IODescriptor
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, create_model

from e2i_serving.record import Column, Values
from e2i_serving.runtime.plain import plain
from e2i_serving.services.errors import invalid_request
from e2i_serving.typing import FeatureService

MAX_NAME = 64
"""How much of a key's name an error repeats."""

Scalar = float | str | bool | None
_Entity = str | int | dict[str, str | int]


class _NumericBody(msgspec.Struct, forbid_unknown_fields=True):
    instances: list[list[float | None] | dict[str, float | None] | float | None] | dict[str, float | None]
    entities: list[_Entity] | _Entity | None = None
    labels: dict[str, str] = {}
    attributes: dict[str, Any] = {}


class _MixedBody(msgspec.Struct, forbid_unknown_fields=True):
    instances: list[list[Scalar] | dict[str, Scalar] | Scalar] | dict[str, Scalar]
    entities: list[_Entity] | _Entity | None = None
    labels: dict[str, str] = {}
    attributes: dict[str, Any] = {}


class _EntityBody(msgspec.Struct, forbid_unknown_fields=True):
    instances: list[list[Scalar] | dict[str, Scalar] | Scalar] | dict[str, Scalar] = []
    entities: list[_Entity] | _Entity | None = None
    labels: dict[str, str] = {}
    attributes: dict[str, Any] = {}


@dataclass(slots=True)
class PredictionRequest:
    """A decoded request, as a service's methods get it.

    Attributes:
        instances: One row an instance, in the model's order of features or by feature name. Where the service has
            a feature store, its ``features`` step finds what was fetched in them.
        entities: By entity key, one value an instance.
        labels: Business labels as sent; which of them count is the service's to say.
        attributes: Free-form data for the audit record.
    """

    instances: list[Any]
    entities: dict[str, Column] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)

    def matrix(self, names: tuple[str, ...], dtype: type = np.float64) -> NDArray[Any]:
        """The instances as an array.

        Args:
            names: The model's feature names in order; empty when not known.
            dtype: ``float``, where null becomes NaN, or ``object``.

        Returns:
            Shape ``(n, k)``.

        Raises:
            pydantic.ValidationError: A row has another width than the model, or lacks or adds a feature.
        """
        first = self.instances[0]
        rows = [_ordered(row, names, at) for at, row in enumerate(self.instances)] if isinstance(first, dict) else None
        if rows is None:
            width = len(names) or len(first)
            for at, row in enumerate(self.instances):
                if not isinstance(row, list) or len(row) != width:
                    got = f"{len(row)} values" if isinstance(row, list) else "an object among arrays"
                    raise invalid_request(f"Expected {width} values, got {got}", "instances", at)
            rows = self.instances
        return np.array(rows, dtype=dtype)


def _ordered(row: Any, names: tuple[str, ...], at: int) -> list[Any]:
    if not isinstance(row, dict):
        raise invalid_request("Expected an object like the first instance", "instances", at)
    if not names:
        raise invalid_request(
            "The model's feature names are not known, so instances must be arrays in its order of features",
            "instances",
            at,
        )
    if row.keys() != set(names):
        missing = [name for name in names if name not in row]
        unknown = sorted(name for name in row if name not in names)
        said = [f"missing {', '.join(missing[:5])}"] if missing else []
        said += [f"unknown {', '.join(unknown[:5])}"] if unknown else []
        raise invalid_request(f"The features are not the model's: {'; '.join(said)}", "instances", at)
    return [row[name] for name in names]


class PredictionRequestBody(IODescriptor):
    """Rows to predict, one or many."""

    model_config = ConfigDict(
        title="PredictionRequest",
        json_schema_extra={
            "example": {
                "instances": [[17.99, 10.38, 122.8]],
                "entities": ["patient-17"],
                "labels": {"brand": "alpha", "region": "north"},
            }
        },
    )
    captures_items: ClassVar[bool] = True
    body_decoder: ClassVar[Any] = msgspec.json.Decoder(_NumericBody)

    instances: Any = Field(
        description="One row an instance: numbers in the model's order of features, or an object by feature name. "
        "A single row may stand for itself. null is a missing value.",
        json_schema_extra={
            # Not anyOf, of which BentoML's documentation keeps the first only.
            "oneOf": [
                {"type": "array", "items": {"type": "array", "items": {"type": ["number", "null"]}}},
                {"type": "array", "items": {"type": "object", "additionalProperties": {"type": ["number", "null"]}}},
            ]
        },
    )
    entities: Any = Field(
        None,
        description="Whom each instance is about: an id, or an object of keys; by these the audit trail finds them.",
    )
    labels: dict[str, str] = Field({}, description="Business labels that the service declares, such as brand.")
    attributes: dict[str, Any] = Field({}, description="Anything else that should stand in the audit record.")

    @classmethod
    async def from_http_request(cls, request: Any, serde: Any) -> Any:
        """Decode the body into a ``PredictionRequest``.

        Raises:
            pydantic.ValidationError: It is not JSON, or not of this shape.
        """
        if getattr(serde, "media_type", "application/json") != "application/json":
            sent = await super().from_http_request(request, serde)
            body = msgspec.json.encode(sent.model_dump(mode="json"))
        else:
            body = await request.body()
        return decode(body, cls.body_decoder)


class MixedPredictionRequestBody(PredictionRequestBody):
    """Rows to predict, one or many; values may be numbers, strings or booleans."""

    model_config = ConfigDict(title="PredictionRequest")
    body_decoder: ClassVar[Any] = msgspec.json.Decoder(_MixedBody)


class EntityPredictionRequestBody(PredictionRequestBody):
    """Whom to predict for, one or many; the features are fetched."""

    model_config = ConfigDict(
        title="PredictionRequest", json_schema_extra={"example": {"entities": [{"customer": "c1"}]}}
    )
    body_decoder: ClassVar[Any] = msgspec.json.Decoder(_EntityBody)
    feature_service: ClassVar[FeatureService | None] = None
    """What is fetched, once the feature store is open."""

    instances: Any = Field(
        None,
        description="What the feature store has not: one object an entity, by feature name or by name of request data. "
        "Instances that hold all of the features are predicted as they are, and nothing is fetched.",
        json_schema_extra=PredictionRequestBody.model_fields["instances"].json_schema_extra,
    )
    entities: Any = Field(
        None,
        description="Whom each instance is about: an object of the feature service's keys, or an id if it has one key.",
    )

    @classmethod
    def of_a_service(cls) -> type[EntityPredictionRequestBody]:
        """A class of its own for one service, whose schema shows the keys of its entities."""
        return create_model(cls.__name__, __base__=cls, __module__=cls.__module__, __doc__=cls.__doc__)

    @classmethod
    def model_json_schema(cls, *args: Any, **options: Any) -> dict[str, Any]:
        """The schema, with the keys of entities as far as they are known."""
        schema: dict[str, Any] = super().model_json_schema(*args, **options)
        fetched = cls.feature_service
        if fetched is None:
            return schema
        key = {"oneOf": [{"type": "string"}, {"type": "integer"}]}
        schema["properties"]["entities"] |= {
            "type": "array",
            "items": {
                "type": "object",
                "properties": dict.fromkeys(fetched.entities, key),
                "required": list(fetched.entities),
            },
        }
        schema["example"] = {"entities": [dict.fromkeys(fetched.entities, "1")]}
        if fetched.request_data:
            schema["example"]["instances"] = [dict.fromkeys(fetched.request_data, 0)]
        return schema


setattr(PredictionRequestBody, "__root_input__", True)  # noqa: B010  # BentoML's mark of "the body is this object"


def decode(body: bytes, decoder: Any = PredictionRequestBody.body_decoder) -> PredictionRequest:
    """Decode a body.

    Raises:
        pydantic.ValidationError: It is not JSON, or not of this shape.
    """
    try:
        sent = decoder.decode(body)
    except msgspec.ValidationError as error:
        what, where = _located(str(error))
        raise invalid_request(what, *_named(body, where)) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise invalid_request(f"The body is not valid JSON: {error}") from None
    except RecursionError:
        raise invalid_request("The body is nested too deeply") from None
    instances = sent.instances
    if isinstance(instances, dict):
        instances = [instances]
    elif instances and not isinstance(instances[0], list | dict):
        for at, value in enumerate(instances):
            if isinstance(value, list | dict):
                raise invalid_request("Expected a single value like the first one", "instances", at)
        instances = [instances]
    if not instances and isinstance(sent, _EntityBody) and sent.entities:
        instances = [{} for _ in sent.entities] if isinstance(sent.entities, list) else [{}]
    if not instances:
        raise invalid_request("At least one instance is needed", "instances")
    return PredictionRequest(instances, _entity_columns(sent.entities, len(instances)), sent.labels, sent.attributes)


def _located(message: str) -> tuple[str, tuple[str | int, ...]]:
    """The message of msgspec as what and where: it ends in a path such as ``$.instances[0][2]``."""
    what, _, path = message.partition(" - at `$")
    steps = re.findall(r"\.([^.\[\]`]+)|\[(\d+|\.\.\.)\]", path)
    return what, tuple(name or (int(index) if index.isdigit() else index) for name, index in steps)


def _named(body: bytes, where: tuple[str | int, ...]) -> tuple[str | int, ...]:
    """A location whose last step is a feature of a row given by name, with the name of that feature."""
    if where[:1] != ("instances",) or where[-1] != "...":
        return where
    try:
        at: Any = msgspec.json.decode(body)
    except RecursionError:
        return where
    for step in where[:-1]:
        at = at[step]
    names = [name for name, value in at.items() if type(value) not in (int, float, NoneType)]
    return (*where[:-1], *(name[:MAX_NAME] for name in names[:1]))


def _entity_columns(entities: Any, items: int) -> dict[str, Column]:
    if entities is None:
        return {}
    each = entities if isinstance(entities, list) else [entities]
    if len(each) != items:
        raise invalid_request(f"Expected one entity an instance, {items}, got {len(each)}", "entities")
    if not any(isinstance(entity, dict) for entity in each):
        return {"id": Values([plain(entity) for entity in each])}
    if not all(isinstance(entity, dict) for entity in each):
        raise invalid_request("Entities must be all ids or all objects", "entities")
    names = sorted({name for entity in each for name in entity})
    return {name: Values([plain(entity.get(name)) for entity in each]) for name in names}
