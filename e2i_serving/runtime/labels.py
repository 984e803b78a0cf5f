"""Business labels: where a request's come from, and which values they may have."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from e2i_serving.context import RequestContext
from e2i_serving.exceptions import ServiceDefinitionError
from e2i_serving.observers.metrics import LabelBounds
from e2i_serving.propagation import LABEL_PREFIX
from e2i_serving.runtime.observation import MAX_LABEL
from e2i_serving.settings import Settings
from e2i_serving.typing import Headers

FIELD, METHOD, HEADER, BAGGAGE = "field", "method", "header", "baggage"

_SOURCE = re.compile(r"field|method|header:[A-Za-z0-9-]{1,128}|baggage(:[!#$%&'*+.^_`|~0-9A-Za-z-]{1,128})?")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,63}")
_RESERVED = frozenset({"model", "version", "task", "outcome", "le", "instance", "job"})
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


@dataclass(frozen=True, slots=True)
class Label:
    """A business label of a service, by which its predictions are counted, timed and found.

    Attributes:
        source: Where a request's value comes from: ``field``, the ``labels`` of its body; ``header:<name>``;
            ``baggage``, what a calling service said of the label, or ``baggage:<key>``, another member of it;
            ``method``, the service's own ``labels()`` or ``annotate()`` and nobody else.
        allowed: The only values that metrics show; empty for any, up to ``label_values`` of them. The audit record
            has every value in full.

    Raises:
        ServiceDefinitionError: There is no such source.

    Example:
        ```python
        class Churn(e2i_serving.ClassificationService):
            labels_from = {"brand": e2i_serving.Label("header:x-brand", allowed=("alpha", "beta"))}
        ```
    """

    source: str = FIELD
    allowed: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what would give no value."""
        if not _SOURCE.fullmatch(self.source):
            raise ServiceDefinitionError(
                f"A label can't come from {self.source!r}. "
                "Write field, method, header:<name>, baggage or baggage:<key>."
            )
        allowed: Any = self.allowed
        if isinstance(allowed, str):
            raise ServiceDefinitionError(
                "allowed must be a tuple of values, and a string would count letter by letter. "
                f"Write allowed=({allowed!r},)."
            )

    @property
    def kind(self) -> str:
        """The source without what it names."""
        return self.source.partition(":")[0]


def declared_labels(inner: type, names: tuple[str, ...], settings: Settings) -> dict[str, Label]:
    """The labels of a service by name.

    Args:
        inner: The service's class, of which ``labels_from`` is read.
        names: Names of labels that come from the request's body.
        settings: May name more of those.
    """
    return dict.fromkeys((*names, *settings.labels), Label()) | dict(getattr(inner, "labels_from", {}))


def refuse_wrong_labels(cls: type) -> None:
    """Refuse a declaration of labels that could not be served.

    Raises:
        ServiceDefinitionError: It is no mapping of names to ``Label``, or a name can't be a metric's label.
    """
    declared: Any = cls.__dict__.get("labels_from", {})
    if not isinstance(declared, Mapping) or not all(isinstance(label, Label) for label in declared.values()):
        raise ServiceDefinitionError(
            f"{cls.__name__}.labels_from must give each label by name: "
            "labels_from = {'brand': e2i_serving.Label('header:x-brand')}."
        )
    for name in declared:
        if not _NAME.fullmatch(name) or name in _RESERVED:
            raise ServiceDefinitionError(
                f"{cls.__name__}.labels_from names a label {name!r}, which metrics can't have. "
                f"Use letters, digits and _, and none of {', '.join(sorted(_RESERVED))}."
            )


def label_bounds(labels: Mapping[str, Label], settings: Settings) -> LabelBounds:
    """What metrics show of the labels. One whose name no metric can have is in the audit record only."""
    shown = {name: label for name, label in labels.items() if _NAME.fullmatch(name) and name not in _RESERVED}
    return LabelBounds(
        {name: frozenset(label.allowed) for name, label in shown.items()},
        values=settings.label_values,
        series=settings.label_series,
    )


class LabelReader:
    """Takes labels from what comes with a request before its body.

    Args:
        labels: The service's labels by name.
    """

    def __init__(self, labels: Mapping[str, Label]) -> None:
        self._headers = {
            label.source.partition(":")[2].lower().encode(): name
            for name, label in labels.items()
            if label.kind == HEADER
        }
        self._baggage = {
            label.source.partition(":")[2] or f"{LABEL_PREFIX}{name}": name
            for name, label in labels.items()
            # What a calling service knows of a label holds where the body says nothing of it.
            if label.kind in (FIELD, BAGGAGE)
        }

    def read(self, context: RequestContext, headers: Headers) -> dict[str, str]:
        """The labels of a request: bounded, without control characters, none that is empty."""
        found: dict[str, str] = {}
        if self._headers:
            for header, raw in headers:
                name = self._headers.get(header)
                if name is not None:
                    found[name] = _cleaned(raw[: 4 * MAX_LABEL].decode("utf-8", "replace"))
        for member, name in self._baggage.items():
            if member in context.baggage:
                found[name] = _cleaned(context.baggage[member])
        return {name: value for name, value in found.items() if value} if found else found


def _cleaned(value: str) -> str:
    return _CONTROL.sub("", value).strip()[:MAX_LABEL]
