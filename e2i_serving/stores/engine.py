"""Database engines: which databases, opened how, and their errors in this package's words."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import msgspec
from sqlalchemy import URL, Engine, create_engine, event, make_url
from sqlalchemy.exc import ArgumentError, SQLAlchemyError, StatementError

from e2i_serving.exceptions import ConfigurationError, E2IServingError, StoreError
from e2i_serving.stores.urls import masked_url

BUSY_SECONDS: Final = 30
"""How long SQLite waits for another process's lock."""

CONNECT_SECONDS: Final = 10
"""How long a PostgreSQL server may take to answer a new connection."""

_CONNECT_ARGUMENTS: Final[dict[str, int]] = {
    "connect_timeout": CONNECT_SECONDS,
    # A server whose machine is gone is given up after 15 + 3 * 10 idle seconds, or 45 with data on the way.
    "keepalives": 1,
    "keepalives_idle": 15,
    "keepalives_interval": 10,
    "keepalives_count": 3,
    "tcp_user_timeout": 45_000,
}
"""What a PostgreSQL URL may set differently."""

_DRIVERS: Final = {
    "sqlite": "sqlite",
    "sqlite+pysqlite": "sqlite",
    "postgres": "postgresql+psycopg",
    "postgresql": "postgresql+psycopg",
    "postgresql+psycopg": "postgresql+psycopg",
}
_QUOTED: Final = re.compile(r'".*"')


def open_engine(url: str, *, read_only: bool = False) -> Engine:
    """An engine for an audit store; nothing is connected yet.

    Args:
        url: An SQLAlchemy URL, of SQLite (a file) or PostgreSQL.
        read_only: Never create or change anything.

    Returns:
        The engine. JSON columns take text and give objects.

    Raises:
        ConfigurationError: The URL is wrong, or its driver is not installed.
    """
    parsed = _parse(url)
    arguments: dict[str, Any] = {
        "json_serializer": _as_it_is,
        "json_deserializer": msgspec.json.decode,
        "hide_parameters": True,
        "pool_pre_ping": True,
    }
    is_sqlite = parsed.drivername == "sqlite"
    if is_sqlite:
        arguments["connect_args"] = {"timeout": BUSY_SECONDS}
        if read_only:
            name = quote(str(Path(parsed.database or "").absolute()))
            parsed = URL.create("sqlite", database=f"file:{name}", query={"mode": "ro", "uri": "true"})
    else:
        arguments["connect_args"] = {
            name: value for name, value in _CONNECT_ARGUMENTS.items() if name not in parsed.query
        }
        if read_only:
            arguments["execution_options"] = {"postgresql_readonly": True}
    try:
        engine = create_engine(parsed, **arguments)
    except ImportError as error:
        raise ConfigurationError(
            f"{masked_url(url)} needs a driver that is not installed: pip install 'e2i-serving[postgres]'."
        ) from error
    if is_sqlite and not read_only:
        event.listen(engine, "connect", _prepare_sqlite)
    return engine


def sqlite_url(path: Path) -> str:
    """The URL of an SQLite file, whatever characters its path has.

    Args:
        path: The file; it need not exist.
    """
    return URL.create("sqlite", database=str(path.expanduser().absolute())).render_as_string()


def file_of(url: str) -> Path | None:
    """The SQLite file that a URL names; ``None`` for a server.

    Raises:
        ConfigurationError: The URL is wrong.
    """
    parsed = _parse(url)
    return Path(parsed.database or "") if parsed.drivername == "sqlite" else None


def existing_file(url: str) -> Path | None:
    """The SQLite file that a URL names, which must be there; ``None`` for a server.

    Raises:
        ConfigurationError: The URL is wrong.
        StoreError: There is no such file.
    """
    path = file_of(url)
    if path is not None and not path.is_file():
        raise StoreError(
            f"There is no audit store at {path}. It is made when the relay stores a service's first prediction: "
            "see that the service runs with auditing on, or name another data directory or URL."
        )
    return path


@contextmanager
def store_errors(url: str, action: str) -> Iterator[None]:
    """Turn what a database raises into ``StoreError``, without passwords or anyone's data.

    Args:
        url: The store's URL.
        action: What was being done, such as ``"written"``.

    Raises:
        StoreError: The database refused.
    """
    try:
        yield
    except E2IServingError:
        raise  # said in this package's words already, though it may be a ValueError too
    except (SQLAlchemyError, OverflowError, ValueError) as error:
        raise StoreError(said_by(error, url, action)) from None


def said_by(error: Exception, url: str, action: str) -> str:
    """What a database raised, in one line, without passwords or anyone's data.

    Args:
        error: What was raised.
        url: The store's URL.
        action: What was being done, such as ``"written"``.
    """
    cause = error.orig if isinstance(error, StatementError) and error.orig is not None else error
    name = type(cause).__name__
    # The lines that follow may quote rows, and so may PostgreSQL's first one about bad data.
    line = name if isinstance(cause, UnicodeError) else (str(cause).strip().splitlines() or [name])[0]
    if (getattr(cause, "sqlstate", None) or "").startswith("22"):
        line = _QUOTED.sub('"..."', line)
    return f"The audit store {masked_url(url)} can't be {action}: {_without_password(line, url)}"


def _parse(url: str) -> URL:
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ConfigurationError(
            f"{masked_url(url)!r} is no store URL. Write sqlite:////var/lib/e2i/audit.db or "
            "postgresql://user:password@host/database."
        ) from None
    driver = _DRIVERS.get(parsed.drivername)
    if driver is None:
        raise ConfigurationError(
            f"{masked_url(url)}: there is no audit store on {parsed.drivername!r}. Use sqlite or postgresql."
        )
    if driver == "sqlite" and parsed.database in (None, "", ":memory:"):
        raise ConfigurationError(f"{url}: an audit store in memory is nobody else's to read. Name a file.")
    return parsed.set(drivername=driver)


def _without_password(text: str, url: str) -> str:
    password = _parse(url).password
    return masked_url(text.replace(str(password), "***") if password else text)


def _as_it_is(text: str) -> str:
    return text


def _prepare_sqlite(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode=WAL")  # readers and the relay do not wait for each other
    # The relay deletes what it journaled on this store's word, so a commit must be on the disk.
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()
