"""BentoML alone, with all its defaults."""

from __future__ import annotations

import bentoml
from scorer import OPTIONS, Scorer


@bentoml.service(**OPTIONS)
class Bare(Scorer):
    """The measure of the others."""
