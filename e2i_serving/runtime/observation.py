"""What is gathered about one request while it is served, until it becomes a record."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from e2i_serving.context import RequestContext
from e2i_serving.record import (
    Column,
    Constant,
    FeatureProvenance,
    Matrix,
    ModelInfo,
    Outcome,
    PredictionRecord,
    Values,
    column_length,
)
from e2i_serving.record.kept import whole_text
from e2i_serving.runtime.plain import plain
from e2i_serving.runtime.refused import RefusedRequest

if TYPE_CHECKING:
    from starlette.responses import Response

MAX_ERROR_MESSAGE = 1024
MAX_LABEL = 128
INCONSISTENT_COLUMNS = "inconsistent_columns"
"""Type of the error of a record whose columns do not all describe as many items as it has."""

_QUOTED = "input_value="
_QUOTED_END = ", input_type="
_INVALID = frozenset({400, 404, 405, 406, 409, 411, 413, 414, 415, 416, 417, 422, 431})
_REJECTED = frozenset({401, 403, 407, 423, 425, 429, 503})
_TIMEOUT = frozenset({408, 504})


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An API method as requests reach it.

    Attributes:
        name: The method's name.
        route: Its full path.
        is_stream: Whether it answers with a stream.
    """

    name: str
    route: str
    is_stream: bool = False


class Ender(Protocol):
    """What ends a request that no layer does."""

    async def answered(self, current: Observation, response: Response, /) -> None:
        """Called on the event loop before an answer leaves; may raise, for another one in its place."""

    def returned(self, current: Observation, result: Any, /) -> None:
        """Called in any thread with what a method returned, which may be a response."""

    def ended(self, current: Observation, error: BaseException | None, /) -> None:
        """Called in any thread with what was raised, or when a stream is over."""


class Observation:
    """One request being served.

    The event loop makes it and ends it; in between, the thread that runs the model writes to it. After the
    end nothing that is written has any effect: a record is frozen.
    """

    __slots__ = (
        "arrived",
        "attributes",
        "context",
        "decoded_at",
        "ender",
        "endpoint",
        "entered",
        "entities",
        "error",
        "faults",
        "feature_provenance",
        "finished",
        "held",
        "inputs",
        "items",
        "journaled",
        "labels",
        "late",
        "method",
        "on_late",
        "outputs",
        "over",
        "phases",
        "refused",
        "request_bytes",
        "response_bytes",
        "started_ns",
        "status",
        "streaming",
        "within",
    )

    def __init__(self, endpoint: Endpoint, context: RequestContext, method: str) -> None:
        self.started_ns = time.time_ns()
        self.arrived = time.perf_counter()
        self.endpoint = endpoint
        self.context = context
        self.method = method
        self.decoded_at = 0.0
        self.entered = False
        self.error: BaseException | None = None
        self.faults: list[tuple[str, Exception]] = []
        """What failed of our own while it was gathered, by part."""
        self.items = 0
        self.phases: dict[str, float] = {}
        self.labels: dict[str, str] = {}
        self.attributes: dict[str, Any] = _caller_in_opik(context) if context.opik_trace_id else {}
        self.entities: dict[str, Column] = {}
        self.inputs: dict[str, Column] = {}
        self.outputs: dict[str, Column] = {}
        self.feature_provenance: FeatureProvenance | None = None
        self.request_bytes = -1
        self.response_bytes = -1
        self.status = 0
        self.streaming: PredictionRecord | None = None
        """The record of a streamed answer that has begun and not ended."""
        self.ender: Ender | None = None
        """What ends a request that no layer does."""
        self.over = False
        """Whether it has ended: a server may begin a connection's next request in the context of the one before."""
        self.within = False
        """Whether it runs within another request, which is the one that is counted."""
        self.refused: str | None = None
        """Why its answer may not leave, where no layer holds it back."""
        self.journaled = False
        """Whether its record is in the journal, so that what is said of it later belongs there too."""
        self.held: PredictionRecord | None = None
        """The record, journaled and not shown to the observers before the disk has it."""
        self.finished: tuple[float, Any, BaseException | None] | None = None
        """When the method's thread ended, what it returned and what it raised."""
        self.on_late: Callable[[Observation], None] | None = None
        """What is called when the thread ends after the request did."""
        self.late = False
        """Whether that was put on record."""

    def fail(self, error: BaseException) -> None:
        """Note what was raised while serving it; the first such error counts."""
        if self.error is None:
            self.error = error
        if self.ender is not None:
            self.ender.ended(self, error)

    def finish(self, result: Any, error: BaseException | None) -> None:
        """Note, in the method's own thread, that it ended.

        The request may end on the event loop at the same moment: it sets ``on_late`` before it looks at ``finished``,
        and here it is the other way round, so that one of the two sees the other.
        """
        self.finished = (time.perf_counter(), result, error)
        if self.on_late is not None:
            self.on_late(self)

    def enter(self) -> float | None:
        """Note that the API method begins; returns the time, or ``None`` if it is entered once more from inside."""
        if self.entered:
            return None
        self.entered = True
        now = time.perf_counter()
        if self.decoded_at:
            self.phases["queue"] = now - self.decoded_at
        return now

    def record(
        self,
        model: ModelInfo,
        *,
        outcome: Outcome | None = None,
        sampling_fraction: float = 1.0,
        retention: str = "",
    ) -> PredictionRecord:
        """The record of the request as it stands.

        Args:
            model: The model that serves it.
            outcome: How it ended, when the status alone does not say.
            sampling_fraction: The fraction of such requests that are kept.
            retention: Its retention class.
        """
        context = self.context
        if outcome is None and isinstance(self.error, RefusedRequest):
            outcome = self.error.outcome
        if outcome is None:
            outcome = outcome_of(self.status)
        outputs = self.outputs if outcome is Outcome.OK else {}
        error_type = error_message = ""
        if outcome is not Outcome.OK and outcome is not Outcome.INTERRUPTED:
            error_type, error_message = describe_error(self.error, outcome)
        elif not self._fits(outputs):
            error_type = INCONSISTENT_COLUMNS
            error_message = f"Not of {self.items} items: {self._misfits(outputs)}."[:MAX_ERROR_MESSAGE]
        return PredictionRecord(
            context.prediction_id,
            self.started_ns,
            time.perf_counter() - self.arrived,
            outcome,
            self.status,
            self.endpoint.name,
            self.endpoint.route,
            self.method,
            context.request_id,
            context.trace_id,
            context.span_id,
            context.parent_span_id,
            context.parent_request_id,
            context.sampled,
            "",
            "",
            self.phases.copy(),
            model.name,
            model.version,
            model.task,
            error_type,
            error_message,
            self.labels,
            self.attributes,
            self.items,
            self.entities,
            self.inputs,
            outputs,
            self.request_bytes,
            self.response_bytes,
            sampling_fraction,
            salt=os.urandom(16),
            retention=retention,
            feature_provenance=self.feature_provenance,
        )

    def _fits(self, outputs: dict[str, Column]) -> bool:
        """Whether every column describes as many items as the request has."""
        items = self.items
        for columns in (self.entities, self.inputs, outputs):
            for column in columns.values():
                # Asked by type, as this is done for each column of each request.
                kind = type(column)
                if kind is Values:
                    if len(column.values) != items:  # type: ignore[union-attr]  # values
                        return False
                elif kind is Matrix and column.shape and column.shape[0] != items:  # type: ignore[union-attr]  # a matrix
                    return False
        return True

    def _misfits(self, outputs: dict[str, Column]) -> str:
        """Names of the columns that describe another number of items than the request has."""
        roots = (("entities", self.entities), ("inputs", self.inputs), ("outputs", outputs))
        return ", ".join(
            f"{root}.{name}"
            for root, columns in roots
            for name, column in columns.items()
            if column_length(column) not in (None, self.items)
        )


def _caller_in_opik(context: RequestContext) -> dict[str, Any]:
    found = {"opik_trace_id": context.opik_trace_id, "opik_parent_span_id": context.opik_parent_span_id}
    return {name: value for name, value in found.items() if value}


observation: ContextVar[Observation | None] = ContextVar("e2i_serving_observation", default=None)


def outcome_of(status: int) -> Outcome:
    """How a request ended, by the status that was sent."""
    if status < 400:  # noqa: PLR2004  # HTTP's own number
        return Outcome.OK
    if status in _TIMEOUT:
        return Outcome.TIMEOUT
    if status in _REJECTED:
        return Outcome.REJECTED
    if status in _INVALID or status < 500:  # noqa: PLR2004  # HTTP's own number
        return Outcome.INVALID
    return Outcome.ERROR


def describe_error(error: BaseException | None, outcome: Outcome) -> tuple[str, str]:
    """The type and bounded message of what went wrong."""
    if error is None:
        return str(outcome), ""
    kind = type(error)
    # Where a type is defined inside its package is that package's own affair.
    package = kind.__module__.partition(".")[0].removesuffix("_core")
    name = kind.__qualname__ if package == "builtins" else f"{package}.{kind.__qualname__}"
    try:
        message = _message(error)
    except Exception as broken:  # noqa: BLE001  # a user's __str__ may raise anything
        message = f"<{type(broken).__name__} while reading the message>"
    return name[:256], whole_text(message[:MAX_ERROR_MESSAGE])[:MAX_ERROR_MESSAGE]


def _message(error: BaseException) -> str:
    details = getattr(error, "errors", None)
    if callable(details) and type(error).__module__.startswith("pydantic"):
        # Its own text quotes the input, which may be personal data.
        found = details(include_url=False, include_input=False, include_context=False)
        return "; ".join(f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}" for each in found[:10])
    return without_quoted_input(str(error))


def without_quoted_input(text: str) -> str:
    """A text without the input that pydantic's own text of a failed validation quotes, which may be personal data."""
    begin = text.find(_QUOTED)
    if begin < 0:
        return text
    # By hand, as it is done on the event loop: a pattern would go over the rest once more for each that has no end.
    parts: list[str] = []
    at = 0
    while begin >= 0 and (end := text.find(_QUOTED_END, begin)) >= 0:
        parts += (text[at:begin], _QUOTED, "***")
        at = end
        begin = text.find(_QUOTED, end)
    return "".join((*parts, text[at:]))


def label_text(value: Any) -> str:
    """The value of a label as text, bounded."""
    return whole_text(str(value)[:MAX_LABEL])[:MAX_LABEL]


def annotate(
    *, labels: dict[str, str] | None = None, entities: Mapping[str, Any] | None = None, **attributes: Any
) -> None:
    """Add to the prediction being served; does nothing outside a request.

    Args:
        labels: Business labels, values by name; names that the service does not declare are left out of metrics.
        entities: Whom it is about, by the entity's key: an id, or a list with the id of each item. By these it is
            found, erased and held.
        attributes: Plain data for the audit record.
    """
    current = observation.get()
    if current is None:
        return
    if labels:
        current.labels = current.labels | {whole_text(str(name)): label_text(value) for name, value in labels.items()}
    if entities:
        current.entities = current.entities | {whole_text(str(key)): _ids(value) for key, value in entities.items()}
    if attributes:
        current.attributes = current.attributes | plain(attributes)


def _ids(value: Any) -> Column:
    made = plain(value)
    return Values(made) if isinstance(made, list) else Constant(made)
