"""Ceremonies: what recurs, as documents, and the instants at which it does.

A cadence is a cron text, every so many weeks, or days after a platform went live; always in the ceremony's own time
zone, so that ten o'clock stays ten o'clock when the clocks change. A local time that a change of the clocks leaves out
is read with the offset before the change, and of one that comes twice the first counts, as RFC 5545 (3.3.5) has it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Annotated, Literal
from zoneinfo import ZoneInfo

from croniter import CroniterError, croniter  # type: ignore[import-untyped]
from pydantic import Field, StringConstraints, field_validator, model_validator

from bailiwick.assurance.book import Book, Kind
from bailiwick.assurance.durations import Duration, DurationOrZero, span, within
from bailiwick.evidence.evidence_records import SUBJECT_PATTERN
from bailiwick.kernel.fields import Body, Line, Name

Weekday = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
Section = Literal["figures", "actions", "risks", "roadmap", "documents", "checkpoints"]
SECTIONS: tuple[Section, ...] = ("figures", "actions", "risks", "roadmap", "documents", "checkpoints")
_DAYS: tuple[Weekday, ...] = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")

OfDay = Annotated[str, StringConstraints(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$"), Field(examples=["10:00"])]
Day = Annotated[str, StringConstraints(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$"), Field(examples=["2026-01-05"])]
PartName = Annotated[
    str, StringConstraints(pattern=SUBJECT_PATTERN, max_length=100), Field(examples=["access.orphans"])
]

MOST = 2_000
"""Most occurrences that are worked out at once."""


def clocks(name: str) -> tzinfo:
    """The time zone of that name; UTC also where the machine has no database of them. Raises LookupError and others."""
    return UTC if name == "UTC" else ZoneInfo(name)


def day_of(text: str) -> date:
    """The day of ``YYYY-MM-DD``; raises :class:`ValueError`."""
    return date.fromisoformat(text)


class EveryWeeks(Body):
    """Every ``weeks`` weeks on a weekday, counted from the week of ``since``."""

    weeks: Annotated[int, Field(ge=1, le=52)] = 1
    weekday: Weekday  # YAML reads a member called "on" as true
    at: OfDay
    since: Day = "2024-01-01"

    @field_validator("since")
    @classmethod
    def _is_a_day(cls, value: str) -> str:
        day_of(value)
        return value


class AfterGoLive(Body):
    """Once on each of the ``days`` after the platform went live; day 0 is the day itself."""

    days: Annotated[list[Annotated[int, Field(ge=0, le=3660)]], Field(min_length=1, max_length=120)]
    at: OfDay
    platform: Name = "default"


class Ceremony(Body):
    """Something people or the clock do again and again. Exactly one of the three cadences is given.

    ``owner``: the activity of the RACI whose accountable person answers for it. ``roles``: in each of these somebody
    must have been there. ``attended`` false: the clock does it alone, by its ``automatic`` parts. ``window``: how far
    the figures look back. ``notice``: how long before its start people are told. ``grace``: how long after its end it
    may still be held, and its minutes be signed.
    """

    title: Annotated[Line, Field(min_length=1)]
    cron: Annotated[str, StringConstraints(max_length=100)] | None = None
    every: EveryWeeks | None = None
    after_go_live: AfterGoLive | None = None
    timezone: Annotated[str, StringConstraints(max_length=64)] = "UTC"
    duration: Duration = "30m"
    owner: Annotated[Line, Field(min_length=1)]
    roles: Annotated[list[Name], Field(max_length=10)] = Field(default_factory=list)
    attended: bool = True
    agenda: Annotated[list[Line], Field(max_length=40)] = Field(default_factory=list)
    automatic: Annotated[list[PartName], Field(max_length=40)] = Field(default_factory=list)
    sections: Annotated[list[Section], Field(max_length=6)] = Field(default_factory=lambda: list(SECTIONS))
    window: Duration = "7d"
    notice: Annotated[list[Duration], Field(max_length=5)] = Field(default_factory=list)
    pack_lead: DurationOrZero = "1h"
    grace: Duration = "1d"

    @field_validator("cron")
    @classmethod
    def _readable(cls, value: str | None) -> str | None:
        if value is None:
            return value
        fields = value.split()
        if len(fields) != 5 or not croniter.is_valid(value):
            raise ValueError("is no cron text of five fields")
        if not re.fullmatch(r"[0-9]{1,2}", fields[0]):
            raise ValueError("begins with one minute: nothing is held more often than every hour")
        try:
            croniter(value, datetime(2024, 1, 1, tzinfo=UTC)).get_next(datetime)
        except CroniterError:
            raise ValueError("is of a day that never comes") from None
        return value

    @field_validator("timezone")
    @classmethod
    def _known(cls, value: str) -> str:
        try:
            clocks(value)
        except (LookupError, ValueError, OSError):  # a folder of the database, or what leads out of it
            raise ValueError("is no time zone of the IANA database") from None
        return value

    @model_validator(mode="after")
    def _whole(self) -> Ceremony:
        if sum(each is not None for each in (self.cron, self.every, self.after_go_live)) != 1:
            raise ValueError("has exactly one of cron, every and after_go_live")
        if self.attended and not self.roles:
            raise ValueError("that is attended names the roles that must be there")
        if not self.attended and not self.automatic:
            raise ValueError("that nobody attends has automatic parts")
        if len(set(self.automatic)) != len(self.automatic):
            raise ValueError("names an automatic part twice")
        within(self.duration, "1m", "1d")
        within(self.window, "1h", "375d")
        within(self.pack_lead, "0s", "7d")
        for length in (*self.notice, self.grace):
            within(length, "1m", "30d")
        return self

    @property
    def lead(self) -> timedelta:
        """How long before its start the first thing about it is done."""
        return max(span(each) for each in (self.pack_lead, *self.notice))

    @property
    def platform(self) -> str:
        """The platform whose go-live it counts from; empty where it counts from none."""
        return self.after_go_live.platform if self.after_go_live else ""


def _weaker(before: Ceremony | None, after: Ceremony | None) -> bool:
    """Whether less would be asked of people than before."""
    if before is None or not before.attended:
        return False
    return (
        after is None
        or not after.attended
        or not set(before.roles) <= set(after.roles)
        or not set(before.automatic) <= set(after.automatic)
        or not set(before.sections) <= set(after.sections)
        or span(after.grace) > span(before.grace)
    )


CEREMONY = Kind("Ceremony", Ceremony, two_persons=_weaker)


def in_force(book: Book) -> dict[str, Ceremony]:
    """The ceremonies of a book by name."""
    return book.of(CEREMONY)


def occurrences(
    ceremony: Ceremony, after: datetime, until: datetime, went_live: datetime | None = None
) -> list[datetime]:
    """The starts later than ``after`` and not later than ``until``, in UTC, oldest first; at most :data:`MOST`.

    ``went_live``: when the platform did that a relative cadence counts from; without it there are none.
    """
    zone = clocks(ceremony.timezone)
    found: set[datetime] = set()
    for local in _local_starts(ceremony, after.astimezone(zone).replace(tzinfo=None), went_live, zone):
        start = instant(local, zone)
        if start > until or len(found) >= MOST:
            break
        if start > after:
            found.add(start)
    return sorted(found)


def instant(local: datetime, zone: tzinfo) -> datetime:
    """The instant at which the clocks of ``zone`` show ``local``, in UTC (see the module for gaps and repetitions)."""
    return local.replace(tzinfo=zone, fold=0).astimezone(UTC)


def _local_starts(ceremony: Ceremony, after: datetime, went_live: datetime | None, zone: tzinfo) -> Iterable[datetime]:
    before = after - timedelta(days=1)  # more than any change of the clocks
    if ceremony.cron is not None:
        # a local time without a zone is counted as if no clock ever changed, so each comes once
        cron = croniter(ceremony.cron, before)
        while True:
            yield cron.get_next(datetime)
    elif ceremony.every is not None:
        yield from _weekly(ceremony.every, before)
    elif ceremony.after_go_live is not None and went_live is not None:
        first = went_live.astimezone(zone).date()
        for days in sorted(set(ceremony.after_go_live.days)):
            yield datetime.combine(first + timedelta(days=days), _time(ceremony.after_go_live.at))


def _weekly(every: EveryWeeks, before: datetime) -> Iterable[datetime]:
    since = day_of(every.since)
    day = since - timedelta(days=since.weekday()) + timedelta(days=_DAYS.index(every.weekday))
    if day < since:
        day += timedelta(weeks=every.weeks)
    step = timedelta(weeks=every.weeks)
    if before.date() > day:
        day += ((before.date() - day) // step) * step
    while True:
        yield datetime.combine(day, _time(every.at))
        day += step


def _time(text: str) -> time:
    hour, minute = text.split(":")
    return time(int(hour), int(minute))
