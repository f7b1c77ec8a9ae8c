"""Robust trends: the Theil-Sen slope with its confidence interval, and how far a forecast would have been off.

Pure. Times are days from any origin. A few outliers (a load test, a day off) do not move the slope, which is why it is
this and not least squares (Sen, JASA 63, 1968).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

_Z = 1.959963984540054  # 95 %
BACKTEST = 0.25


@dataclass(frozen=True, slots=True)
class Trend:
    """A line: ``level`` at time 0 and ``slope`` a day, which is between ``low`` and ``high`` with 95 % confidence."""

    level: float
    slope: float
    low: float
    high: float

    def at(self, time: float) -> float:
        """Its value."""
        return self.level + self.slope * time


def theil_sen(points: Sequence[tuple[float, float]]) -> Trend:
    """The trend of (time, value). Raises ValueError for fewer than two different times."""
    slopes = sorted(
        (later - value) / (time2 - time)
        for place, (time, value) in enumerate(points)
        for time2, later in points[place + 1 :]
        if time2 != time
    )
    if not slopes:
        raise ValueError("a trend needs two different times")
    slope = median(slopes)
    level = median(value - slope * time for time, value in points)
    count, pairs = len(points), len(slopes)
    spread = _Z * math.sqrt(count * (count - 1) * (2 * count + 5) / 18)  # Kendall's variance, without ties
    first = max(0, math.floor((pairs - spread) / 2))
    last = min(pairs - 1, math.ceil((pairs + spread) / 2))
    return Trend(level, slope, slopes[first], slopes[last])


def days_to(limit: float, value: float, slope: float) -> float | None:
    """In how many days ``value`` reaches ``limit``: 0 when it has, None when it never does."""
    if value >= limit:
        return 0.0
    return (limit - value) / slope if slope > 0 else None


def backtest(points: Sequence[tuple[float, float]]) -> float | None:
    """How far off the forecast of the last quarter, made of what was before, would have been: the mean absolute error
    as a share of the mean value. None of too few points."""
    cut = len(points) - max(1, int(len(points) * BACKTEST))
    if cut < 4:
        return None
    trend, rest = theil_sen(points[:cut]), points[cut:]
    size = sum(abs(value) for _, value in rest)
    return sum(abs(trend.at(time) - value) for time, value in rest) / size if size else None
