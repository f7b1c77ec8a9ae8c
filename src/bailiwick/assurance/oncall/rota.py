"""Rotas: who is on call at an instant, by a rotation in its own time zone and those who stand in.

A shift ends where the next begins: at the hand-over, wall time in the rota's zone. Where the clocks are put forward
over that time it is as much later as they are; where they are put back, it is the first of the two. A shift across
either is an hour shorter or longer, and nothing is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, tzinfo
from typing import Annotated, Literal, get_args
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, AwareDatetime, Field, StringConstraints, model_validator

from bailiwick.assurance.book import Book, Kind
from bailiwick.assurance.owners.people import People
from bailiwick.assurance.ports import Level, Person
from bailiwick.kernel.fields import Body, Line, Text
from bailiwick.kernel.permissions import Role

LEVELS: tuple[Level, ...] = get_args(Level)
Weekday = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
_WEEKDAYS: tuple[Weekday, ...] = get_args(Weekday)

Why = Literal["rotation", "next in rotation", "stand-in", "declared gap", "not begun", "ended", "nobody"]


def _sensible(day: date) -> date:
    if not 2000 <= day.year <= 2999:
        raise ValueError("is out of range")
    return day


Day = Annotated[date, AfterValidator(_sensible)]


def _instant(moment: datetime) -> datetime:
    _sensible(moment.date())
    return moment


class HandOver(Body):
    """When a shift ends and the next begins, in the rota's time zone."""

    weekday: Weekday = "monday"
    at: Annotated[str, StringConstraints(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")] = "09:00"

    @property
    def time(self) -> time:
        """``at`` as wall time."""
        hour, minute = self.at.split(":")
        return time(int(hour), int(minute))


class LevelSpec(Body):
    """Who takes turns: ``people`` in their order, or everybody who holds ``role``, the longest here first."""

    people: Annotated[list[Line], Field(max_length=100)] = Field(default_factory=list, examples=[["jane", "joe"]])
    role: Role | None = None
    offset: Annotated[int, Field(ge=0, le=99)] = Field(0, description="How many turns ahead: 1 is the next in line")

    @model_validator(mode="after")
    def _one_of_both(self) -> LevelSpec:
        if bool(self.people) == (self.role is not None):
            raise ValueError("give people or role, and not both")
        return self


class Gap(Body):
    """A time in which nobody is on call, and that is meant so."""

    begins: Annotated[AwareDatetime, AfterValidator(_instant)] = Field(alias="from")
    until: Annotated[AwareDatetime, AfterValidator(_instant)]
    reason: Line

    @model_validator(mode="after")
    def _forwards(self) -> Gap:
        if self.until <= self.begins:
            raise ValueError("until is not after from")
        return self


class Rota(Body):
    """A rota. The one called ``default`` is who alerts go to."""

    about: Text = ""
    owner: Line = "role:ops_owner"
    time_zone: Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_+/-]{0,63}$")] = "UTC"
    start: Day
    until: Day | None = Field(None, description="The day at whose hand-over time it ends")
    length_days: Annotated[int, Field(ge=1, le=56)] = 7
    hand_over: HandOver = Field(default_factory=HandOver)
    levels: Annotated[dict[Level, LevelSpec], Field(min_length=1)]
    gaps: Annotated[list[Gap], Field(max_length=100)] = Field(default_factory=list)

    @model_validator(mode="after")
    def _has_a_primary(self) -> Rota:
        if "primary" not in self.levels:
            raise ValueError("levels.primary is missing")
        if self.until is not None and self.until <= self.start:
            raise ValueError("until is not after start")
        return self


def _known_zones(book: Book) -> Iterable[str]:
    for name, rota in book.of(ROTA).items():
        try:
            zone_named(rota.time_zone)
        except LookupError as error:
            yield f"Rota {name}: {error}"


ROTA = Kind("Rota", Rota, check=_known_zones)


@dataclass(frozen=True, slots=True)
class Override:
    """Somebody stands in from ``begins`` until just before ``ends``. ``number`` grows in the order they were made."""

    id: str
    number: int
    rota: str
    level: Level
    username: str
    begins: datetime
    ends: datetime
    reason: str
    made_by: str
    made_at: datetime

    def holds(self, level: Level, at: datetime) -> bool:
        """Whether it is about ``level`` and ``at``."""
        return self.level == level and self.begins <= at < self.ends


@dataclass(frozen=True, slots=True)
class Duty:
    """Who is on call at an instant, and why he. ``scheduled`` is whose turn it is by the rotation."""

    person: Person | None
    why: Why
    scheduled: str = ""
    override: str = ""


@dataclass(frozen=True, slots=True)
class Shift:
    """One duty for as long as it lasts: from ``begins`` until just before ``ends``."""

    level: Level
    begins: datetime
    ends: datetime
    duty: Duty


def zone_named(name: str) -> tzinfo:
    """The time zone of that name. Raises :class:`LookupError`, also on a machine that knows none but UTC."""
    if name == "UTC":
        return UTC
    try:
        return ZoneInfo(name)
    except (KeyError, ValueError, OSError):
        raise LookupError(f"there is no time zone {name!r}, or this machine has no tzdata") from None


class Roster:
    """One rota worked out: for ``rota`` with the ``overrides`` that are not withdrawn, among ``people``.

    Raises :class:`LookupError` for a time zone that is not known here.
    """

    def __init__(self, rota: Rota, overrides: Sequence[Override], people: People) -> None:
        self.rota = rota
        self._zone = zone_named(rota.time_zone)
        self._latest_first = sorted(overrides, key=lambda each: each.number, reverse=True)
        self._people = people
        back = (rota.start.weekday() - _WEEKDAYS.index(rota.hand_over.weekday)) % 7
        self._first = rota.start - timedelta(days=back)
        self.begins = self._wall(rota.start)
        self.ends = self._wall(rota.until) if rota.until is not None else None
        self._order = {level: self._turns(spec) for level, spec in rota.levels.items()}

    def boundary(self, number: int) -> datetime:
        """The instant at which turn ``number`` begins; turn 0 is the one that ``start`` is in."""
        return self._wall(self._first + timedelta(days=number * self.rota.length_days))

    def number_at(self, at: datetime) -> int:
        """Whose turn it is by the rotation, counted from 0; also before the rota begins."""
        days = (at.astimezone(self._zone).date() - self._first).days
        number = days // self.rota.length_days
        while self.boundary(number) > at:
            number -= 1
        while self.boundary(number + 1) <= at:
            number += 1
        return number

    def duty(self, level: Level, at: datetime) -> Duty:
        """Who is on call at ``at``: of those who stand in then the one made last, else whose turn it is."""
        if at < self.begins:
            return Duty(None, "not begun")
        if self.ends is not None and at >= self.ends:
            return Duty(None, "ended")
        order = self._order.get(level, [])
        number = self.number_at(at) + (self.rota.levels[level].offset if level in self.rota.levels else 0)
        scheduled = order[number % len(order)] if order else ""
        for override in self._latest_first:
            if override.holds(level, at) and (person := self._people.active(override.username)) is not None:
                return Duty(person, "stand-in", scheduled, override.id)
        if any(gap.begins <= at < gap.until for gap in self.rota.gaps):
            return Duty(None, "declared gap", scheduled)
        for turn in range(len(order)):
            person = self._people.active(order[(number + turn) % len(order)])
            if person is not None:
                return Duty(person, "next in rotation" if turn else "rotation", scheduled)
        return Duty(None, "nobody", scheduled)

    def shifts(self, level: Level, since: datetime, until: datetime) -> list[Shift]:
        """Who is on call between two instants, without a gap: what nobody does is a shift of nobody's."""
        handed_over = self._handed_over(since, until)
        edges = sorted({since, *self._edges(level, since, until, handed_over)})
        found: list[Shift] = []
        for begins, ends in zip(edges, [*edges[1:], until], strict=True):
            duty = self.duty(level, begins)
            if found and found[-1].duty == duty and begins not in handed_over:
                found[-1] = Shift(level, found[-1].begins, ends, duty)
            else:
                found.append(Shift(level, begins, ends, duty))
        return found

    def change_after(self, level: Level, at: datetime, horizon: timedelta = timedelta(days=120)) -> Shift | None:
        """The next shift of somebody else than who is on call at ``at``; None where that does not change."""
        now = self.duty(level, at).person
        found = self.shifts(level, at, at + horizon)
        for place, shift in enumerate(found[1:], 1):
            if shift.duty.person == now:
                continue
            ends = shift.ends
            for more in found[place + 1 :]:
                if more.duty.person != shift.duty.person:
                    break
                ends = more.ends
            return Shift(level, shift.begins, ends, shift.duty)
        return None

    def _turns(self, spec: LevelSpec) -> list[str]:
        if spec.role is not None:
            return [person.username for person in self._people.holders(spec.role)]
        return [name.strip().removeprefix("person:") for name in spec.people]

    def _wall(self, day: date) -> datetime:
        return datetime.combine(day, self.rota.hand_over.time, self._zone).astimezone(UTC)

    def _handed_over(self, since: datetime, until: datetime) -> set[datetime]:
        number = self.number_at(since)
        found = set()
        while (edge := self.boundary(number)) < until:
            found.add(edge)
            number += 1
        return found

    def _edges(
        self, level: Level, since: datetime, until: datetime, handed_over: Iterable[datetime]
    ) -> Iterator[datetime]:
        edges = [*handed_over, self.begins]
        if self.ends is not None:
            edges.append(self.ends)
        for override in self._latest_first:
            if override.level == level:
                edges += [override.begins, override.ends]
        for gap in self.rota.gaps:
            edges += [gap.begins, gap.until]
        return (edge for edge in edges if since < edge < until)


def everybody(rotas: Mapping[str, Rota], overrides: Iterable[Override] = ()) -> list[str]:
    """Everybody whom rotas and stand-ins name, as owners are named."""
    found = [f"person:{override.username}" for override in overrides]
    for rota in rotas.values():
        for spec in rota.levels.values():
            found += [f"role:{spec.role}"] if spec.role else []
            found += [f"person:{name.strip().removeprefix('person:')}" for name in spec.people]
    return found


def paged(rotas: Mapping[str, Rota], level: Level) -> str | None:
    """The rota that is asked who is called: ``default``, else the first by name that has ``level``."""
    having = sorted(name for name, rota in rotas.items() if level in rota.levels)
    return "default" if "default" in having else having[0] if having else None
