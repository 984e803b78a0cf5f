"""The same model behind a base of this package, which takes instances and answers with classes and scores."""

from __future__ import annotations

from scorer import MODEL, OPTIONS

import e2i_serving


@e2i_serving.service(**OPTIONS)
class Base(e2i_serving.ClassificationService):
    """What a user of the package writes."""

    model = MODEL
