"""The version of a store's tables: asked for, insisted on, and brought up by hand where the relay is not to do it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy import Engine

from e2i_serving.exceptions import StoreError
from e2i_serving.stores.engine import existing_file, open_engine, store_errors
from e2i_serving.stores.migrations import HEAD, bring_to_head, version_of
from e2i_serving.stores.urls import masked_url


def stored_version(url: str) -> str | None:
    """The version of a store's tables; ``None`` where none are made yet.

    Args:
        url: The store's URL.

    Raises:
        ConfigurationError: The URL is wrong, or its driver is not installed.
        StoreError: There is no such file, a newer release made it, or it can't be read.
    """
    existing_file(url)
    with _engine(url, read_only=True) as engine, store_errors(url, "read"), engine.connect() as connection:
        return version_of(connection)


def upgrade_store(url: str) -> None:
    """Bring a store's tables to the version that this release writes; makes them where there are none.

    Args:
        url: The store's URL.

    Raises:
        ConfigurationError: The URL is wrong, or its driver is not installed.
        StoreError: There is no such file, a newer release made it, or it can't be upgraded; it is as it was.
    """
    existing_file(url)
    with _engine(url, read_only=False) as engine, store_errors(url, "upgraded"):
        bring_to_head(engine)


def open_current(url: str, *, read_only: bool) -> Engine:
    """Open a store whose tables have the version of this release.

    Args:
        url: The store's URL.
        read_only: Whether nothing is to be written.

    Raises:
        ConfigurationError: The URL is wrong, or its driver is not installed.
        StoreError: There is no such store, or its tables have another version.
    """
    version = stored_version(url)
    if version != HEAD:
        raise StoreError(
            f"The tables of the audit store {masked_url(url)} have version {version or 'none'}, this release needs "
            f"{HEAD}. Run `e2i-serving audit upgrade`."
        )
    return open_engine(url, read_only=read_only)


@contextmanager
def _engine(url: str, *, read_only: bool) -> Iterator[Engine]:
    engine = open_engine(url, read_only=read_only)
    try:
        yield engine
    finally:
        engine.dispose()
