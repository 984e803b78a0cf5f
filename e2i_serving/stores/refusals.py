"""Which errors of a database mean that it will never take a batch as it is."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from sqlalchemy.exc import DBAPIError, StatementError

from e2i_serving.exceptions import RefusedError
from e2i_serving.stores.engine import said_by

_REFUSED_CLASSES: Final = ("22", "23", "54", "P0")
"""SQLSTATE classes of PostgreSQL that are about the rows: bad data, a constraint, a limit of the program (an index key
that is too long), and what a trigger raised. All others pass: connections, locks, resources, rights, tables."""

_REFUSED_STATES: Final = ("42804", "42846")  # a value of a type that the column does not take
_NEVER_SENT: Final = ("DataError", "ProgrammingError", "NotSupportedError")


@contextmanager
def refusals(url: str) -> Iterator[None]:
    """Turn what is the rows' own fault into ``RefusedError``; other errors are left as they are.

    Args:
        url: The store's URL.

    Raises:
        RefusedError: The database refused the rows for good.
    """
    try:
        yield
    except (StatementError, OverflowError, ValueError, TypeError, KeyError) as error:
        if not _is_for_good(error):
            raise
        raise RefusedError(said_by(error, url, "written, and never will be with these rows")) from None


def _is_for_good(error: Exception) -> bool:
    if not isinstance(error, StatementError):
        return True  # a column is missing, or the driver could not even put the value into its own form
    if isinstance(error, DBAPIError) and error.connection_invalidated:
        return False
    cause = error.orig
    if isinstance(cause, sqlite3.Error):
        # Its other programming errors are about connections that were closed.
        is_binding = isinstance(cause, sqlite3.ProgrammingError | sqlite3.InterfaceError) and "bind" in str(cause)
        return is_binding or isinstance(cause, sqlite3.IntegrityError | sqlite3.DataError)
    state = getattr(cause, "sqlstate", None)
    if state:
        return state in _REFUSED_STATES or state.startswith(_REFUSED_CLASSES)
    return isinstance(cause, OverflowError | ValueError | TypeError) or type(cause).__name__ in _NEVER_SENT
