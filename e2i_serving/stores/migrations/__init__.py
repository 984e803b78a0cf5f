"""Migrations: from what an older release made to the tables that this one writes.

Alembic runs the steps in ``versions``. It is imported only when a store is not at ``HEAD``.
"""

from __future__ import annotations

import threading
from typing import Any, Final

from sqlalchemy import Connection, Engine, Select, func, inspect, select
from sqlalchemy import column as sql_column
from sqlalchemy import table as sql_table

from e2i_serving.exceptions import StoreError
from e2i_serving.stores.tables import predictions

VERSIONS: Final = ("0001", "0002", "0003")
"""Every version there is, the oldest first."""

HEAD: Final = VERSIONS[-1]
"""The version that this release reads and writes."""

VERSION_TABLE: Final = "e2i_serving_version"
"""Where a store notes its version. Not Alembic's own name: the database may be shared with others who use it."""

_SCHEMA_LOCK: Final = 0x653269  # any number will do; all relays must agree on it
_VERSION: Final[Select[Any]] = select(sql_column("version_num")).select_from(sql_table(VERSION_TABLE))
_ONE_AT_A_TIME: Final = threading.Lock()  # Alembic keeps its context in module globals


def version_of(connection: Connection) -> str | None:
    """The version of a store; ``None`` where there is no store yet.

    Args:
        connection: To the database. What it is asked may begin a transaction.

    Raises:
        StoreError: A newer release made it.
    """
    there = inspect(connection)
    # The tables before the version, which come at once: a relay may make them between the two questions.
    has_tables = there.has_table(predictions.name)
    if not there.has_table(VERSION_TABLE):
        return VERSIONS[0] if has_tables else None
    version = connection.execute(_VERSION).scalar_one_or_none()
    if version is not None and version not in VERSIONS:
        raise StoreError(
            f"The audit store was made by a newer release: its tables have version {version}, this release knows up to "
            f"{HEAD}. Install the newer release here too."
        )
    return version


def is_foreign(connection: Connection) -> bool:
    """Whether a database without a store holds something else.

    Args:
        connection: To the database.
    """
    return bool(inspect(connection).get_table_names())


def bring_to_head(engine: Engine) -> None:
    """Make or upgrade a store's tables, in one transaction; only one process at a time does.

    Args:
        engine: The store's.

    Raises:
        StoreError: A newer release made the store.
        SQLAlchemyError: The database refused.
    """
    with engine.connect() as connection:
        if connection.dialect.name == "postgresql":
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")  # an index on many rows takes its time
            connection.execute(select(func.pg_advisory_xact_lock(_SCHEMA_LOCK)))
        else:
            connection.exec_driver_sql("BEGIN IMMEDIATE")
        if version_of(connection) != HEAD:
            _run_alembic(connection)
        connection.commit()


def _run_alembic(connection: Connection) -> None:
    from alembic import command  # noqa: PLC0415  # slow to import, and hardly ever needed
    from alembic.config import Config  # noqa: PLC0415  # likewise

    config = Config()
    config.set_main_option("script_location", f"{__package__}:")
    config.attributes["connection"] = connection
    with _ONE_AT_A_TIME:
        command.upgrade(config, "head")
