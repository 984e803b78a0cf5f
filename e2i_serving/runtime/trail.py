"""The audit trail in Python: ask what was predicted, for whom, by what, and how long it took."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain, islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import msgspec

from e2i_serving.exceptions import ConfigurationError, QueryError
from e2i_serving.record import PredictionFilter, Row
from e2i_serving.settings import Settings, default_data_dirs, load_settings
from e2i_serving.stores.conditions import checked
from e2i_serving.typing import AuditQuery

if TYPE_CHECKING:
    import pandas as pd

AUDIT_DB_NAME: Final = "audit.db"
"""The default audit store's file in a data directory."""

ITEM_ROWS: Final = "item_rows"
"""Where a prediction's row holds the list of its items' rows; its ``items`` is their number."""

_CHUNK: Final = 500
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_AGO: Final = re.compile(r"(\d{1,9})\s*([smhdw])")
_UNITS: Final = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days", "w": "weeks"}
_PERCENTILES: Final = {"p50": 0.50, "p95": 0.95, "p99": 0.99}


class PredictionRows:
    """Predictions that meet a filter, as rows by column name.

    Iterating asks the store, anew each time, and holds no more than a few hundred rows at once.
    """

    def __init__(self, fetch: Callable[[], Iterator[Row]], *, has_items: bool) -> None:
        self._fetch = fetch
        self._has_items = has_items

    def __iter__(self) -> Iterator[Row]:
        return self._fetch()

    def rows(self) -> list[Row]:
        """All of them in a list."""
        return list(self)

    def to_pandas(self) -> pd.DataFrame:
        """All of them in a pandas DataFrame.

        Returns:
            One row an item, the prediction's columns and the item's side by side (a prediction without
            items keeps one row); or one row a prediction when items were not asked for. The column
            ``time`` is ``time_ns`` as a UTC timestamp.

        Raises:
            ConfigurationError: pandas is not installed.
        """
        try:
            import pandas as pd  # noqa: PLC0415  # an extra, and slow to import
        except ImportError as error:
            raise ConfigurationError("to_pandas needs pandas: pip install 'e2i-serving[pandas]'.") from error
        frame = pd.DataFrame(list(chain.from_iterable(map(_by_item, self))) if self._has_items else self.rows())
        if "time_ns" in frame:
            frame.insert(0, "time", pd.to_datetime(frame["time_ns"], unit="ns", utc=True))
        return frame


class AuditTrail:
    """Reads an audit store. Use it as a context manager, or call ``close``.

    Example:
        ```python
        with AuditTrail.open() as trail:
            for row in trail.query(model="credit", outcome="error", since="1h"):
                print(row["request_id"], row["error_message"])
        ```

    Args:
        source: What to read.
        close: Gives back what ``source`` holds.
    """

    def __init__(self, source: AuditQuery, close: Callable[[], None] | None = None) -> None:
        self._source = source
        self._close = close

    @classmethod
    def open(cls, where: str | Path | None = None) -> Self:
        """Open an audit store for reading.

        Args:
            where: A data directory, an SQLite file, or an SQLAlchemy URL. None: the store that the settings name,
                else that of the only data directory under BentoML's home.

        Raises:
            ConfigurationError: Nothing says which store, or the URL is wrong.
            StoreError: There is no such file.
        """
        from e2i_serving.stores.engine import sqlite_url  # noqa: PLC0415  # keeps SQLAlchemy out of a worker
        from e2i_serving.stores.query import SqlAuditQuery  # noqa: PLC0415  # likewise

        if where is None:
            settings = load_settings().settings
            where = settings.audit_url or find_data_dir(settings)
        if isinstance(where, str) and "://" in where:
            source = SqlAuditQuery(where)
        else:
            path = Path(where).expanduser()
            is_file = path.is_file() or (path.suffix in {".db", ".sqlite"} and not path.is_dir())
            source = SqlAuditQuery(sqlite_url(path if is_file else path / AUDIT_DB_NAME))
        return cls(source, source.close)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Give back connections and files."""
        if self._close is not None:
            self._close()

    def query(
        self,
        where: PredictionFilter | None = None,
        *,
        limit: int | None = None,
        newest_first: bool = True,
        items: bool = True,
        **conditions: Any,
    ) -> PredictionRows:
        """Predictions that meet conditions.

        Args:
            where: Conditions; the keyword arguments come on top.
            limit: Most predictions.
            newest_first: By time of arrival, the newest or the oldest first.
            items: Also read each prediction's items, into the row's ``item_rows``.
            conditions: Fields of ``PredictionFilter``; ``since`` and ``until`` take what ``time_ns_of`` does.

        Raises:
            QueryError: A condition is unknown or can't be answered.
        """
        chosen = checked(prediction_filter(where, **conditions), limit)

        def fetch() -> Iterator[Row]:
            rows = self._source.predictions(chosen, limit=limit, newest_first=newest_first)
            return self._with_items(rows) if items else rows

        return PredictionRows(fetch, has_items=items)

    def get(self, prediction_id: str) -> Row | None:
        """One prediction with its items, by its prediction id; ``None`` when there is none."""
        return next(iter(self.query(prediction_id=prediction_id).rows()), None)

    def find(self, any_id: str) -> list[Row]:
        """Every prediction with this prediction id, request id or trace id, with its items, newest first."""
        filters = (
            PredictionFilter(prediction_id=any_id),
            PredictionFilter(request_id=any_id),
            PredictionFilter(trace_id=any_id.lower()),
        )
        found = {row["prediction_id"]: row for where in filters for row in self.query(where)}
        return sorted(found.values(), key=lambda row: (row["time_ns"], row["prediction_id"]), reverse=True)

    def count(self, where: PredictionFilter | None = None, **conditions: Any) -> int:
        """How many predictions meet conditions; see ``query``."""
        return self._source.count(prediction_filter(where, **conditions))

    def latency(
        self, where: PredictionFilter | None = None, **conditions: Any
    ) -> dict[tuple[str, str], dict[str, float]]:
        """Exact latency of the predictions that meet conditions, by (model, version).

        Args:
            where: As in ``query``.
            conditions: As in ``query``.

        Returns:
            For each model and version ``count``, and ``p50``, ``p95`` and ``p99`` in seconds, interpolated linearly
            between neighbouring observations, as NumPy does.
        """
        durations = self._source.durations(prediction_filter(where, **conditions))
        return {
            model: {"count": len(values), **{name: _quantile(values, part) for name, part in _PERCENTILES.items()}}
            for model, values in sorted(durations.items())
        }

    def _with_items(self, rows: Iterator[Row]) -> Iterator[Row]:
        while chunk := list(islice(rows, _CHUNK)):
            items = self._source.items([row["prediction_id"] for row in chunk])
            for row in chunk:
                yield {**row, ITEM_ROWS: items[row["prediction_id"]]}


def prediction_filter(where: PredictionFilter | None = None, **conditions: Any) -> PredictionFilter:
    """A filter from conditions by name.

    Args:
        where: Conditions to begin with.
        conditions: Fields of ``PredictionFilter``, and ``since`` and ``until``; ``None`` is no condition.

    Raises:
        QueryError: A name is unknown, or a value is of the wrong type.
    """
    fields = msgspec.structs.asdict(where or PredictionFilter())
    for name, value in conditions.items():
        if value is None:
            continue
        if name in ("since", "until"):
            fields[f"{name}_ns"] = time_ns_of(value)
        elif name in fields:
            fields[name] = value
        else:
            close = difflib.get_close_matches(name, [*fields, "since", "until"], n=1)
            mend = f"Did you mean {close[0]!r}?" if close else f"There are {', '.join(fields)}, since and until."
            raise QueryError(f"There is no condition {name!r}. {mend}")
    try:
        return msgspec.convert(fields, PredictionFilter)
    except msgspec.ValidationError as error:
        raise QueryError(f"A condition has a wrong value: {error}.") from error


def time_ns_of(value: str | datetime) -> int:
    """A point in time as nanoseconds since the epoch.

    Args:
        value: A datetime; or a text, either ISO 8601 or how long ago, such as ``30m``, ``1h`` or ``7d`` (units s, m,
            h, d and w). What has no time zone is in UTC.

    Raises:
        QueryError: It is neither.
    """
    moment = value
    if isinstance(moment, str):
        text = moment.strip()
        ago = _AGO.fullmatch(text)
        try:
            if ago:
                moment = datetime.now(UTC) - timedelta(**{_UNITS[ago[2]]: int(ago[1])})
            else:
                moment = datetime.fromisoformat(text)
        except (ValueError, OverflowError):
            raise QueryError(
                f"{value!r} is no time. Write it as 2030-01-31T12:00:00Z, or how long ago: 30m, 1h, 7d."
            ) from None
    if not isinstance(moment, datetime):
        raise QueryError(f"A time is a datetime or a text, not {type(value).__name__}.")
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return (moment - _EPOCH) // timedelta(microseconds=1) * 1000


def find_data_dir(settings: Settings) -> Path:
    """The data directory to look at when none is named: the one set, or the only one under BentoML's home.

    Raises:
        ConfigurationError: There is none, or more than one.
    """
    if settings.data_dir is not None:
        return settings.data_dir.expanduser().absolute()
    found = default_data_dirs()
    if not found:
        raise ConfigurationError(
            "No service has made a data directory here yet. Serve one, or name its directory: --data-dir, "
            "AuditTrail.open(path), or E2I_SERVING_DATA_DIR."
        )
    if len(found) > 1:
        listed = ", ".join(map(str, found))
        raise ConfigurationError(
            f"Several services have a data directory here: {listed}. Name one: --data-dir, AuditTrail.open(path), "
            "or E2I_SERVING_DATA_DIR."
        )
    return found[0]


def _by_item(row: Row) -> Iterator[Row]:
    prediction = {name: value for name, value in row.items() if name != ITEM_ROWS}
    items: list[Row] = row[ITEM_ROWS] or [{}]
    for item in items:
        yield {**prediction, **item}


def _quantile(ordered: Sequence[float], part: float) -> float:
    place = part * (len(ordered) - 1)
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
