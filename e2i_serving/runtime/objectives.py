"""The objectives of a service: ``slo.yaml`` beside its file."""

from __future__ import annotations

import logging
from pathlib import Path

from e2i_serving.exceptions import ConfigurationError
from e2i_serving.runtime.definition import source_file
from e2i_serving.slo import DEFAULT_OBJECTIVES, FILE_NAME, load_objectives

logger = logging.getLogger("e2i_serving")


def objectives_file(inner: type) -> Path | None:
    """The file of objectives beside a service's own; ``None`` when there is none."""
    source = source_file(inner)
    path = source.with_name(FILE_NAME) if source is not None else None
    return path if path is not None and path.is_file() else None


def latency_bounds(inner: type) -> tuple[float, ...]:
    """The bounds of a service's latency objectives in seconds, ascending; the default ones' where the file is wrong.

    A start-up check says what is wrong with it; a worker that was started all the same serves.
    """
    try:
        return load_objectives(objectives_file(inner)).latency_bounds()
    except ConfigurationError as error:
        logger.warning("Durations are counted by the default objectives' bounds: %s", error)
        return DEFAULT_OBJECTIVES.latency_bounds()
