"""Replay: what was recorded goes through the same model and code once more, and is compared with what was answered."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import bentoml
import msgspec
import numpy as np
from bentoml.exceptions import BentoMLException
from numpy.typing import NDArray

from e2i_serving.exceptions import ConfigurationError
from e2i_serving.record import Entry, Life, Outcome, PredictionRecord, Row
from e2i_serving.record.rows import ITEM_OUTPUT_COLUMNS
from e2i_serving.relay.explode import INCONSISTENT_COLUMNS, explode
from e2i_serving.runtime.definition import code_digest
from e2i_serving.runtime.models import files_digest
from e2i_serving.runtime.rows import ITEM_ROWS
from e2i_serving.services.base import PredictionService
from e2i_serving.services.frames import frame_of
from e2i_serving.services.requests import PredictionRequest

DIFFERENCES: Final = 1000
"""Most differences that a report holds."""

_HARMLESS: Final = frozenset({"labels", "attributes", "entities", "request_id", "parent_request_id", "principal"})
"""Roots of what redaction may take out without changing what the model was given or gave."""

_THRESHOLDS: Final = ("threshold", "effect_threshold")

_GIVEN: Final = frozenset({"threshold", "level", "policy"})
"""Outputs that a replay is given, or that a class says: they are the same whatever the model gives."""


class Difference(NamedTuple):
    """A value that came out otherwise.

    Attributes:
        prediction_id: The prediction.
        item_index: The item in it.
        column: The output's name.
        recorded: What was answered.
        replayed: What came out now.
    """

    prediction_id: str
    item_index: int
    column: str
    recorded: Any
    replayed: Any


@dataclass(slots=True)
class ReplayReport:
    """What became of a replay.

    Attributes:
        replayed: How many predictions were replayed.
        changed: How many of them came out otherwise.
        differences: The first of the values that did.
        left_out: How many predictions can't be replayed, by reason.
        sampled_out: About how many like them have no record, by the fraction that sampling kept at their time.
        labels: Predictions replayed and changed, by label and value.
    """

    replayed: int = 0
    changed: int = 0
    differences: list[Difference] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    sampled_out: float = 0.0
    labels: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)

    def add(self, row: Row, found: list[Difference]) -> None:
        """Note one prediction that was replayed."""
        self.replayed += 1
        self.changed += bool(found)
        self.differences += found[: DIFFERENCES - len(self.differences)]
        for label in (row["labels"] or {}).items():
            replayed, changed = self.labels.get(label, (0, 0))
            self.labels[label] = (replayed + 1, changed + bool(found))


def replay(
    service: Any,
    rows: Iterable[Row],
    *,
    against: str = "",
    tolerance: float = 1e-9,
    allow_code: bool = False,
    progress: Callable[[], None] | None = None,
) -> ReplayReport:
    """Replay predictions. Nothing is recorded, and no feature is fetched.

    Args:
        service: The BentoML service, or its class, that answered them.
        rows: The predictions with their items, as ``AuditTrail.query`` gives them.
        against: A candidate model as ``name:version``, in place of the recorded ones.
        tolerance: How far numbers may be apart, relatively or absolutely.
        allow_code: Whether the service's code may be another than the recorded one.
        progress: Called after each prediction.

    Raises:
        ConfigurationError: The service has no such steps; a model's bytes, or the code, are not those recorded.
    """
    inner = getattr(service, "inner", service)
    if not (isinstance(inner, type) and issubclass(inner, PredictionService)):
        raise ConfigurationError(
            "Only services derived from e2i-serving's bases can be replayed: others have no steps."
        )
    report = ReplayReport()
    replayers: dict[str, Replayer | None] = {}
    digest = code_digest(inner)
    for row in rows:
        report.sampled_out += 1 / (row["sampling_fraction"] or 1) - 1
        reason = obstacle(row)
        if not reason:
            if row["code_digest"] and row["code_digest"] != digest and not allow_code:
                raise ConfigurationError(
                    f"Prediction {row['prediction_id']} was made by other code of {inner.__name__} than this. "
                    "Check out that code, or allow this one (--allow-code)."
                )
            replayer = _replayer(replayers, inner, row, against)
            if replayer is None:
                reason = "model-gone"
            else:
                try:
                    report.add(row, replayer.differences(row, tolerance))
                except _LeftOut as left_out:
                    reason = left_out.reason
        if reason:
            report.left_out[reason] += 1
        if progress is not None:
            progress()
    return report


def obstacle(row: Row) -> str:
    """Why a prediction can't be replayed; empty when it can.

    Returns:
        ``failed``, ``other-endpoint``, ``erased``, ``redacted``, ``inconsistent``, ``payload-gone``, ``no-inputs``, or
        nothing.
    """
    items: list[Row] = row[ITEM_ROWS]
    is_redacted = any(name.partition(".")[0] not in _HARMLESS for name in row["redactions"] or ())
    has_none = any(item["inputs"] is None for item in items)
    reasons = {
        "failed": row["outcome"] != Outcome.OK or not items,
        "other-endpoint": row["endpoint"] != "predict",
        "erased": any(item["erased"] for item in items),
        "redacted": is_redacted,
        "inconsistent": row["error_type"] == INCONSISTENT_COLUMNS,
        "payload-gone": has_none and row["payload_digest"],
        "no-inputs": has_none,
    }
    return next((reason for reason, holds in reasons.items() if holds), "")


class Replayer:
    """Runs recorded inputs through one version of a model.

    Args:
        inner: The service's class.
        tag: The model, as ``name:version``; empty for a service that loads its own.
    """

    def __init__(self, inner: type[PredictionService], tag: str) -> None:
        body: dict[str, Any] = {"__module__": inner.__module__, "feature_service": "", "feature_store": None}
        if tag:
            body["model"] = tag
        self._service: PredictionService = type(inner.__name__, (inner,), body)()
        self._service.e2i_load()
        self._life = Life("", "", 0, 0, model=self._service.info)

    def differences(self, row: Row, tolerance: float) -> list[Difference]:
        """What comes out otherwise than it was recorded.

        Args:
            row: The prediction with its items.
            tolerance: How far numbers may be apart.

        Raises:
            _LeftOut: It can't be replayed, or there is nothing to compare.
        """
        found: list[Difference] = []
        compared: set[str] = set()
        for item, new in zip(row[ITEM_ROWS], self._items(row), strict=True):
            old = _outputs(item)
            compared |= old.keys() | new.keys()
            found += [
                Difference(row["prediction_id"], item["item_index"], name, old.get(name), new.get(name))
                for name in sorted(old.keys() | new.keys())
                if not _is_close(old.get(name), new.get(name), tolerance)
            ]
        if compared <= _GIVEN:
            raise _LeftOut("no-outputs")
        return found

    def _items(self, row: Row) -> list[dict[str, Any]]:
        service, items = self._service, row[ITEM_ROWS]
        for name in _THRESHOLDS:
            if items[0]["threshold"] is not None and hasattr(service, name):
                setattr(service, name, items[0]["threshold"])
        if items[0]["level"] is not None and hasattr(service, "interval_level"):
            setattr(service, "interval_level", items[0]["level"])  # noqa: B010  # not every base has it
        features = self._features([item["inputs"] for item in items])
        request = PredictionRequest(features, {}, row["labels"] or {}, row["attributes"] or {})
        outputs, _ = service.postprocess(service.infer(service.preprocess(features)), request)
        record = PredictionRecord("", 0, 0.0, Outcome.OK, 200, items=len(items), outputs=outputs)
        made = explode([Entry(self._life, 1, record)]).items
        return [_outputs({name: _decoded(name, value) for name, value in item.items()}) for item in made]

    def _features(self, inputs: list[dict[str, Any]]) -> Any:
        service = self._service
        rows = [each["features"] if each.keys() == {"features"} else each for each in inputs]
        names: tuple[str, ...] = ()
        if isinstance(rows[0], dict):
            names = service.feature_names if rows[0].keys() == set(service.feature_names) else tuple(rows[0])
            try:
                rows = [[row[name] for name in names] for row in rows]
            except (KeyError, TypeError):
                raise _LeftOut("unfit-inputs") from None
        try:
            matrix: NDArray[Any] = np.array(rows, dtype=service.feature_dtype)
        except (TypeError, ValueError):
            raise _LeftOut("unfit-inputs") from None
        return frame_of(matrix, names) if service.as_frame else matrix


class _LeftOut(Exception):
    """A prediction can't be replayed.

    Attributes:
        reason: Why.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _replayer(
    known: dict[str, Replayer | None], inner: type[PredictionService], row: Row, against: str
) -> Replayer | None:
    own_model = vars(PredictionService)["load"] is not inner.load and not row["model_version"]
    tag = "" if own_model and not against else against or f"{row['model']}:{row['model_version']}"
    key = f"{tag} {'' if against else row['model_digest'] or ''}"
    if key not in known:
        try:
            if tag:
                _refuse_other_bytes(tag, "" if against else row["model_digest"] or "")
            known[key] = Replayer(inner, tag)
        except BentoMLException:
            if against:
                raise ConfigurationError(f"The model {against} is not in the BentoML store.") from None
            known[key] = None
    return known[key]


def _refuse_other_bytes(tag: str, digest: str) -> None:
    found = files_digest(Path(bentoml.models.get(tag).path))
    if digest and found != digest:
        raise ConfigurationError(
            f"The model {tag} is not the one that is on record: its files have the digest {found[:12]}, and those "
            f"recorded had {digest[:12]}. Restore the model, or replay against it as another (--against)."
        )


def _outputs(item: Mapping[str, Any]) -> dict[str, Any]:
    typed = {name: item[name] for name in ITEM_OUTPUT_COLUMNS if item[name] is not None}
    return {**typed, **(item["outputs"] or {})}


def _decoded(name: str, value: Any) -> Any:
    return msgspec.json.decode(value) if name in ("prediction", "outputs") and isinstance(value, str) else value


def _is_close(old: Any, new: Any, tolerance: float) -> bool:
    if isinstance(old, bool) or isinstance(new, bool):
        return bool(old is new)
    if isinstance(old, int | float) and isinstance(new, int | float):
        return math.isclose(old, new, rel_tol=tolerance, abs_tol=tolerance)
    if isinstance(old, list) and isinstance(new, list):
        pairs = zip(old, new, strict=False)
        return len(old) == len(new) and all(_is_close(a, b, tolerance) for a, b in pairs)
    if isinstance(old, dict) and isinstance(new, dict):
        return old.keys() == new.keys() and all(_is_close(old[name], new[name], tolerance) for name in old)
    return bool(old == new)
