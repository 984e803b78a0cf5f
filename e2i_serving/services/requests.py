"""The request for predictions: decoded straight into arrays, documented as a schema.

BentoML would validate a list of lists with pydantic, which costs more than a third of a bare request; here the
body is decoded by msgspec and becomes an array at once. The pydantic class is what OpenAPI and clients see.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass, field
from types import NoneType
from typing import Any, ClassVar

import msgspec
import numpy as np
from _bentoml_sdk.io_models import IODescriptor
from numpy.typing import NDArray
from pydantic import ConfigDict, Field, ValidationError, create_model
from starlette.exceptions import HTTPException

from e2i_serving.record import Column, Values
from e2i_serving.runtime.plain import plain
from e2i_serving.services.errors import invalid_request
from e2i_serving.typing import FeatureService

MAX_NAME = 64
"""How much of a key's name an error repeats."""

Number = float | None
Scalar = float | str | bool | None
_Entity = str | int | dict[str, str | int]


class _NumericBody(msgspec.Struct, forbid_unknown_fields=True):
    value: ClassVar[Any] = Number
    instances: list[list[Number] | dict[str, Number] | Number] | dict[str, Number]
    entities: list[_Entity] | _Entity | None = None
    labels: dict[str, str] = {}
    attributes: dict[str, Any] = {}


class _MixedBody(msgspec.Struct, forbid_unknown_fields=True):
    value: ClassVar[Any] = Scalar
    instances: list[list[Scalar] | dict[str, Scalar] | Scalar] | dict[str, Scalar]
    entities: list[_Entity] | _Entity | None = None
    labels: dict[str, str] = {}
    attributes: dict[str, Any] = {}


class _EntityBody(msgspec.Struct, forbid_unknown_fields=True):
    value: ClassVar[Any] = Scalar
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
        fetched: Names of the features in the instances that were fetched, and not sent.
    """

    instances: list[Any]
    entities: dict[str, Column] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    attributes: dict[str, Any] = field(default_factory=dict)
    fetched: frozenset[str] = frozenset()

    def matrix(self, names: tuple[str, ...], dtype: type = np.float64) -> NDArray[Any]:
        """The instances as an array.

        Args:
            names: The model's feature names in order; empty when not known.
            dtype: ``float``, where null becomes NaN, or ``object``.

        Returns:
            Shape ``(n, k)``.

        Raises:
            pydantic.ValidationError: A row has another width than the model, lacks or adds a feature, or holds no
                numbers where numbers are asked for.
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
        try:
            return np.array(rows, dtype=dtype)
        except (TypeError, ValueError):
            refuse_texts(self.instances, self.fetched)
            raise  # what the feature store has is not the caller's mistake


def refuse_texts(instances: list[Any], unless: Collection[str] = ()) -> None:
    """Refuse instances that hold something else than numbers and null.

    Args:
        instances: Rows, in the model's order of features or by name.
        unless: Names that may hold anything.

    Raises:
        pydantic.ValidationError: One does.
    """
    for at, row in enumerate(instances):
        # A row that is neither is refused for that, where the rows become an array.
        for name, value in row.items() if isinstance(row, dict) else enumerate(row if isinstance(row, list) else ()):
            if type(value) not in (int, float, NoneType) and name not in unless:
                what = f"Expected `float | null`, got `{type(value).__name__}`"
                raise invalid_request(what, "instances", at, name if isinstance(name, int) else name[:MAX_NAME])


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
            pydantic.ValidationError: It is no JSON and no form, or not of this shape.
        """
        media_type = getattr(serde, "media_type", "application/json")
        if media_type == "application/json":
            return decode(await request.body(), cls.body_decoder)
        try:
            sent = await super().from_http_request(request, serde)
            body = msgspec.json.encode(sent.model_dump(mode="json"))
        except ValidationError:
            raise
        except (HTTPException, RecursionError, TypeError, ValueError) as error:
            raise invalid_request(f"The body can't be read as {media_type}: {type(error).__name__}") from None
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
        raise invalid_request(what, *_named(body, where, decoder.type.value)) from None
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
    # The name of a field that is not known stands in the message as it was sent, and may look like a path.
    steps = re.findall(r"\.([^.\[\]`]+)|\[(\d{1,18}|\.\.\.)\]", path)
    return what, tuple(name or (int(index) if index.isdigit() else index) for name, index in steps)


def _named(body: bytes, where: tuple[str | int, ...], kind: Any) -> tuple[str | int, ...]:
    """A location whose last step is a feature of a row given by name, with the name of that feature.

    Args:
        body: What could not be decoded; its decoder stopped there, so that what follows may be anything.
        where: The location.
        kind: The type of a feature.
    """
    if where[:1] != ("instances",) or where[-1] != "...":
        return where
    row = where[:-1]
    try:
        at: Any = msgspec.json.decode(body)
        for step in row:
            at = at[step]
        for name, value in at.items():
            try:
                msgspec.convert(value, kind)
            except msgspec.ValidationError:
                return (*row, name[:MAX_NAME])
    # It ends too early, is no UTF-8, nests too deeply, or has another value under a name that stands twice.
    except (AttributeError, LookupError, RecursionError, TypeError, ValueError):
        pass
    return row


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
