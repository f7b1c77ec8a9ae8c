"""Owners: who answers for what, asked of the book in force and the accounts of the zone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bailiwick.assurance.books import Books
from bailiwick.assurance.oncall.overrides import standing_in
from bailiwick.assurance.owners.activities import ACTIVITY, Activity, Answer, answers, named_people, of_activity
from bailiwick.assurance.owners.check import Checked, Estate, judge
from bailiwick.assurance.owners.parties import party
from bailiwick.assurance.owners.people import People, people
from bailiwick.assurance.ports import Belongings, Owned, Person
from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.errors import NotFound
from bailiwick.kernel.permissions import OWNER_ROLES


@dataclass(frozen=True, slots=True)
class Line:
    """One activity as it stands: what the book says, and who answers for it now."""

    name: str
    activity: Activity
    answer: Answer
    version: int

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        person = self.answer.person
        return {
            "name": self.name,
            **self.activity.model_dump(mode="json", by_alias=True),
            "answers_now": _person(person) if person is not None else None,
            "deputy": self.answer.deputy,
            "problem": self.answer.problem,
            "version": self.version,
        }


class Ownership:
    """Implements ``Owners``. ``belongings`` is read anew each time: parts add themselves to it as they are built."""

    def __init__(self, books: Books, recorder: Recorder, belongings: Sequence[Belongings]) -> None:
        self._books = books
        self._recorder = recorder
        self._belongings = belongings

    async def accountable(self, tx: Transaction, zone: str, activity: str, at: datetime) -> Person | None:
        """Who answers for an activity, or for what names ``role:…`` or ``person:…`` as its owner; None for nobody."""
        return (await self.answer(tx, zone, activity, at)).person

    async def holders(self, tx: Transaction, zone: str, role: str, at: datetime) -> Sequence[Person]:
        """The active persons who hold ``role``, the longest here first."""
        name = role.removeprefix("role:")
        return (await people(tx, zone, [], [name])).holders(name)

    async def answer(self, tx: Transaction, zone: str, owner: str, at: datetime) -> Answer:
        """Who answers for what names ``owner``, and why nobody does."""
        named, activities = party(owner), {}
        if named.kind == "activity":
            found = await self._books.read(tx, zone, ACTIVITY, named.name)
            activities = {named.name: found} if found is not None else {}
        wanted = [owner, *(text for each in activities.values() for text in of_activity(each))]
        return answers(owner, activities, await people(tx, zone, *named_people(wanted)), at)

    async def list(self, tx: Transaction, zone: str, at: datetime) -> list[Line]:
        """Every activity, by name."""
        book = await self._books.current(tx, zone)
        activities = book.of(ACTIVITY)
        wanted = [text for each in activities.values() for text in of_activity(each)]
        known = await people(tx, zone, *named_people(wanted))
        return [
            Line(
                name, each, answers(f"activity:{name}", activities, known, at), book.documents["Activity", name].version
            )
            for name, each in activities.items()
        ]

    async def show(self, tx: Transaction, zone: str, name: str, at: datetime) -> Line:
        """One activity. Raises ``NotFound``."""
        for line in await self.list(tx, zone, at):
            if line.name == name:
                return line
        raise NotFound("There is no activity by that name.")

    async def planes(self, tx: Transaction, zone: str) -> dict[str, Sequence[Person]]:
        """The four owner roles and who holds them."""
        known = await people(tx, zone, [], OWNER_ROLES)
        return {str(role): known.holders(role) for role in OWNER_ROLES}

    async def estate(self, tx: Transaction, zone: str, at: datetime) -> Estate:
        """Everything there is to answer for."""
        owned: list[Owned] = []
        for each in self._belongings:
            owned += await each.owned(tx, zone)
        return Estate(
            await self._books.current(tx, zone), self._books.kinds, owned, await standing_in(tx, zone, since=at)
        )

    async def known(self, tx: Transaction, estate: Estate) -> People:
        """Everybody whom an estate names."""
        return await people(tx, estate.book.zone, *named_people(estate.named()))

    async def check(self, tx: Transaction, context: Context, at: datetime) -> Checked:
        """Whether one living person answers for each thing; leaves the event that says so."""
        estate = await self.estate(tx, context.zone, at)
        checked = judge(estate, await self.known(tx, estate), at)
        await self._recorder.record(
            tx,
            codes.OWNERS_CHECKED,
            "success" if checked.verdict.green else "failure",
            context,
            subject=Subject(id=context.zone, type="assurance"),
            verdict=str(checked.verdict),
            checked=checked.things,
            failed=len(checked.findings),
        )
        return checked


class Installation:
    """What the other rooms keep that somebody has to answer for: connectors, applications, and every job that runs."""

    async def owned(self, tx: Transaction, zone: str) -> Sequence[Owned]:
        """All of it; an application is its owner's."""
        rows = await tx.all(_OWNED, zone=zone)
        return [Owned(f"{row['kind']}/{row['name']}", f"person:{row['owner']}" if row["owner"] else "") for row in rows]


# a job of one zone ends with its name; the names are few among very many rows
_OWNED = """
WITH RECURSIVE jobs (name) AS (
  SELECT min(job) FROM job_occurrences
  UNION ALL SELECT (SELECT min(job) FROM job_occurrences WHERE job > jobs.name) FROM jobs WHERE jobs.name IS NOT NULL
)
SELECT 'job' AS kind, name, NULL AS owner FROM jobs
WHERE name IS NOT NULL AND (position('@' IN name) = 0 OR split_part(name, '@', 2) = :zone)
UNION ALL SELECT 'sink', name, NULL FROM siem_sinks WHERE zone = :zone
UNION ALL SELECT 'provider', name, NULL FROM identity_providers WHERE zone = :zone
UNION ALL SELECT 'application', name, owner FROM applications WHERE zone = :zone AND is_active
ORDER BY 1, 2
"""


def _person(person: Person) -> dict[str, str]:
    return {"username": person.username, "full_name": person.full_name, "email": person.email}
