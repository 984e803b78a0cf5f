"""Evidence: what lets a reader prove that the trail was not altered after it was written."""

from e2i_serving.evidence.checkpoints import Checkpointer
from e2i_serving.evidence.commitments import entry_digest, event_salt, item_salts, prediction_salt, seal
from e2i_serving.evidence.opening import open_checkpointer

__all__ = [
    "Checkpointer",
    "entry_digest",
    "event_salt",
    "item_salts",
    "open_checkpointer",
    "prediction_salt",
    "seal",
]
