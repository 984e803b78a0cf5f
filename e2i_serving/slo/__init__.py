"""Objectives: what is promised, the rules that watch over it, and what is left of its budget."""

from e2i_serving.slo.objectives import DEFAULT_OBJECTIVES, Indicator, Objective, Objectives
from e2i_serving.slo.openslo import FILE_NAME, load_objectives

__all__ = ["DEFAULT_OBJECTIVES", "FILE_NAME", "Indicator", "Objective", "Objectives", "load_objectives"]
