"""What is taken out of records before they are kept: rules by path, an allow-list, and patterns for free text."""

from e2i_serving.redaction.actions import HASH_PREFIX
from e2i_serving.redaction.redactor import Redactor, redactor_of

__all__ = ["HASH_PREFIX", "Redactor", "redactor_of"]
