"""Which audit store is meant, and through which data directory what is recorded about it goes."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

from e2i_serving.evidence.opening import checkpoint_dir_of
from e2i_serving.exceptions import ConfigurationError
from e2i_serving.settings import KEPT_NAME, Settings, default_data_dirs, kept_settings, load_settings, readers_dir

if TYPE_CHECKING:
    from e2i_serving.stores.query import SqlAuditQuery

AUDIT_DB_NAME: Final = "audit.db"
"""The default audit store's file in a data directory."""


class Place(NamedTuple):
    """An audit store, and the data directory beside it.

    Attributes:
        url: The store's URL.
        data_dir: The data directory whose relay writes to it.
        settings: Settings of a relay that does.
        is_reader_s_own: Whether the data directory is the reader's, made for what it records.
    """

    url: str
    data_dir: Path
    settings: Settings
    is_reader_s_own: bool

    def source(self) -> SqlAuditQuery:
        """What reads the store; one that a running relay is about to make is waited for, some seconds at most.

        Raises:
            ConfigurationError: The URL is wrong, or its driver is not installed.
            StoreError: There is no such file.
        """
        from e2i_serving.runtime.catching_up import await_store  # noqa: PLC0415  # keeps SQLAlchemy out of a worker
        from e2i_serving.stores.engine import file_of  # noqa: PLC0415  # likewise
        from e2i_serving.stores.query import SqlAuditQuery  # noqa: PLC0415  # likewise

        file = file_of(self.url)
        if file is not None and not Path(file).exists():
            await_store(self.data_dir)
        return SqlAuditQuery(self.url)


def locate(where: str | Path | None) -> Place:
    """Find a store.

    Args:
        where: A data directory, an SQLite file, or an SQLAlchemy URL. None: the store that the settings name, else
            that of the only data directory under BentoML's home.

    Raises:
        ConfigurationError: Nothing says which store.
    """
    from e2i_serving.stores.engine import file_of, sqlite_url  # noqa: PLC0415  # keeps SQLAlchemy out of a worker

    if where is None:
        settings = load_settings().settings
        if settings.audit_url and settings.data_dir is None:
            return _of_url(settings.audit_url, settings)
        where = find_data_dir(settings)
    is_url = isinstance(where, str) and "://" in where
    if is_url:
        file = file_of(str(where))
        if file is None:
            return _of_url(str(where), load_settings().settings)
        where = file
    path = Path(where).expanduser().absolute()
    if is_url or path.is_file() or (path.suffix in {".db", ".sqlite"} and not path.is_dir()):
        if path.name != AUDIT_DB_NAME or not (path.parent / "journal").is_dir():
            return _of_url(sqlite_url(path), load_settings().settings)
        path = path.parent
    return _of_data_dir(path)


def settings_beside(data_dir: Path | None, *, may_be_missing: bool = False) -> tuple[Settings, Path]:
    """The settings of the service whose data directory is meant, and that directory.

    Args:
        data_dir: The one that was named; None: the one that the settings name, else the only one there is.
        may_be_missing: Whether a directory that is not there yet will do.

    Raises:
        ConfigurationError: A setting is wrong, or there is no such directory, or more than one.
    """
    folder = data_dir.expanduser().absolute() if data_dir else find_data_dir(load_settings().settings)
    if not (may_be_missing or folder.is_dir()):
        raise ConfigurationError(f"There is no data directory {folder}. Name another with --data-dir.")
    return load_settings(data_dir=folder).settings.model_copy(update={"data_dir": folder}), folder


def used_beside(data_dir: Path | None) -> tuple[Settings, Path]:
    """As ``settings_beside``, of a directory that a service has used: any other looks as if all were well.

    Raises:
        ConfigurationError: As there, or nothing of theirs is in the directory.
    """
    from e2i_serving.relay.ledger_schema import LEDGER_NAME  # noqa: PLC0415  # workers import this, and no relay

    settings, folder = settings_beside(data_dir)
    # What a worker makes before it is asked for anything, and what a relay does.
    if not any((folder / name).exists() for name in (KEPT_NAME, "journal", "metrics", LEDGER_NAME)):
        raise ConfigurationError(
            f"{folder} is no data directory that a service has used. Name the folder that has journal and metrics "
            "in it with --data-dir."
        )
    return settings, folder


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


def _of_data_dir(folder: Path) -> Place:
    from e2i_serving.stores.engine import sqlite_url  # noqa: PLC0415  # as above

    settings = load_settings(data_dir=folder).settings
    url = settings.audit_url or sqlite_url(folder / AUDIT_DB_NAME)
    return Place(url, folder, settings.model_copy(update={"data_dir": folder}), is_reader_s_own=False)


def checkpoint_dirs(place: Place) -> list[Path]:
    """The folders of checkpoints that are known of a store: its data directory's, and that of who reads it by URL.

    Raises:
        ConfigurationError: There is none.
    """
    reader = _of_reader(place.url, load_settings().settings)
    folders = dict.fromkeys(checkpoint_dir_of(each.settings, each.data_dir) for each in (place, reader))
    found = [folder for folder in folders if folder.is_dir()]
    if not found:
        raise ConfigurationError(
            f"There are no checkpoints in {place.data_dir}. Name their folder with --checkpoints, once for each "
            "instance that writes to the store."
        )
    return found


def _of_url(url: str, settings: Settings) -> Place:
    """The place of a store: beside the one service on this machine that writes to it, else the reader's own."""
    if settings.data_dir is not None and url == settings.audit_url:
        return _of_data_dir(settings.data_dir.expanduser().absolute())
    writers = [folder for folder in default_data_dirs() if kept_settings(folder).get("audit_url") == url]
    return _of_data_dir(writers[0]) if len(writers) == 1 else _of_reader(url, settings)


def _of_reader(url: str, settings: Settings) -> Place:
    from e2i_serving.stores.urls import masked_url  # noqa: PLC0415  # as above

    # One a store: what is pending in it must not reach another.
    folder = readers_dir(settings) / hashlib.sha256(masked_url(url).encode()).hexdigest()[:16]
    changed = settings.model_copy(update={"audit_url": url, "data_dir": folder})
    return Place(url, folder, changed, is_reader_s_own=True)
