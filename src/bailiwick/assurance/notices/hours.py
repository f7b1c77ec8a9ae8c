"""Business hours: which moments count, and when an amount of them is over."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, time, timedelta
from functools import lru_cache
from typing import Literal
from zoneinfo import ZoneInfo

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: tuple[Day, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


@dataclass(frozen=True, slots=True)
class Hours:
    """From ``begin`` to ``end`` on ``days`` (0 is Monday), by the clocks of ``timezone`` (an IANA name).

    Raises :class:`ValueError` where no hour is left or the timezone is unknown.
    """

    days: tuple[int, ...] = (0, 1, 2, 3, 4)
    begin: time = time(9)
    end: time = time(17)
    timezone: str = "UTC"

    def __post_init__(self) -> None:
        if not self.days or self.begin >= self.end:
            raise ValueError("business hours need a day, and begin before they end")
        _zone(self.timezone)

    def open_at(self, moment: datetime) -> bool:
        """Whether ``moment`` is within them."""
        local = moment.astimezone(_zone(self.timezone))
        return local.weekday() in self.days and self.begin <= local.time() < self.end

    def after(self, moment: datetime, amount: timedelta) -> datetime:
        """When ``amount`` of business time since ``moment`` is over; for none, the next moment within them."""
        zone = _zone(self.timezone)
        day = moment.astimezone(zone).date()
        while True:
            if day.weekday() in self.days:
                opens = datetime.combine(day, self.begin, zone).astimezone(UTC)
                closes = datetime.combine(day, self.end, zone).astimezone(UTC)
                since = max(opens, moment.astimezone(UTC))
                if since < closes:
                    if since + amount < closes:
                        return since + amount
                    amount -= closes - since
            day += timedelta(days=1)


@lru_cache(maxsize=64)
def _zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (KeyError, OSError, ValueError) as error:
        raise ValueError(f"there is no timezone {name!r}") from error


SEED_HOURS = Hours()
"""Monday to Friday, nine to five, UTC."""
