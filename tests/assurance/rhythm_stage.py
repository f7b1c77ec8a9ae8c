"""What the tests of rhythm, checkpoints and registers stand on: the part with its clock, people with roles, facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from stage import Stage

from bailiwick.assurance import registers_api
from bailiwick.assurance.checkpoints import api as checkpoints_api
from bailiwick.assurance.checkpoints.golive import GoLives
from bailiwick.assurance.checkpoints.plans import Plans
from bailiwick.assurance.checkpoints.rules import CHECKPOINT
from bailiwick.assurance.checkpoints.service import Checkpoints, Facts
from bailiwick.assurance.ports import (
    Automated,
    Automatic,
    CapacityFact,
    Drill,
    OpenWaiver,
    Person,
    Run,
    SloFact,
)
from bailiwick.assurance.registers import REVIEWED_DOCUMENT, RISK, ROADMAP_ITEM, Registers
from bailiwick.assurance.rhythm import api as rhythm_api
from bailiwick.assurance.rhythm.actions import Actions
from bailiwick.assurance.rhythm.automatic import OWN
from bailiwick.assurance.rhythm.ceremonies import CEREMONY
from bailiwick.assurance.rhythm.clockwork import Clockwork
from bailiwick.assurance.rhythm.desk import RhythmDesk
from bailiwick.assurance.rhythm.minutes import Minutes, Said
from bailiwick.assurance.rhythm.occurrences import Occurrence
from bailiwick.evidence.evidence_records import Producer
from bailiwick.identity.persons import Persons
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.verdicts import Verdict
from people_fixtures import House

KINDS = (CEREMONY, CHECKPOINT, RISK, ROADMAP_ITEM, REVIEWED_DOCUMENT)
PRODUCER = Producer(host="test", name="bailiwick", program="bailiwick", version="0")


@dataclass
class Known:
    """Facts of the test's choosing; None where nobody would know."""

    waivers: list[OpenWaiver] | None = None
    runs: dict[str, Run] = field(default_factory=dict)
    windows: list[tuple[str, datetime, datetime]] = field(default_factory=list)
    drilled: list[Drill] | None = None
    slos: list[SloFact] | None = None
    resources: list[CapacityFact] | None = None

    async def open_at(self, tx: Transaction, zone: str, at: datetime) -> Sequence[OpenWaiver] | None:
        return self.waivers

    async def of(self, tx: Transaction, zone: str, check: str, since: datetime, until: datetime) -> Run:
        self.windows.append((check, since, until))
        return self.runs.get(check, Run(0, 0, 0, None))

    async def drills(self, tx: Transaction, zone: str, since: datetime, until: datetime) -> Sequence[Drill] | None:
        return self.drilled

    async def measured(self, tx: Transaction, zone: str, since: datetime, until: datetime) -> Sequence[SloFact] | None:
        return self.slos

    async def trends(
        self, tx: Transaction, zone: str, since: datetime, until: datetime
    ) -> Sequence[CapacityFact] | None:
        return self.resources


def finding(verdict: Verdict = Verdict.PASS, **figures: int) -> Automatic:
    """An automatic part that finds this."""

    async def part(tx: Transaction, zone: str, since: datetime, until: datetime) -> Automated:
        return Automated(verdict, "test/1", figures)

    return part


class RhythmStage(Stage):
    """The part over a real database, with ports that listen."""

    def __init__(self, people: House) -> None:
        super().__init__(people, KINDS)
        shared = (self.database, self.clock)
        heard = self.heard
        self.known = Known()
        self.parts: dict[str, Automatic] = dict(OWN)
        self.actions = Actions(*shared, self.ids, self.recorder, self.records, heard)
        self.go_lives = GoLives(*shared, self.recorder, self.quorum)
        self.plans = Plans(*shared, self.ids, self.recorder, self.quorum)
        known = self.known
        self.checkpoints = Checkpoints(
            *shared, self.recorder, self.books, self.records, self.go_lives, self.plans, heard,
            Facts(known, known, known, known, known), PRODUCER,
        )  # fmt: skip
        self.clockwork = self.another_clockwork()
        self.minutes = Minutes(*shared, self.recorder, heard, self.actions, heard, Persons())
        self.desk = RhythmDesk(*shared, self.books)
        self.registers = Registers(*shared, self.recorder, self.records)
        self.serve(
            rhythm_api.routes(self.desk, self.clockwork, self.minutes, self.actions, self.clock),
            checkpoints_api.routes(self.checkpoints, self.go_lives, self.plans),
            registers_api.routes(self.registers, self.clock),
        )

    def another_clockwork(self) -> Clockwork:
        """What another process would run."""
        heard = self.heard
        return Clockwork(
            self.database, self.clock, self.ids, self.recorder, self.books, self.records, self.actions, heard, heard,
            heard, self.parts, PRODUCER,
        )  # fmt: skip

    async def holds(self, username: str, *roles: str) -> None:
        """An active person who holds owner roles, or answers for activities."""
        await self.people.user(username)
        for role in roles:
            self.heard.people[role] = Person(username, username.title(), f"{username}@example.com")

    async def live(self, days: float, step_h: float = 6.0) -> None:
        """Let so many days pass; the clock looks every ``step_h`` hours."""
        until = self.clock.now() + timedelta(days=days)
        while self.clock.now() < until:
            left = (until - self.clock.now()).total_seconds()
            self.clock.advance(min(step_h * 3600, left))
            await self.clockwork.keep()
            await self.checkpoints.keep()

    async def all(self, ceremony: str = "") -> list[Occurrence]:
        """Every occurrence there is, the first first."""
        found = await self.desk.list("default", ceremony=ceremony, limit=5000)
        return sorted(found, key=lambda each: (each.starts_at, each.ceremony))

    async def hold(self, occurrence: str, said: Said, *, by: str = "scribe") -> None:
        """Take minutes and close the meeting."""
        await self.minutes.write(self.context(by), occurrence, said, by=by)
        await self.minutes.hold(self.context(by), occurrence, by=by)

    async def proof(self, *, exit_code: int = 0, check: str = "test.proof") -> str:
        """The id of a fresh evidence record."""
        async with self.database.begin() as tx:
            now = self.clock.now()
            stored = await self.records.probe(
                tx, self.context(), check, f"{self.ids()}".encode(), exit_code=exit_code, since=now, until=now,
                producer=PRODUCER,
            )  # fmt: skip
        return stored.id

    async def approve(self, approval: Mapping[str, Any], *, person: str) -> None:
        """A second person approves."""
        await self.quorum.vote(
            self.context(person), "default", approval["id"], person=person, role="admin", approves=True,
            payload_sha256=approval["payload_sha256"],
        )  # fmt: skip


def document(kind: str, name: str, spec: str) -> str:
    """One document as YAML, its spec as flow or block text."""
    indented = "\n".join(f"  {line}" for line in spec.strip().splitlines())
    return f"apiVersion: bailiwick/v1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec:\n{indented}\n---\n"


def ceremony(name: str, cadence: str, more: str = "") -> str:
    """A meeting that takes somebody of operations."""
    spec = f"title: {name}\nowner: uptime\nroles: [ops_owner]\nsections: [actions]\n{cadence}\n{more}"
    return document("Ceremony", name, spec)
