"""Windows of time: OpenSLO's durations, rolling windows, and those of the calendar."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)

_UNITS = {"m": MINUTE, "h": timedelta(hours=1), "d": DAY, "w": 7 * DAY}
_MONTHS = {"M": 1, "Q": 3, "Y": 12}
_SHORTHAND = re.compile(r"([1-9][0-9]{0,3})([mhdwMQY])")


def fixed(text: str) -> timedelta:
    """The length of ``5m``, ``6h``, ``28d`` or ``4w``. Raises ValueError, also for what has no fixed length."""
    found = _SHORTHAND.fullmatch(text)
    if found is None or found[2] not in _UNITS:
        raise ValueError(f"{text!r} is no duration such as 5m, 6h, 28d or 4w")
    return int(found[1]) * _UNITS[found[2]]


@dataclass(frozen=True, slots=True)
class Window:
    """The stretch of time a budget is for, as OpenSLO writes it.

    A rolling one ends now. One of the calendar begins at ``start`` (local time of ``zone``) or a whole number of
    durations after it, and ends now too; before its first beginning there is none.
    """

    duration: str
    rolling: bool
    start: datetime | None = None
    zone: str = "UTC"

    def begin(self, now: datetime) -> datetime:
        """When the window that ``now`` is in began. Raises ValueError before the first one."""
        if self.rolling:
            return now - fixed(self.duration)
        if self.start is None:
            raise ValueError("a calendar window has a start")
        return self._of_calendar(now)

    def length(self) -> timedelta:
        """How long it is; of months the longest it can be."""
        if self.duration[-1] in _MONTHS:
            return timedelta(days=31 * _MONTHS[self.duration[-1]] * int(self.duration[:-1]))
        return fixed(self.duration)

    def _of_calendar(self, now: datetime) -> datetime:
        local = ZoneInfo(self.zone)
        start = self.start.replace(tzinfo=local) if self.start else now
        here = now.astimezone(local)
        if here < start:
            raise ValueError("the first window has not begun")
        if self.duration[-1] in _MONTHS:
            step = _MONTHS[self.duration[-1]] * int(self.duration[:-1])
            passed = (here.year - start.year) * 12 + here.month - start.month
            count = passed // step
            if _months_after(start, count * step) > here:
                count -= 1
            return _months_after(start, count * step).astimezone(UTC)
        # by the wall clock, so that a day stays a day where clocks are changed
        wall = here.replace(tzinfo=None) - start.replace(tzinfo=None)
        begun = start.replace(tzinfo=None) + (wall // fixed(self.duration)) * fixed(self.duration)
        return begun.replace(tzinfo=local).astimezone(UTC)


def floor_minute(at: datetime) -> datetime:
    """The beginning of the minute."""
    return at.replace(second=0, microsecond=0)


def _months_after(start: datetime, months: int) -> datetime:
    year, month = divmod(start.month - 1 + months, 12)
    first = start.replace(year=start.year + year, month=month + 1, day=1)
    following = (first.replace(day=28) + timedelta(days=4)).replace(day=1)
    last = (following - DAY).day
    return first.replace(day=min(start.day, last))
