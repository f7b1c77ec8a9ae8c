"""What the tests of the assurance room stand on: a real database with people, books, approvals, and ports that listen."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from fastapi import APIRouter
from prometheus_client import CollectorRegistry

from bailiwick.app.assurance import Assurance, build_assurance
from bailiwick.app.foundations import Foundations
from bailiwick.assurance.book import Document, Kind, read_text
from bailiwick.assurance.books import Books, Plan
from bailiwick.assurance.ports import Granted, Notice, Person, Raised, Task
from bailiwick.evidence.approvals import recorder_note
from bailiwick.evidence.approvals import routes as approval_routes
from bailiwick.evidence.events import Actor, Context
from bailiwick.evidence.evidence_records import EvidenceRecords
from bailiwick.identity.holders import holders
from bailiwick.identity.persons import Persons
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.metrics import Metrics
from bailiwick.kernel.paths import Layout
from bailiwick.kernel.quorum import Quorum
from people_fixtures import House


@dataclass
class Heard:
    """Listens to everything a part says to the others, and answers as the test wants."""

    open_alerts: dict[str, Raised] = field(default_factory=dict)
    fired: list[Raised] = field(default_factory=list)
    cleared: list[str] = field(default_factory=list)
    notices: list[Notice] = field(default_factory=list)
    tasks: dict[str, Task] = field(default_factory=dict)
    people: dict[str, Person] = field(default_factory=dict)  # by activity or role
    waivers: dict[tuple[str, str], str] = field(default_factory=dict)  # by control and scope
    approvals: dict[str, tuple[str, str]] = field(default_factory=dict)  # by waiver: the event, and its end
    uses: list[tuple[str, str]] = field(default_factory=list)

    async def fire(self, tx: Transaction, context: Context, raised: Raised) -> str:
        self.fired.append(raised)
        self.open_alerts[raised.key] = raised
        return f"alert-{raised.key}"

    async def clear(self, tx: Transaction, context: Context, key: str) -> bool:
        self.cleared.append(key)
        return self.open_alerts.pop(key, None) is not None

    async def send(self, tx: Transaction, zone: str, notice: Notice) -> str:
        if all(notice.key != sent.key for sent in self.notices):
            self.notices.append(notice)
        return notice.key

    async def accountable(self, tx: Transaction, zone: str, activity: str, at: datetime) -> Person | None:
        return self.people.get(activity)

    async def holders(self, tx: Transaction, zone: str, role: str, at: datetime) -> Sequence[Person]:
        return [self.people[role]] if role in self.people else []

    async def open(self, tx: Transaction, context: Context, task: Task) -> str:
        self.tasks.setdefault(task.source, task)
        return task.source

    async def close(self, tx: Transaction, context: Context, source: str, outcome: str) -> bool:
        return self.tasks.pop(source, None) is not None

    async def covering(self, tx: Transaction, zone: str, control: str, scope: str, at: datetime) -> str | None:
        return self.waivers.get((control, scope))

    async def granted(self, tx: Transaction, zone: str, waiver: str, at: datetime) -> Granted | None:
        for (control, scope), identifier in self.waivers.items():
            if identifier == waiver:
                event, until = self.approvals.get(waiver, ("", (at + timedelta(days=20)).isoformat()))
                return Granted(waiver, control, scope, datetime.fromisoformat(until), event)
        return None

    async def used(self, tx: Transaction, context: Context, waiver: str, gate: str) -> None:
        self.uses.append((waiver, gate))


class Stage:
    """One zone with people, a book of ``kinds``, and the two-person rule."""

    def __init__(self, people: House, kinds: Iterable[Kind[Any]] = ()) -> None:
        self.people = people
        self.database, self.clock, self.ids, self.recorder = people.database, people.clock, people.ids, people.recorder
        self.quorum = Quorum(self.database, self.clock, self.ids, recorder_note(self.recorder), holders, [], Persons())
        self.books = Books(self.database, self.clock, self.recorder, self.quorum, kinds)
        self.records = EvidenceRecords(self.clock, self.recorder)
        self.heard = Heard()
        self.call = people.call
        self.serve(approval_routes(self.quorum))

    def serve(self, *routers: APIRouter) -> None:
        """Have routes answered by :meth:`call`."""
        self.people.serve(*routers)

    def context(self, user: str = "root", zone: str = "default") -> Context:
        """The context of something that ``user`` does."""
        return Context(zone, Actor(user=user))

    async def apply(self, text: str, *, by: str = "root", zone: str = "default") -> Plan:
        """Put the documents of a YAML text in force in place of those that are; for what takes no second person."""
        documents = read_text(text, "test.yaml")
        planned = await self.books.plan(zone, documents)
        done = await self.books.apply(self.context(by, zone), documents, sha256=planned.sha256, by=by)
        assert isinstance(done, Plan), f"waits for approval: {done}"
        return done

    async def documents(self, zone: str = "default") -> dict[tuple[str, str], Document]:
        """What is in force."""
        async with self.database.begin() as tx:
            return dict((await self.books.current(tx, zone)).documents)


def room_of(people: House, directory: Path) -> Assurance:
    """The whole room as an installation builds it, over the database of ``people``; what it writes is in ``directory``."""
    clock, ids, recorder = people.clock, people.ids, people.recorder
    layout = Layout(directory)
    base = Foundations(
        people.settings, layout, clock, ids, people.sealer, people.database, "", recorder, Metrics(CollectorRegistry())
    )
    quorum = Quorum(people.database, clock, ids, recorder_note(recorder), holders, [], Persons())
    return build_assurance(base, quorum, EvidenceRecords(clock, recorder))
