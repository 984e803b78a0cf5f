"""What a database is asked, told to whoever wants to know: which operation, on what, how long; never any value."""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from sqlalchemy import Engine, event

logger = logging.getLogger("e2i_serving.relay")

_OPERATION: Final = re.compile(r"\s*(\w+)(?:\s+INTO\s+\"?(\w+))?")


class Database(NamedTuple):
    """Which database is asked.

    Attributes:
        system: ``sqlite`` or ``postgresql``.
        host: The server's name; empty for a file.
        port: Its port; 0 for a file.
        name: The database's name there; empty for a file.
    """

    system: str
    host: str = ""
    port: int = 0
    name: str = ""


class DatabaseCall(NamedTuple):
    """One call that is over.

    Attributes:
        database: Which database was asked.
        operation: What it was asked to do, such as ``INSERT`` or ``COMMIT``.
        table: The table that rows were put into; empty for other operations.
        rows: How many rows were handed over with it.
        began_ns: Wall clock when it began, nanoseconds since the epoch.
        ended_ns: When it ended.
        error_type: Type of what the driver raised; empty when it raised nothing.
        status: PostgreSQL's SQLSTATE, if there is one.
    """

    database: Database
    operation: str
    table: str
    rows: int
    began_ns: int
    ended_ns: int
    error_type: str = ""
    status: str = ""


OnCall = Callable[[DatabaseCall], object]
"""Is told a call, in the thread that made it, when it is over. What it raises is logged, and felt nowhere else."""


class CallWatch:
    """Tells the calls that go through an engine. For one thread that uses the engine.

    Making a connection, and what SQLAlchemy asks a new one, are no calls.

    Args:
        engine: The engine.
        on_call: Whom to tell.
    """

    def __init__(self, engine: Engine, on_call: OnCall) -> None:
        url = engine.url
        system = engine.dialect.name
        is_file = system == "sqlite"
        self._database = (
            Database(system) if is_file else Database(system, url.host or "", url.port or 0, url.database or "")
        )
        self._on_call = on_call
        self._begun: tuple[str, str, int, int] | None = None
        event.listen(engine, "before_cursor_execute", self._before)
        event.listen(engine, "after_cursor_execute", self._after)
        event.listen(engine, "commit", self._before_commit)
        event.listen(engine, "rollback", self._before_rollback)
        event.listen(engine, "handle_error", self._failed)
        # The first thing that is heard after a commit or a rollback.
        event.listen(engine, "checkin", self._after)

    def _before(
        self,
        _connection: Any,
        _cursor: Any,
        statement: str,
        parameters: Any,
        _context: Any,
        executemany: bool,  # noqa: FBT001  # SQLAlchemy's signature
    ) -> None:
        found = _OPERATION.match(statement)
        operation, table = (found[1].upper(), found[2] or "") if found else ("", "")
        self._begin(operation, table, len(parameters) if executemany else int(bool(table)))

    def _before_commit(self, _connection: Any) -> None:
        self._begin("COMMIT")

    def _before_rollback(self, _connection: Any) -> None:
        self._begin("ROLLBACK")

    def _after(self, *_: Any) -> None:
        self._end()

    def _failed(self, context: Any) -> None:
        cause = context.original_exception
        self._end(type(cause).__name__, getattr(cause, "sqlstate", None) or "")

    def _begin(self, operation: str, table: str = "", rows: int = 0) -> None:
        self._end()  # a commit that another operation follows on the same connection
        self._begun = operation, table, rows, time.time_ns()

    def _end(self, error_type: str = "", status: str = "") -> None:
        if self._begun is None:
            return
        operation, table, rows, began_ns = self._begun
        self._begun = None
        try:
            self._on_call(
                DatabaseCall(self._database, operation, table, rows, began_ns, time.time_ns(), error_type, status)
            )
        except Exception as error:  # noqa: BLE001  # what is written matters more than who hears of it
            logger.warning("A call of the database was told to nobody: %s: %s", type(error).__name__, error)
