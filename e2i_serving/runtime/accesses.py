"""Who looked at the trail, and at what: recorded through the same journal as predictions."""

from __future__ import annotations

import logging
import os
import pwd
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import uuid_utils

from e2i_serving.exceptions import E2IServingError
from e2i_serving.record import AccessEvent
from e2i_serving.runtime.events import EventJournal
from e2i_serving.settings import Settings

logger = logging.getLogger("e2i_serving.audit")

UNKNOWN_NUMBER: Final = -1
"""How many predictions were shown, when they are read one after another."""

_DELIVERY_SECONDS: Final = 15.0
_SALT_BYTES: Final = 16


class AccessRecorder:
    """Records each look at a trail. It never raises: what can't be recorded is said once, and the look goes on.

    Args:
        data_dir: The data directory through whose journal accesses go.
        settings: The settings.
        way: ``cli`` or ``python``.
        action: What is done, where one command is one action; else the method's name is.
        delivers: Bring what was recorded to the store when closed, because nobody else does.
    """

    def __init__(
        self, data_dir: Path, settings: Settings, *, way: str, action: str = "", delivers: bool = False
    ) -> None:
        self._data_dir = data_dir
        self._settings = settings
        self._way = way
        self._action = action
        self._delivers = delivers
        self._journal: EventJournal | None = None
        self._failed = False

    def note(self, action: str, conditions: Mapping[str, Any], predictions: int) -> None:
        """Record one look.

        Args:
            action: What was done.
            conditions: What was asked for, by name; plain values.
            predictions: How many predictions are shown, or ``UNKNOWN_NUMBER``.
        """
        event = AccessEvent(
            access_id=str(uuid_utils.uuid7()),
            time_ns=time.time_ns(),
            principal=user_name(),
            source=socket.gethostname(),
            way=self._way,
            action=self._action or action,
            conditions=dict(conditions),
            predictions=predictions,
            salt=os.urandom(_SALT_BYTES),
        )
        try:
            if self._journal is None:
                self._journal = EventJournal(self._data_dir, self._settings, share=1.0)
            self._journal.append(event)
        except (E2IServingError, OSError) as error:
            self._say(error)

    def close(self) -> None:
        """End the recorder's life in the journal."""
        journal, self._journal = self._journal, None
        if journal is None:
            return
        try:
            journal.close()
            if self._delivers:
                journal.deliver(_DELIVERY_SECONDS)
        except (E2IServingError, OSError) as error:
            self._say(error)

    def _say(self, error: Exception) -> None:
        if not self._failed:
            self._failed = True
            logger.warning("This access to the audit trail can't be recorded: %s", error)


def user_name() -> str:
    """The operating system's name of the user, which no variable can change."""
    user = os.geteuid()
    try:
        return pwd.getpwuid(user).pw_name
    except KeyError:
        return f"uid {user}"
