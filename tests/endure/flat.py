"""Is a series of samples flat? A rule that is stated before the samples are seen.

Of the second half of the run (the first fills pools, caches and pages) the Theil-Sen
slope is taken: the median of the slopes between all pairs of samples, which a few odd
samples do not move. A series is flat if what it would have grown by over that half is
within its bound: so many in a hundred of its median, or so many units, whichever is
more.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Sequence

PAIRS = 500
"""Samples that are compared with each other; of more, evenly spread ones."""


@dataclasses.dataclass(frozen=True)
class Bound:
    """How much growth is none: a share of the median, or units."""

    share: float
    units: float

    def of(self, median: float) -> float:
        return max(self.share * median, self.units)


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Of one series, its second half."""

    name: str
    first: float
    last: float
    median: float
    growth: float
    bound: float

    @property
    def flat(self) -> bool:
        return self.growth <= self.bound


def theil_sen(times: Sequence[float], values: Sequence[float]) -> float:
    """The median slope, in units per second; 0 of less than two samples."""
    step = max(1, len(times) // PAIRS)
    points = list(zip(times, values, strict=True))[::step]
    slopes = [
        (value - before) / (time - earlier)
        for index, (time, value) in enumerate(points)
        for earlier, before in points[:index]
        if time > earlier
    ]
    return statistics.median(slopes) if slopes else 0.0


def judge(
    name: str, times: Sequence[float], values: Sequence[float], bound: Bound
) -> Verdict:
    """The verdict on a series."""
    half = len(times) // 2
    late, seen = times[half:], values[half:]
    growth = theil_sen(late, seen) * (late[-1] - late[0])
    median = statistics.median(seen)
    return Verdict(name, values[0], values[-1], median, growth, bound.of(median))
