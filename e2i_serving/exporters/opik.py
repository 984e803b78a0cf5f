"""The exporter to Opik, by its REST batches; none of its own SDK's code takes part."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any, Final

from e2i_serving.exporters.documents import as_json
from e2i_serving.exporters.opik_traces import (
    PARENT_TRACE,
    LifeFacts,
    TraceStyle,
    child_span,
    ending,
    feedback_score,
    late_spans,
    phase_spans,
    traces_of,
)
from e2i_serving.exporters.transport import Transport
from e2i_serving.record import Entry, LateResult, Outcome, OutcomeEvent, PredictionRecord, StreamEnd

OPIK: Final = "opik"
"""Name of the destination."""

BATCH_ITEMS: Final = 1000
"""Most traces, spans or scores that Opik takes in one request."""
BATCH_BYTES: Final = 4 * 1024 * 1024
"""Bytes of JSON after which a request takes no more."""

_JSON: Final = {"Content-Type": "application/json"}
_SAMPLED_BITS: Final = 48


class OpikExporter:
    """Sends predictions to Opik as traces, and outcomes as feedback scores.

    The trace's id is the prediction's, so that one that is sent again is the same trace. Late results are spans of it.

    Args:
        url: Where Opik's API is.
        api_key: The API key; empty for none.
        workspace: The workspace.
        style: How predictions are made into traces.
        spans: Whether each phase is a span.
        sampling_rate: Fraction of predictions that is sent, by their ids.
        sampling_errors: Whether those that did not end well are sent whatever the rate.
        timeout_seconds: Longest that a request may take.

    Raises:
        ConfigurationError: The address is no HTTP address.
    """

    name = OPIK

    def __init__(
        self,
        url: str,
        *,
        api_key: str = "",
        workspace: str = "default",
        style: TraceStyle | None = None,
        spans: bool = False,
        sampling_rate: float = 1.0,
        sampling_errors: bool = True,
        timeout_seconds: float = 10.0,
    ) -> None:
        headers = {"Comet-Workspace": workspace}
        if api_key:
            headers["Authorization"] = api_key
        self._transport = Transport(
            "Opik",
            url,
            headers,
            timeout_seconds=timeout_seconds,
            mend_denied="Check opik_api_key (OPIK_API_KEY) and opik_workspace (OPIK_WORKSPACE).",
        )
        self._style = style or TraceStyle()
        self._spans = spans
        self._sampled_below = round(sampling_rate * (1 << _SAMPLED_BITS))
        self._sampling_errors = sampling_errors

    def export(self, entries: Sequence[Entry]) -> None:
        """Send entries; see ``Exporter.export``."""
        records, ends, updates = self._predictions(entries)
        self._post("POST", "traces/batch", "traces", self._traces(records, ends))
        with_spans = records if self._spans else [each for each in records if PARENT_TRACE in each[1].attributes]
        spans = chain(self._all_spans(with_spans, ends), self._late_spans(entries))
        self._post("POST", "spans/batch", "spans", spans)
        for entry, end in updates:
            body_json = as_json(ending(entry, end, self._style))
            self._transport.send("PATCH", f"/v1/private/traces/{end.prediction_id}", body_json, headers=_JSON)
        self._post("PUT", "traces/feedback-scores", "scores", self._scores(entries))

    def check(self) -> None:
        """Ask whether it lives, and for a project, which only those may who are let in."""
        self._transport.send("GET", "/is-alive/ping")
        self._transport.send("GET", "/v1/private/projects?size=1")

    def force_flush(self, timeout_seconds: float) -> bool:  # noqa: ARG002  # as the Protocol has it
        """Nothing is held back."""
        return True

    def shutdown(self) -> None:
        """Close the connections."""
        self._transport.close()

    def _predictions(
        self, entries: Sequence[Entry]
    ) -> tuple[list[tuple[Entry, PredictionRecord]], dict[str, StreamEnd], list[tuple[Entry, StreamEnd]]]:
        """The predictions that are to be sent, how those ended, and the ends of others that were sent before."""
        records: dict[str, tuple[Entry, PredictionRecord]] = {}
        ends: dict[str, StreamEnd] = {}
        updates: list[tuple[Entry, StreamEnd]] = []
        for entry in entries:
            body = entry.body
            if isinstance(body, PredictionRecord):
                records[body.prediction_id] = (entry, body)
            elif isinstance(body, StreamEnd):
                if body.prediction_id in records:
                    ends[body.prediction_id] = body
                elif self._is_sampled(body.prediction_id):
                    updates.append((entry, body))
        return [each for each in records.values() if self._is_wanted(each[1], ends)], ends, updates

    def _late_spans(self, entries: Sequence[Entry]) -> Iterator[dict[str, Any]]:
        for entry in entries:
            body = entry.body
            # What comes to something late was answered with an error, or not at all.
            if isinstance(body, LateResult) and (self._sampling_errors or self._is_sampled(body.prediction_id)):
                yield from late_spans(entry, body, self._style)

    def _scores(self, entries: Sequence[Entry]) -> Iterable[dict[str, Any]]:
        scores: dict[tuple[str, str], dict[str, Any]] = {}
        for entry in entries:
            body = entry.body
            if isinstance(body, OutcomeEvent) and self._is_sampled(body.prediction_id):
                score = feedback_score(entry, body, self._style)
                scores.pop(key := (score["id"], score["name"]), None)
                scores[key] = score  # of several of a name, the last one recorded holds
        return scores.values()

    def _traces(
        self, records: Iterable[tuple[Entry, PredictionRecord]], ends: dict[str, StreamEnd]
    ) -> Iterable[dict[str, Any]]:
        facts: LifeFacts | None = None
        for entry, record in records:
            if facts is None or facts.life is not entry.life:
                facts = LifeFacts(entry.life, self._style)
            yield from traces_of(entry, record, ends.get(record.prediction_id), self._style, facts)

    def _all_spans(
        self, records: Iterable[tuple[Entry, PredictionRecord]], ends: dict[str, StreamEnd]
    ) -> Iterable[dict[str, Any]]:
        for entry, record in records:
            facts = LifeFacts(entry.life, self._style)
            trace = traces_of(entry, record, ends.get(record.prediction_id), self._style, facts)[0]
            if self._spans:
                yield from phase_spans(trace, record)
            if (child := child_span(trace, record)) is not None:
                yield child

    def _post(self, method: str, path: str, member: str, objects: Iterable[dict[str, Any]]) -> None:
        """Send objects in as many requests as their number and size ask for."""
        batch: list[bytes] = []
        size = 0
        for each in objects:
            text = as_json(each)
            if batch and (len(batch) == BATCH_ITEMS or size + len(text) > BATCH_BYTES):
                self._send(method, path, member, batch)
                batch, size = [], 0
            batch.append(text)
            size += len(text)
        if batch:
            self._send(method, path, member, batch)

    def _send(self, method: str, path: str, member: str, batch: list[bytes]) -> None:
        body = b'{"%s":[%s]}' % (member.encode(), b",".join(batch))
        self._transport.send(method, f"/v1/private/{path}", body, headers=_JSON, compress=True)

    def _is_wanted(self, record: PredictionRecord, ends: dict[str, StreamEnd]) -> bool:
        if self._is_sampled(record.prediction_id):
            return True
        outcome = (ends.get(record.prediction_id) or record).outcome
        return self._sampling_errors and outcome not in (Outcome.OK, Outcome.INTERRUPTED)

    def _is_sampled(self, prediction_id: str) -> bool:
        if self._sampled_below >> _SAMPLED_BITS:
            return True
        # By the id alone, which events have as well. The end of a UUIDv7 is random.
        try:
            return int(prediction_id[-12:], 16) < self._sampled_below
        except ValueError:
            return True
