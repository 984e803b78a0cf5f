"""Predictions as rows, read one after another or all at once."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from e2i_serving.exceptions import ConfigurationError
from e2i_serving.record import WHOLE_REQUEST, Row
from e2i_serving.runtime.accesses import UNKNOWN_NUMBER

if TYPE_CHECKING:
    import pandas as pd

ITEM_ROWS: Final = "item_rows"
"""Where a prediction's row holds the list of its items' rows; its ``items`` is their number."""

OUTCOME_ROWS: Final = "outcomes"
"""Where a prediction's row holds the list of its outcomes, the first recorded first."""

LATE_ROWS: Final = "events"
"""Where a prediction's row holds the list of what came of it after it was answered."""


class PredictionRows:
    """Predictions that meet a filter, as rows by column name.

    Iterating asks the store, anew each time, and holds no more than a few hundred rows at once.
    """

    def __init__(
        self, fetch: Callable[[], Iterator[Row]], note: Callable[[int], None], *, has_items: bool, has_outcomes: bool
    ) -> None:
        self._fetch = fetch
        self._note = note
        self._has_items = has_items
        self._has_outcomes = has_outcomes

    def __iter__(self) -> Iterator[Row]:
        self._note(UNKNOWN_NUMBER)
        return self._fetch()

    def rows(self, without: Container[str] | None = None) -> list[Row]:
        """All of them in a list.

        Args:
            without: Ids of predictions to leave out, because they were shown before.
        """
        found = [row for row in self._fetch() if without is None or row["prediction_id"] not in without]
        if found or without is None:
            self._note(len(found))
        return found

    def to_pandas(self) -> pd.DataFrame:
        """All of them in a pandas DataFrame.

        Returns:
            One row an item, the prediction's columns and the item's side by side (a prediction without
            items keeps one row); or one row a prediction when items were not asked for. The column
            ``time`` is ``time_ns`` as a UTC timestamp. When outcomes were asked for, a column ``outcome.<name>``
            holds the latest value, or score, of that name for the item, else for the request.

        Raises:
            ConfigurationError: pandas is not installed.
        """
        try:
            import pandas as pd  # noqa: PLC0415  # an extra, and slow to import
        except ImportError as error:
            raise ConfigurationError("to_pandas needs pandas: pip install 'e2i-serving[pandas]'.") from error
        rows = self.rows()
        flat = list(chain.from_iterable(map(_by_item, rows))) if self._has_items else rows
        frame = pd.DataFrame([_with_latest(row) for row in flat] if self._has_outcomes else flat)
        if "time_ns" in frame:
            frame.insert(0, "time", pd.to_datetime(frame["time_ns"], unit="ns", utc=True))
        return frame


def _by_item(row: Row) -> Iterator[Row]:
    prediction = {name: value for name, value in row.items() if name != ITEM_ROWS}
    items: list[Row] = row[ITEM_ROWS] or [{}]
    for item in items:
        yield {**prediction, **item}


def _with_latest(row: Row) -> Row:
    latest: dict[str, Any] = {}
    # What is said of the item itself wins over what is said of the request, however late.
    for about in (WHOLE_REQUEST, row.get("item_index")):
        for outcome in row[OUTCOME_ROWS]:
            if outcome["item_index"] == about:
                value = outcome["value"] if outcome["value"] is not None else outcome["score"]
                latest[f"outcome.{outcome['name']}"] = value
    return {**{name: value for name, value in row.items() if name != OUTCOME_ROWS}, **latest}
