"""Records what turned out to be true of predictions, or how someone scored them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple, Self

import msgspec
import uuid_utils

from e2i_serving.exceptions import QueryError
from e2i_serving.outcomes import GivenOutcome, checked_outcome, outcome_digest
from e2i_serving.record import WHOLE_REQUEST, ModelInfo, OutcomeEvent, OutcomeFilter, Row
from e2i_serving.redaction import redactor_of
from e2i_serving.runtime.catching_up import await_store
from e2i_serving.runtime.events import EventJournal
from e2i_serving.runtime.places import locate
from e2i_serving.runtime.questions import time_ns_of
from e2i_serving.settings import Settings
from e2i_serving.typing import AuditQuery

DELIVERY_SECONDS: Final = 30.0
"""How long to wait for the store when no relay runs, and for room in the journal."""

_CHUNK: Final = 500
_SALT_BYTES: Final = 16


class Recorded(NamedTuple):
    """What became of one of many outcomes.

    Attributes:
        outcome_id: Its id; empty when it was refused.
        is_new: Whether it was recorded now; else the trail has it already.
        problem: Why it was refused; else empty.
    """

    outcome_id: str
    is_new: bool
    problem: str = ""


class OutcomeRecorder:
    """Records outcomes. Use it as a context manager, or call ``close``.

    What is recorded survives the kill of any process, and reaches the audit store through the relay. It is
    append-only: a correction is one more, and the last one recorded holds.

    Example:
        ```python
        with OutcomeRecorder.open() as outcomes:
            outcomes.record(prediction_id, item=0, value=True, source="claims")
        ```

    Args:
        journal: Where outcomes are appended.
        source: The trail, in which predictions are looked up.
        settings: What the trail was redacted by.
        allow_unknown: Record what the trail knows no prediction of, too.
        close: Gives back what ``source`` holds.
        catch_up: Waits for what is on its way to the store, where an outcome is of a prediction that it does not have.
    """

    def __init__(
        self,
        journal: EventJournal,
        source: AuditQuery,
        settings: Settings,
        *,
        allow_unknown: bool = False,
        close: Callable[[], None] | None = None,
        catch_up: Callable[[], object] | None = None,
    ) -> None:
        self._journal = journal
        self._source = source
        self._redactor = redactor_of(settings, ModelInfo())
        self._allow_unknown = allow_unknown
        self._close = close
        self._catch_up = catch_up
        self._closed = False

    @classmethod
    def open(cls, where: str | Path | None = None, *, allow_unknown: bool = False) -> Self:
        """Record outcomes of the predictions in a store.

        Args:
            where: As in ``AuditTrail.open``.
            allow_unknown: Record what the trail knows no prediction of, too.

        Raises:
            ConfigurationError: Nothing says which store, or the URL is wrong.
            StoreError: There is no such file.
        """
        place = locate(where)
        source = place.source()
        journal = EventJournal(place.data_dir, place.settings, room_seconds=DELIVERY_SECONDS)
        return cls(
            journal,
            source,
            place.settings,
            allow_unknown=allow_unknown,
            close=source.close,
            catch_up=None if place.is_reader_s_own else partial(await_store, place.data_dir),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def record(  # noqa: PLR0913  # each is a part of an outcome
        self,
        prediction_id: str = "",
        *,
        request_id: str = "",
        item: int | None = None,
        name: str = "truth",
        value: Any = None,
        score: float | None = None,
        source: str = "",
        comment: str = "",
        observed: str | datetime | None = None,
    ) -> str:
        """Record one outcome; when this returns, it can't be lost.

        Args:
            prediction_id: The prediction; this, or the request id.
            request_id: The caller's request id.
            item: The item's index in the request; ``None`` for the request as a whole.
            name: What was observed: ``truth``, or the name of a score.
            value: The truth: a plain value.
            score: A number.
            source: Who or what says so.
            comment: Free text.
            observed: When it became true or known; what ``time_ns_of`` takes.

        Returns:
            The outcome's id.

        Raises:
            QueryError: Something is missing or wrong, or the trail knows no such prediction.
            StoreError: The trail can't be read.
            JournalError: It could not be written.
        """
        given = GivenOutcome(
            prediction_id=prediction_id,
            request_id=request_id,
            item=item,
            name=name,
            value=value,
            score=score,
            source=source,
            comment=comment,
            observed_ns=time_ns_of(observed) if observed is not None else 0,
        )
        given = checked_outcome(given)
        identities = self._identities([given])
        if self._lacks([given], identities):
            identities = self._identities([given])
        event = self._event(given, identities)
        self._journal.append(event)
        return event.outcome_id

    def record_all(self, given: Iterable[GivenOutcome]) -> Iterator[Recorded]:
        """Record many outcomes, each once: what the trail has with the same prediction, name, value, score, source
        and time of observation is not recorded again.

        Args:
            given: The outcomes.

        Returns:
            What became of each, in their order. What is refused does not stop the others.

        Raises:
            StoreError: The trail can't be read.
            JournalError: An outcome could not be written.
        """
        rest = iter(given)
        seen: set[str] = set()
        is_current = False
        while chunk := list(islice(rest, _CHUNK)):
            identities = self._identities(chunk)
            if not is_current and self._lacks(chunk, identities):
                is_current = True  # what is not there yet will not be waited for again
                identities = self._identities(chunk)
            made = [self._try(each, identities) for each in chunk]
            wanted = tuple({event.outcome_id for event in made if isinstance(event, OutcomeEvent)})
            if wanted:
                seen.update(row["outcome_id"] for row in self._source.outcomes(OutcomeFilter(outcome_ids=wanted)))
            for event in made:
                if not isinstance(event, OutcomeEvent):
                    yield Recorded("", is_new=False, problem=event)
                    continue
                is_new = event.outcome_id not in seen
                if is_new:
                    self._journal.append(event)
                    seen.add(event.outcome_id)
                yield Recorded(event.outcome_id, is_new=is_new)

    def deliver(self, within_seconds: float = DELIVERY_SECONDS) -> bool:
        """End recording, and wait until the store has all that was recorded; runs a relay where none does.

        Args:
            within_seconds: Longest to wait.

        Returns:
            Whether the store has it; what it has not, waits for the next relay.
        """
        self._end()
        return self._journal.deliver(within_seconds)

    def close(self) -> None:
        """End recording. A relay that runs delivers what was recorded; where none does, one is run for a while."""
        if not self._closed:
            self._end()
            if not self._journal.has_relay():
                self._journal.deliver(DELIVERY_SECONDS)

    def _end(self) -> None:
        self._closed = True
        self._journal.close()
        if self._close is not None:
            self._close()

    def _lacks(self, given: Sequence[GivenOutcome], identities: _Identities) -> bool:
        """Whether a prediction was not known; what is on its way to the store was then waited for."""
        if self._catch_up is None or self._allow_unknown:
            return False
        if all(identities.of(each.prediction_id, self._stored(each.request_id)) for each in given):
            return False
        self._catch_up()
        return True

    def _try(self, given: GivenOutcome, identities: _Identities) -> OutcomeEvent | str:
        try:
            event = self._event(checked_outcome(given), identities)
        except QueryError as error:
            return str(error)
        return msgspec.structs.replace(event, outcome_id=outcome_digest(event))

    def _event(self, given: GivenOutcome, identities: _Identities) -> OutcomeEvent:
        known = identities.of(given.prediction_id, self._stored(given.request_id))
        if len(known) != 1 and not self._allow_unknown:
            raise QueryError(_unknown(given, len(known)))
        if len(known) == 1 and given.item is not None and given.item >= known[0]["items"]:
            found = known[0]
            raise QueryError(
                f"Prediction {found['prediction_id']} has {found['items']} items, and none with index {given.item}."
            )
        return OutcomeEvent(
            outcome_id=str(uuid_utils.uuid7()),
            time_ns=time.time_ns(),
            prediction_id=known[0]["prediction_id"] if len(known) == 1 else given.prediction_id,
            item_index=WHOLE_REQUEST if given.item is None else given.item,
            request_id=given.request_id,
            name=given.name,
            value=given.value,
            score=given.score,
            source=given.source,
            comment=given.comment,
            observed_ns=given.observed_ns,
            salt=os.urandom(_SALT_BYTES),
        )

    def _identities(self, given: Sequence[GivenOutcome]) -> _Identities:
        by_request = [self._stored(each.request_id) for each in given if each.request_id and not each.prediction_id]
        return _Identities(
            self._source.identities([each.prediction_id for each in given if each.prediction_id], by_request)
        )

    def _stored(self, request_id: str) -> str:
        return self._redactor.request_id(request_id) if self._redactor is not None else request_id


class _Identities:
    """Predictions by their ids."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._by_prediction = {row["prediction_id"]: row for row in rows}
        self._by_request: dict[str, list[Row]] = {}
        for row in rows:
            self._by_request.setdefault(row["request_id"] or "", []).append(row)

    def of(self, prediction_id: str, request_id: str) -> list[Row]:
        """The predictions that ids stand for; both must fit when both are given."""
        if not prediction_id:
            return self._by_request.get(request_id, [])
        row = self._by_prediction.get(prediction_id)
        fits = row is not None and (not request_id or row["request_id"] == request_id)
        return [row] if row is not None and fits else []


def record_outcome(prediction_id: str = "", *, data_dir: str | Path | None = None, **fields: Any) -> str:
    """Record one outcome of a prediction. For many, keep an ``OutcomeRecorder`` open.

    Args:
        prediction_id: The prediction; or give ``request_id``.
        data_dir: The service's data directory, an SQLite file or a URL, as in ``AuditTrail.open``.
        fields: As in ``OutcomeRecorder.record``.

    Returns:
        The outcome's id.

    Raises:
        QueryError: Something is missing or wrong, or the trail knows no such prediction.
        StoreError: The trail can't be read.
        JournalError: It could not be written.
    """
    with OutcomeRecorder.open(data_dir) as recorder:
        return recorder.record(prediction_id, **fields)


def _unknown(given: GivenOutcome, matches: int) -> str:
    mend = "Correct it, wait until the relay has stored it, or allow unknown ones (--allow-unknown)."
    if matches:
        return (
            f"Request id {given.request_id!r} stands for {matches} predictions. Name one by its prediction id, or "
            "allow it as it is (--allow-unknown)."
        )
    if given.prediction_id and given.request_id:
        return f"The trail has no prediction {given.prediction_id!r} of request {given.request_id!r}. {mend}"
    if given.prediction_id:
        return f"The trail has no prediction {given.prediction_id!r}. {mend}"
    return f"The trail has no prediction of request {given.request_id!r}. {mend}"
