"""Activities: who is accountable, responsible, consulted and informed (RACI), and who answers for it today.

One person or owner role is accountable for an activity. A deputy whose dates hold today acts in his place; one without
dates acts when there is nobody else.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Annotated, TypeVar

from pydantic import Field, StringConstraints, model_validator

from bailiwick.assurance.book import Book, Kind
from bailiwick.assurance.owners.parties import Party, is_placeholder, party
from bailiwick.assurance.owners.people import People
from bailiwick.assurance.ports import Person
from bailiwick.kernel.fields import Body, Line, Text

Parties = Annotated[list[Line], Field(max_length=20)]
Pattern = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9*?][A-Za-z0-9._*?:@/-]{0,199}$", max_length=200)]


T = TypeVar("T", "Deputy", "Activity")


class Deputy(Body):
    """Who acts in the accountable person's place: on the days from ``from`` to ``until`` (both included, UTC), or
    without any whenever that person has left."""

    person: Line = Field(examples=["joe"])
    begins: date | None = Field(None, alias="from")
    until: date | None = None

    @model_validator(mode="after")
    def _forwards(self) -> Deputy:
        return _in_order(self)

    def acts(self, day: date) -> bool:
        """Whether his dates are such, and hold on ``day``."""
        dated = self.begins is not None or self.until is not None
        return dated and _within(self.begins, self.until, day)


class Activity(Body):
    """Something that has to be done for as long as the platform runs."""

    about: Text = ""
    accountable: Line = Field(description="The one who answers for it: `person:…` or `role:…`", examples=["person:jo"])
    responsible: Parties = Field(default_factory=list, description="Who does it: `rota:…`, `role:…`, `person:…`")
    consulted: Parties = Field(default_factory=list, description="Who is asked before; also `contact:…`")
    informed: Parties = Field(default_factory=list, description="Who is told afterwards; also `contact:…`")
    deputies: Annotated[list[Deputy], Field(max_length=20)] = Field(default_factory=list)
    covers: Annotated[list[Pattern], Field(max_length=100)] = Field(
        default_factory=list,
        description="What it answers for that names no owner: `job/archive-*`, `sink/*`; the longest holds",
    )
    begins: date | None = Field(None, alias="from", description="The first day it is in force (UTC)")
    until: date | None = Field(None, description="The last one")

    @model_validator(mode="after")
    def _forwards(self) -> Activity:
        return _in_order(self)

    def in_force(self, day: date) -> bool:
        """Whether it is on ``day``."""
        return _within(self.begins, self.until, day)


ACTIVITY = Kind("Activity", Activity)


@dataclass(frozen=True, slots=True)
class Answer:
    """Who answers. ``problem`` says why nobody does, or why it is only somebody in another's place."""

    person: Person | None = None
    problem: str = ""
    deputy: bool = False

    @property
    def sound(self) -> bool:
        """Whether it is as it should be."""
        return self.person is not None and not self.problem


def answers(owner: str, activities: Mapping[str, Activity], people: People, at: datetime) -> Answer:
    """Who answers at ``at`` for what names ``owner``."""
    if is_placeholder(owner):
        return Answer(problem="a placeholder")
    named = party(owner)
    if named.kind == "activity":
        activity = activities.get(named.name)
        if activity is None:
            return Answer(problem=f"there is no activity {named.name!r}")
        return answers_for(activity, people, at)
    if named.kind in ("person", "role"):
        return _holder(named, people)
    return Answer(problem=f"a {named.kind} answers for nothing: name a person, a role or an activity")


def answers_for(activity: Activity, people: People, at: datetime) -> Answer:
    """Who answers at ``at`` for ``activity``."""
    day = at.astimezone(UTC).date()
    if not activity.in_force(day):
        return Answer(problem="not in force today")
    if is_placeholder(activity.accountable):
        return Answer(problem="a placeholder")
    named = party(activity.accountable)
    if named.kind not in ("person", "role"):
        return Answer(problem="not one person or role")
    for deputy in activity.deputies:
        if deputy.acts(day) and (person := people.active(_name(deputy.person))) is not None:
            return Answer(person, deputy=True)
    holder = _holder(named, people)
    if holder.person is not None:
        return holder
    for deputy in activity.deputies:
        person = people.active(_name(deputy.person))
        if person is not None and deputy.begins is None and deputy.until is None:
            return Answer(person, f"{holder.problem}; {person.username} stands in", deputy=True)
    return holder


def covering(thing: str, activities: Mapping[str, Activity]) -> str | None:
    """The activity that answers for ``thing``, which names no owner itself: the one with the longest pattern."""
    found = [
        (len(pattern), name)
        for name, activity in activities.items()
        for pattern in activity.covers
        if fnmatch.fnmatchcase(thing, pattern)
    ]
    return max(found, key=lambda each: (each[0], each[1]))[1] if found else None


def named_people(owners: Iterable[str]) -> tuple[set[str], set[str]]:
    """The user names and the roles that ``owners`` name."""
    parties = [party(owner) for owner in owners]
    return (
        {each.name for each in parties if each.kind == "person"},
        {each.name for each in parties if each.kind == "role"},
    )


def of_activity(activity: Activity) -> list[str]:
    """Everybody an activity names."""
    return [
        activity.accountable,
        *activity.responsible,
        *activity.consulted,
        *activity.informed,
        *(f"person:{_name(each.person)}" for each in activity.deputies),
    ]


def activities_of(book: Book) -> dict[str, Activity]:
    """The activities of a book by name."""
    return book.of(ACTIVITY)


def _name(text: str) -> str:
    return text.strip().removeprefix("person:")


def _holder(named: Party, people: People) -> Answer:
    if named.kind == "person":
        person = people.active(named.name)
        if person is not None:
            return Answer(person)
        there = named.name in people.known
        return Answer(problem=f"{named.name} is not active" if there else f"there is nobody called {named.name!r}")
    holders = people.holders(named.name)
    return Answer(holders[0]) if holders else Answer(problem=f"nobody holds {named.name}")


def _within(begins: date | None, until: date | None, day: date) -> bool:
    return (begins is None or begins <= day) and (until is None or day <= until)


def _in_order(dated: T) -> T:
    if dated.begins is not None and dated.until is not None and dated.until < dated.begins:
        raise ValueError("until is before from")
    return dated
