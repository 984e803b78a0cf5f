"""What turned out to be true of predictions: how it is given, checked, and read from files."""

from e2i_serving.outcomes.files import Line, count_lines, read_outcomes
from e2i_serving.outcomes.given import GivenOutcome, checked_outcome, outcome_digest

__all__ = ["GivenOutcome", "Line", "checked_outcome", "count_lines", "outcome_digest", "read_outcomes"]
