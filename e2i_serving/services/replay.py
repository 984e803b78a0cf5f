"""Replay: what was recorded goes through the same model and code once more, and is compared with what was answered."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NamedTuple

import bentoml
import msgspec
from bentoml.exceptions import BentoMLException

from e2i_serving.exceptions import ConfigurationError
from e2i_serving.record import Entry, Life, Outcome, PredictionRecord, Row
from e2i_serving.record.rows import ITEM_OUTPUT_COLUMNS
from e2i_serving.relay.explode import INCONSISTENT_COLUMNS, explode
from e2i_serving.runtime.definition import code_digest
from e2i_serving.runtime.models import files_digest
from e2i_serving.runtime.rows import ITEM_ROWS
from e2i_serving.services.base import PredictionService
from e2i_serving.services.rebuilding import forms
from e2i_serving.services.requests import PredictionRequest

logger = logging.getLogger("e2i_serving")

DIFFERENCES: Final = 1000
"""Most differences that a report holds."""

OTHER_CODE: Final = "other-code"
"""Why predictions are left out that other code of the service answered."""

_HARMLESS: Final = frozenset({"labels", "attributes", "entities", "request_id", "parent_request_id", "principal"})
"""Roots of what redaction may take out without changing what the model was given or gave."""

_THRESHOLDS: Final = ("threshold", "effect_threshold")

_GIVEN: Final = frozenset({"threshold", "level", "policy"})
"""Outputs that a replay is given, or that a class says: they are the same whatever the model gives."""


_DECISIONS: Final = frozenset({"decision", "treatment"})


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
        decisions_changed: How many of them were decided otherwise: another class, decision or treatment for an item.
        differences: The first of the values that did.
        left_out: How many predictions can't be replayed, by reason.
        sampled_out: About how many like them have no record, by the fraction that sampling kept at their time.
        labels: Predictions replayed, changed and decided otherwise, by label and value.
    """

    replayed: int = 0
    changed: int = 0
    decisions_changed: int = 0
    differences: list[Difference] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    sampled_out: float = 0.0
    labels: dict[tuple[str, str], tuple[int, int, int]] = field(default_factory=dict)

    def add(self, row: Row, found: list[Difference]) -> None:
        """Note one prediction that was replayed."""
        is_decided_otherwise = any(_is_decision(row, each) for each in found)
        self.replayed += 1
        self.changed += bool(found)
        self.decisions_changed += is_decided_otherwise
        self.differences += found[: DIFFERENCES - len(self.differences)]
        for label in (row["labels"] or {}).items():
            replayed, changed, decisions = self.labels.get(label, (0, 0, 0))
            self.labels[label] = (replayed + 1, changed + bool(found), decisions + is_decided_otherwise)


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
        allow_code: Whether the service's code may be another than the recorded one; else what that one answered is left
            out.
        progress: Called after each prediction.

    Raises:
        ConfigurationError: The service has no such steps, or a model's bytes are not those recorded.
    """
    inner = getattr(service, "inner", service)
    if not (isinstance(inner, type) and issubclass(inner, PredictionService)):
        raise ConfigurationError(
            "Only services derived from e2i-serving's bases can be replayed: others have no steps."
        )
    report = ReplayReport()
    replayers: dict[str, Replayer | _LeftOut] = {}
    digest = code_digest(inner)
    for row in rows:
        report.sampled_out += 1 / (row["sampling_fraction"] or 1) - 1
        reason = obstacle(row)
        if not reason and row["code_digest"] not in ("", None, digest) and not allow_code:
            reason = OTHER_CODE
        if not reason:
            try:
                report.add(row, _replayer(replayers, inner, row, against).differences(row, tolerance))
            except _LeftOut as left_out:
                reason = left_out.reason
                if reason == "replay-failed" and not report.left_out[reason]:
                    why = left_out.__cause__
                    logger.warning(
                        "Prediction %s can't be replayed: %s: %s", row["prediction_id"], type(why).__name__, why
                    )
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
        is_shadow: Whether the model is another than the recorded one.
    """

    def __init__(self, inner: type[PredictionService], tag: str, *, is_shadow: bool = False) -> None:
        body: dict[str, Any] = {"__module__": inner.__module__, "feature_service": "", "feature_store": None}
        if tag:
            body["model"] = tag
        self._service: PredictionService = type(inner.__name__, (inner,), body)()
        self._service.e2i_load()
        self._life = Life("", "", 0, 0, model=self._service.info)
        self._is_shadow = is_shadow
        self._form = ""
        """The form of features by which a prediction came out the same."""

    def differences(self, row: Row, tolerance: float) -> list[Difference]:
        """What comes out otherwise than it was recorded.

        Where the record leaves open in which form the features were, and one of them gives what was recorded, nothing.

        Args:
            row: The prediction with its items.
            tolerance: How far numbers may be apart.

        Raises:
            _LeftOut: It can't be replayed, or there is nothing to compare.
        """
        possible = forms(self._service, [item["inputs"] for item in row[ITEM_ROWS]])
        if not possible:
            raise _LeftOut("unfit-inputs")
        possible.sort(key=lambda form: form.name != self._form)
        found: list[Difference] | None = None
        failure: Exception | None = None
        for form in possible:
            try:
                made = self._items(row, form.make())
            except Exception as error:  # noqa: BLE001  # a step is the user's code; the other predictions go on
                failure = failure or error
                continue
            differing = _compare(row, made, tolerance)
            found = differing if found is None else found
            if self._is_shadow:
                return found
            if not differing:
                self._form = form.name
                return []
        if found is None:
            raise _LeftOut("replay-failed") from failure
        return found

    def _items(self, row: Row, features: Any) -> list[dict[str, Any]]:
        service, items = self._service, row[ITEM_ROWS]
        for name in _THRESHOLDS:
            if items[0]["threshold"] is not None and hasattr(service, name):
                setattr(service, name, items[0]["threshold"])
        if items[0]["level"] is not None and hasattr(service, "interval_level"):
            setattr(service, "interval_level", items[0]["level"])  # noqa: B010  # not every base has it
        request = PredictionRequest(
            [item["inputs"] for item in items], {}, row["labels"] or {}, row["attributes"] or {}
        )
        outputs, _ = service.postprocess(service.infer(service.preprocess(features)), request)
        record = PredictionRecord("", 0, 0.0, Outcome.OK, 200, items=len(items), outputs=outputs)
        made = explode([Entry(self._life, 1, record)]).items
        return [_outputs({name: _decoded(name, value) for name, value in item.items()}) for item in made]


def _compare(row: Row, made: list[dict[str, Any]], tolerance: float) -> list[Difference]:
    found: list[Difference] = []
    compared: set[str] = set()
    for item, new in zip(row[ITEM_ROWS], made, strict=True):
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


class _LeftOut(Exception):
    """A prediction can't be replayed.

    Attributes:
        reason: Why.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def _replayer(
    known: dict[str, Replayer | _LeftOut], inner: type[PredictionService], row: Row, against: str
) -> Replayer:
    own_model = vars(PredictionService)["load"] is not inner.load and not row["model_version"]
    tag = "" if own_model and not against else against or f"{row['model']}:{row['model_version']}"
    key = f"{tag} {'' if against else row['model_digest'] or ''}"
    if key not in known:
        known[key] = _opened(inner, tag, "" if against else row["model_digest"] or "", is_shadow=bool(against))
    found = known[key]
    if isinstance(found, _LeftOut):
        raise _LeftOut(found.reason) from found.__cause__
    return found


def _opened(inner: type[PredictionService], tag: str, digest: str, *, is_shadow: bool) -> Replayer | _LeftOut:
    """What replays by a model, or why none does."""
    try:
        if tag:
            _refuse_other_bytes(tag, digest)
        return Replayer(inner, tag, is_shadow=is_shadow)
    except ConfigurationError:
        raise
    except BentoMLException:
        if is_shadow:
            raise ConfigurationError(f"The model {tag} is not in the BentoML store.") from None
        return _LeftOut("model-gone")
    except Exception as error:
        if is_shadow:
            raise ConfigurationError(f"The model {tag} can't be loaded: {type(error).__name__}: {error}") from error
        failed = _LeftOut("replay-failed")
        failed.__cause__ = error
        return failed


def _refuse_other_bytes(tag: str, digest: str) -> None:
    found = files_digest(Path(bentoml.models.get(tag).path))
    if digest and found != digest:
        raise ConfigurationError(
            f"The model {tag} is not the one that is on record: its files have the digest {found[:12]}, and those "
            f"recorded had {digest[:12]}. Restore the model, or replay against it as another (--against)."
        )


def _is_decision(row: Row, difference: Difference) -> bool:
    """Whether it is a decision that came out otherwise, and not a number by which one is made."""
    if difference.column == "prediction":
        return row["task"] == "classification" or isinstance(difference.recorded, str | bool)
    return difference.column in _DECISIONS


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
