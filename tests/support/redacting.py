"""Redactors and records for the tests of redaction."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import make_dataclass
from typing import Any

import numpy as np

from e2i_serving.record import ModelInfo, Outcome, PredictionRecord
from e2i_serving.redaction import Redactor, redactor_of
from e2i_serving.settings import Settings

KEY = "a key of 16 chars"
MODEL = ModelInfo("scorer", "v1", feature_names=("age", "income", "zip.code"), classes=("no", "yes"))


def redactor(*rules: tuple[Any, ...], model: ModelInfo = MODEL, key: str = KEY, **settings: Any) -> Redactor:
    """A redactor of rules, each a path, an action and perhaps digits."""
    declared = [dict(zip(("path", "action", "digits"), rule, strict=False)) for rule in rules]
    made = redactor_of(Settings(redaction_rules=declared, redaction_key=key, **settings), model)
    assert made is not None
    return made


def record(**fields: Any) -> PredictionRecord:
    """A record with something in every place."""
    return PredictionRecord(
        **{"prediction_id": "p1", "time_ns": 1, "duration": 0.1, "outcome": Outcome.OK, "status": 200} | fields
    )


def forms(secret: str | float) -> list[bytes]:
    """The bytes by which a secret would be known, as text and as a number in an array or a frame."""
    if isinstance(secret, str):
        return [secret.encode()]
    kinds = ("<f8", ">f8", "<i8", ">i8") if isinstance(secret, int) else ("<f8", ">f8")
    numbers = [np.array(secret, dtype=kind).tobytes() for kind in kinds]
    return [repr(secret).encode(), *numbers]


class Ordered(OrderedDict[str, Any]):
    """An object of a type of its own."""


class Some(list[Any]):
    """A list of a type of its own."""


def as_dataclass(fields: dict[str, Any]) -> Any:
    """An object whose content is in its fields; names that no field can have stand in an object beside it."""
    if all(name.isidentifier() for name in fields):
        return make_dataclass("Fields", fields)(**fields)
    return Ordered(fields)
