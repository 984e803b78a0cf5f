"""The journal: where a prediction becomes accepted, before its answer leaves.

One folder a worker life, in it a lock that the worker holds while it lives and numbered, preallocated
segments of frames. The worker only appends; whoever holds the lock after it is its heir.
"""

from e2i_serving.journal.damage import countable_records, is_unreadable, set_aside, set_aside_bytes
from e2i_serving.journal.frame import Frame, FrameKind
from e2i_serving.journal.lives import LifeFolder, list_lives, new_life_id
from e2i_serving.journal.reader import DAMAGED, JournalReader, Position
from e2i_serving.journal.room import JournalRoom
from e2i_serving.journal.segments import SegmentTotals
from e2i_serving.journal.writer import JournalWriter, without_payload

__all__ = [
    "DAMAGED",
    "Frame",
    "FrameKind",
    "JournalReader",
    "JournalRoom",
    "JournalWriter",
    "LifeFolder",
    "Position",
    "SegmentTotals",
    "countable_records",
    "is_unreadable",
    "list_lives",
    "new_life_id",
    "set_aside",
    "set_aside_bytes",
    "without_payload",
]
