"""Where an instance's signing key and checkpoints are, and how they are opened."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from e2i_serving.evidence.checkpoints import Checkpointer
from e2i_serving.evidence.log import EvidenceLog
from e2i_serving.evidence.signing import open_signing_key
from e2i_serving.settings import Settings, instance_name

SIGNING_KEY_NAME: Final = "signing.key"
CHECKPOINTS: Final = "checkpoints"


def checkpoint_dir_of(settings: Settings, data_dir: Path) -> Path:
    """The folder of an instance's checkpoints."""
    if settings.checkpoint_dir is not None:
        return settings.checkpoint_dir.expanduser().absolute()
    return data_dir / CHECKPOINTS


def signing_key_file_of(settings: Settings, data_dir: Path) -> Path:
    """The file of an instance's signing key."""
    if settings.signing_key_file is not None:
        return settings.signing_key_file.expanduser().absolute()
    return data_dir / SIGNING_KEY_NAME


def open_log(settings: Settings, data_dir: Path) -> EvidenceLog:
    """Open an instance's log for appending; its key is made when it is not there.

    Raises:
        EvidenceError: The key can't be used.
    """
    return EvidenceLog(checkpoint_dir_of(settings, data_dir), open_signing_key(signing_key_file_of(settings, data_dir)))


def open_checkpointer(settings: Settings, data_dir: Path) -> Checkpointer:
    """Open what writes an instance's checkpoints.

    Raises:
        EvidenceError: The key can't be used, or the log can't be read.
    """
    return Checkpointer(
        open_log(settings, data_dir),
        f"{instance_name(settings)}:{data_dir}" if settings.checkpoint_dir else instance_name(settings),
        seconds=settings.checkpoint_seconds,
        records=settings.checkpoint_records,
    )
