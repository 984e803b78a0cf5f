"""The same class, observed: journal, relay, audit store, metrics and access log, all with their defaults."""

from __future__ import annotations

from scorer import OPTIONS, Scorer

import e2i_serving


@e2i_serving.service(**OPTIONS)
class Observed(Scorer):
    """Differs from the bare one by its decorator."""
