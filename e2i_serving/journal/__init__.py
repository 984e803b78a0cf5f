"""The journal: where a prediction becomes accepted, before its answer leaves.

One folder a worker life, in it a lock that the worker holds while it lives and numbered, preallocated
segments of frames. The worker only appends; whoever holds the lock after it is its heir.
"""

from e2i_serving.journal.frame import Frame, FrameKind
from e2i_serving.journal.lives import LifeFolder, list_lives, new_life_id
from e2i_serving.journal.reader import JournalReader, Position
from e2i_serving.journal.writer import JournalWriter, without_payload

__all__ = [
    "Frame",
    "FrameKind",
    "JournalReader",
    "JournalWriter",
    "LifeFolder",
    "Position",
    "list_lives",
    "new_life_id",
    "without_payload",
]
