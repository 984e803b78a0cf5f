"""Upper bounds of histograms' buckets."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

_STEPS = 280
_FASTEST = 1e-4
_SLOWEST = 60.0

DURATION_GRID: tuple[float, ...] = tuple(
    float(f"{_FASTEST * (_SLOWEST / _FASTEST) ** (step / _STEPS):.4g}") for step in range(-1, _STEPS + 1)
)
"""From just below 100 microseconds to 60 seconds, each at most 5 % above the one before: what a percentile may be off
by."""

COARSE_DURATIONS: tuple[float, ...] = (0.001, 0.01, 0.1, 1.0, 10.0)
"""Seconds, for the many series beside the total, where the objectives' own bounds are what counts."""

SIZES: tuple[float, ...] = tuple(4.0**power for power in range(3, 13))
"""Bytes, from 64 to 16 MiB."""

AGES: tuple[float, ...] = (
    1.0,
    60.0,
    600.0,
    3600.0,
    21_600.0,
    86_400.0,
    259_200.0,
    604_800.0,
    2_592_000.0,
    31_536_000.0,
)
"""Seconds, from one to a year."""

RETRIEVALS: tuple[float, ...] = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)
"""Seconds, of fetching features."""

ITEM_COUNTS: tuple[float, ...] = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 10_000.0)

SCORES: tuple[float, ...] = tuple(round(0.05 * step, 2) for step in range(1, 21))
"""Probabilities, in steps of 0.05."""

_MAGNITUDES = tuple(float(f"{mantissa}e{power}") for power in range(-3, 7) for mantissa in (1, 3))

SIGNED: tuple[float, ...] = (*(-bound for bound in reversed(_MAGNITUDES)), 0.0, *_MAGNITUDES)
"""Any number, by its sign and half its decade, from a thousandth to three million."""


def with_bounds(grid: Sequence[float], bounds: Iterable[float]) -> tuple[float, ...]:
    """A grid with more bounds in it."""
    return tuple(sorted({*grid, *bounds}))


def rebucketed(values: Sequence[float], old: Sequence[float], new: Sequence[float]) -> list[float]:
    """A histogram's numbers under other bounds, never counting anything faster than it was.

    Args:
        values: One count a bucket, the last of them for +Inf, and the sum.
        old: The bounds they were counted with.
        new: The bounds wanted.

    Returns:
        The numbers under the new bounds: what was counted up to a bound that is no more stands at the next above.
        At a bound that both have, the cumulative count is what it was.
    """
    found = [0.0] * (len(new) + 2)
    for bound, count in zip(old, values, strict=False):
        found[bisect_left(new, bound)] += count
    found[len(new)] += values[-2]
    found[-1] = values[-1]
    return found
