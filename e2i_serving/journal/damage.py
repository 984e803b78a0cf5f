"""Lives that nobody can read any more: no segment says whose it is, as after a loss of power.

They are set aside under a hidden name, where no reader meets them and whoever wants to may look at them.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

from e2i_serving.exceptions import FrameError, NewerFrameError
from e2i_serving.journal.frame import FRAME_HEAD, SEGMENT_HEAD, SEGMENT_MAGIC, parse
from e2i_serving.journal.lives import LifeFolder
from e2i_serving.journal.segments import life_frame

DAMAGED_PREFIX: Final = ".damaged-"
"""What the name of a folder begins with that was set aside."""


def is_unreadable(folder: LifeFolder) -> bool:
    """Whether no segment says whose it is; false when a newer release could tell, or when there is none.

    Raises:
        OSError: A segment can't be read now.
    """
    numbers = folder.segments()
    return bool(numbers) and all(_is_spoilt(folder.segment(number)) for number in numbers)


def countable_records(folder: LifeFolder) -> int:
    """How many records a life has journaled, as far as any whole frame in it tells; 0 when none does.

    Raises:
        OSError: A segment can't be read.
    """
    return max((_last_ordinal(folder.segment(number).read_bytes()) for number in folder.segments()), default=0)


def set_aside(folder: LifeFolder) -> Path:
    """Set a life's folder aside, without the zeros that no frame stands behind; returns where it is now.

    Raises:
        OSError: It can't be moved.
    """
    for number in folder.segments():
        path = folder.segment(number)
        with suppress(OSError):  # it may be as large as it is
            os.truncate(path, len(path.read_bytes().rstrip(b"\0")))
    return folder.path.rename(folder.path.with_name(DAMAGED_PREFIX + folder.life))


def set_aside_bytes(journal: Path) -> int:
    """Disk taken by all folders of a journal that were set aside."""
    try:
        names = [entry.name for entry in os.scandir(journal) if entry.name.startswith(DAMAGED_PREFIX)]
    except FileNotFoundError:
        return 0
    return sum(LifeFolder(journal / name).bytes() for name in names)


def _is_spoilt(path: Path) -> bool:
    try:
        life_frame(path).decode()
    except NewerFrameError:
        return False
    except FrameError:
        with path.open("rb") as file:
            magic = file.read(len(SEGMENT_MAGIC))
        return magic == SEGMENT_MAGIC or not magic.startswith(SEGMENT_MAGIC[:-1])  # else of another format's version
    return False


def _last_ordinal(data: bytes) -> int:
    last, at = 0, SEGMENT_HEAD.size
    while len(data) - at >= FRAME_HEAD.size and (length := FRAME_HEAD.unpack_from(data, at)[0]):
        with suppress(FrameError):
            if (parsed := parse(data, at)) is not None:
                last = max(last, parsed[0].ordinal)
        at += FRAME_HEAD.size + length
    return last
