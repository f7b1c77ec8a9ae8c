"""How long backups are kept: every one for days, the first of each week for weeks, the first of each month for months.

The production handoff says daily 30 days, weekly 90, monthly 365. The newest seven stay whatever their age, so that an
installation whose clock or whose schedule went wrong never deletes the last it has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

Tier = Literal["monthly", "weekly", "daily"]

ALWAYS = 7
"""How many of the newest are kept whatever their age."""


@dataclass(frozen=True, slots=True)
class Keep:
    """Days for which each tier is kept."""

    daily: int = 30
    weekly: int = 90
    monthly: int = 365


def tiers(taken: Mapping[str, datetime]) -> dict[str, Tier]:
    """Which of the backups, by id with the time each was finished, is the first of its month or of its ISO week."""
    found: dict[str, Tier] = {}
    months: set[tuple[int, int]] = set()
    weeks: set[tuple[int, int]] = set()
    for identifier, at in sorted(taken.items(), key=lambda each: (each[1], each[0])):
        moment = at.astimezone(UTC)
        month, week = (moment.year, moment.month), moment.isocalendar()[:2]
        found[identifier] = "monthly" if month not in months else "weekly" if week not in weeks else "daily"
        months.add(month)
        weeks.add(week)
    return found


def expired(taken: Mapping[str, datetime], keep: Keep, now: datetime) -> Sequence[str]:
    """Ids of the backups whose time is up at ``now``, oldest first."""
    days = {"daily": keep.daily, "weekly": max(keep.daily, keep.weekly), "monthly": max(keep.daily, keep.monthly)}
    order = sorted(taken, key=lambda each: (taken[each], each))
    tier = tiers(taken)
    return [each for each in order[:-ALWAYS] if now - taken[each] > timedelta(days=days[tier[each]])]


def log_needed_from(taken: Mapping[str, datetime], keep: Keep, now: datetime) -> str | None:
    """The oldest backup from which any moment since can be restored: what is older has only its own moment.

    The log is kept from there on. None without a backup.
    """
    order = sorted(taken, key=lambda each: (taken[each], each))
    recent = [each for each in order if now - taken[each] <= timedelta(days=keep.daily)]
    return next(iter(recent or order[-1:]), None)
