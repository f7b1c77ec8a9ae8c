"""Leaving: whoever is not there any more leaves tasks behind, one for each thing he was to answer for.

Nothing is hung onto the moment in which an account is disabled: whom the book names is compared with who is there,
again and again. So it does not matter by which way somebody left (the API, SCIM, a directory, the machine, a restored
database), nor what happened in between; and when he comes back, or somebody else is named, the tasks end.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from bailiwick.assurance.owners.activities import named_people
from bailiwick.assurance.owners.check import Estate
from bailiwick.assurance.owners.parties import is_placeholder, party
from bailiwick.assurance.owners.people import People
from bailiwick.assurance.owners.service import Ownership
from bailiwick.assurance.ports import Task
from bailiwick.assurance.tasks import TaskList
from bailiwick.evidence.events import Context
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.severity import Severity

SOURCE = "owners/"
OWNER = "ownership"
"""The activity that answers for there being owners."""
GIVEN = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Left:
    """Something that somebody left behind. ``as_what``: accountable, deputy, on call, owner."""

    who: str
    thing: str
    as_what: str

    @property
    def source(self) -> str:
        """The source of its task."""
        return (
            f"{SOURCE}{'vacant' if self.who.startswith('role:') else 'leaving'}/{self.who}/{self.thing}/{self.as_what}"
        )

    def task(self, now: datetime) -> Task:
        """What is to be done about it."""
        named, things = self.who.removeprefix("role:"), self.thing.replace("/", " ", 1)
        title = (
            f"Nobody holds {named}: give the role to somebody"
            if not self.thing
            else f"{named} is gone and was {self.as_what} of {things}: name somebody else"
        )
        return Task(self.source, title[:300], OWNER, now + GIVEN, Severity.P2)


def left_behind(estate: Estate, people: People) -> list[Left]:
    """Everything that somebody answers for who is not there, and every role that is named and held by nobody."""
    found = {each.source: each for each in _named_persons(estate) if people.active(each.who) is None}
    for role in sorted(named_people(estate.named())[1]):
        if not people.holders(role):
            vacant = Left(f"role:{role}", "", "")
            found[vacant.source] = vacant
    return [found[source] for source in sorted(found)]


def _named_persons(estate: Estate) -> Iterator[Left]:
    for name, activity in estate.activities().items():
        thing = f"Activity/{name}"
        yield from _person(activity.accountable, thing, "accountable")
        for deputy in activity.deputies:
            yield from _person(f"person:{deputy.person.removeprefix('person:')}", thing, "deputy")
        for text in activity.responsible:
            yield from _person(text, thing, "responsible")
    for thing, place, owner in estate.declared():
        if place:
            yield from _person(owner, thing, "owner")
    for name, rota in estate.rotas().items():
        for level, spec in rota.levels.items():
            for text in spec.people:
                yield from _person(f"person:{text.removeprefix('person:')}", f"Rota/{name}", f"on call ({level})")
    for override in estate.overrides:
        yield from _person(f"person:{override.username}", f"Rota/{override.rota}", "stand-in")


def _person(text: str, thing: str, as_what: str) -> Iterator[Left]:
    named = party(text)
    if named.kind == "person" and not is_placeholder(text):
        yield Left(named.name, thing, as_what)


class Leaving:
    """Keeps the tasks in step with who is there."""

    def __init__(self, clock: Clock, ownership: Ownership, tasks: TaskList) -> None:
        self._clock = clock
        self._ownership = ownership
        self._tasks = tasks

    async def compare(self, tx: Transaction, zone: str) -> dict[str, int]:
        """Open what is missing, close what is settled; how many of each."""
        context, now = Context(zone), self._clock.now()
        estate = await self._ownership.estate(tx, zone, now)
        wanted = {each.source: each for each in left_behind(estate, await self._ownership.known(tx, estate))}
        standing: set[str] = set(await self._tasks.sources(tx, zone, SOURCE))
        for source, left in wanted.items():
            if source not in standing:
                await self._tasks.open(tx, context, left.task(now))
        settled = sorted(standing - wanted.keys())
        for source in settled:
            await self._tasks.close(tx, context, source, "somebody answers for it again")
        return {"opened": len(wanted.keys() - standing), "closed": len(settled)}
