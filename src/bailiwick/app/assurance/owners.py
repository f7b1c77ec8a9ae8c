"""Owners, on-call and tasks as an installation has them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog

from bailiwick import __version__
from bailiwick.app.house import House, Part
from bailiwick.assurance import tasks_api
from bailiwick.assurance.book import Kind
from bailiwick.assurance.books import Books
from bailiwick.assurance.oncall import api as oncall_api
from bailiwick.assurance.oncall.rota import ROTA
from bailiwick.assurance.oncall.service import OnCallBook
from bailiwick.assurance.owners import api as owners_api
from bailiwick.assurance.owners.activities import ACTIVITY
from bailiwick.assurance.owners.answering import Answering
from bailiwick.assurance.owners.check import told
from bailiwick.assurance.owners.contacts import CONTACT
from bailiwick.assurance.owners.leaving import OWNER, Leaving
from bailiwick.assurance.owners.service import Installation, Ownership
from bailiwick.assurance.ports import Alerts, Belongings, Notice, Notices, Raised
from bailiwick.assurance.tasks import MACHINE, TaskList, TaskWatch
from bailiwick.evidence.approvals import recorder_note
from bailiwick.evidence.events import Context, Recorder
from bailiwick.evidence.evidence_records import EvidenceRecords, Producer
from bailiwick.identity.holders import holders
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import Unavailable
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.jobs import JobDefinition
from bailiwick.kernel.quorum import Quorum
from bailiwick.kernel.severity import Severity

KINDS: tuple[Kind[Any], ...] = (ACTIVITY, CONTACT, ROTA)

WATCH = timedelta(minutes=1)
CHECK = timedelta(hours=1)
CHECK_NAME = "owners/check"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Desk:
    """The services of the part."""

    ownership: Ownership
    oncall: OnCallBook
    tasks: TaskList


def desk(
    database: Database, clock: Clock, ids: Ids, recorder: Recorder, books: Books, belongings: Sequence[Belongings]
) -> Desk:
    """Build them."""
    ownership = Ownership(books, recorder, belongings)
    return Desk(ownership, OnCallBook(database, clock, ids, recorder, books), TaskList(clock, ids, recorder, ownership))


def desk_of_command(database: Database, clock: Clock, recorder: Recorder, kinds: Sequence[Kind[Any]]) -> Desk:
    """The same on the machine of an installation, for a command. ``kinds``: all there are."""
    ids = Ids()
    quorum = Quorum(database, clock, ids, recorder_note(recorder), holders, [])
    books = Books(database, clock, recorder, quorum, kinds)
    return desk(database, clock, ids, recorder, books, [Installation()])


def build(house: House) -> Part:
    """The part; it answers from then on for ``house.owners``, ``house.on_call`` and ``house.tasks``."""
    base = house.base
    house.belongings.append(Installation())
    built = desk(base.database, base.clock, base.ids, base.recorder, house.books, house.belongings)
    house.owners, house.on_call, house.tasks = built.ownership, built.oncall, built.tasks
    later = _Later(house)
    watch = TaskWatch(base.clock, built.tasks, built.ownership, later, later)
    work = OwnersWork(base.database, base.clock, built, watch, house.records, later, later, base.recorder)
    return Part(
        routers=lambda: [
            owners_api.routes(base.database, base.clock, built.ownership),
            oncall_api.routes(base.database, base.clock, built.oncall),
            tasks_api.routes(base.database, built.tasks),
        ],
        jobs=[
            JobDefinition("owners:watch", WATCH, work.watch, grace=timedelta(minutes=10)),
            JobDefinition("owners:check", CHECK, work.check),
        ],
        machines=[MACHINE],
    )


class OwnersWork:
    """What is done by the clock, in every zone."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        built: Desk,
        watch: TaskWatch,
        records: EvidenceRecords,
        alerts: Alerts,
        notices: Notices,
        recorder: Recorder,
    ) -> None:
        self._database = database
        self._clock = clock
        self._desk = built
        self._leaving = Leaving(clock, built.ownership, built.tasks)
        self._answering = Answering(clock, recorder, built.ownership, built.tasks, notices)
        self._watch = watch
        self._records = records
        self._alerts = alerts

    async def watch(self, due_at: datetime) -> dict[str, Any]:
        """Who answers for what from now on; who left and who came back; what is overdue."""
        return await self._in_every_zone(self._watch_zone)

    async def check(self, due_at: datetime) -> dict[str, Any]:
        """Whether everything has an owner: a record of it, and an alert for as long as it has not."""
        return await self._in_every_zone(self._check_zone)

    async def _watch_zone(self, tx: Transaction, zone: str) -> dict[str, Any]:
        changed = await self._answering.look(tx, zone)
        return changed | await self._leaving.compare(tx, zone) | await self._watch.look(tx, zone)

    async def _check_zone(self, tx: Transaction, zone: str) -> dict[str, Any]:
        context, now = Context(zone), self._clock.now()
        checked = await self._desk.ownership.check(tx, context, now)
        record = await self._records.probe(
            tx,
            context,
            CHECK_NAME,
            told(checked.findings).encode() or b"everything has an owner",
            exit_code=checked.verdict.exit_code,
            since=now,
            until=now,
            producer=Producer(name="bailiwick", program="bailiwick owners check", version=__version__),
            inputs={"checked": checked.things, "failed": len(checked.findings)},
            expires_at=now + 2 * CHECK,
        )
        if checked.findings:
            first = checked.findings[0]
            await self._alerts.fire(
                tx,
                context,
                Raised(
                    CHECK_NAME,
                    "owners-check",
                    Severity.P2,
                    f"{len(checked.findings)} things have no sound owner, {first.thing} first: {first.problem}"[:200],
                    OWNER,
                    "docs/how-to/owners-and-on-call.md",
                ),
            )
        else:
            await self._alerts.clear(tx, context, CHECK_NAME)
        return {"verdict": str(checked.verdict), "failed": len(checked.findings), "record": record.id}

    async def _in_every_zone(self, work: Callable[[Transaction, str], Awaitable[dict[str, Any]]]) -> dict[str, Any]:
        """Each in a transaction of its own: what one zone's book makes impossible is still done for the others."""
        async with self._database.begin() as tx:
            rows = await tx.all("SELECT name FROM zones WHERE state = 'active' ORDER BY name")
        found: dict[str, Any] = {}
        failed: list[Exception] = []
        for zone in [row["name"] for row in rows]:
            try:
                async with self._database.begin() as tx:
                    found[zone] = await work(tx, zone)
            except Unavailable:
                raise
            except Exception as error:
                log.exception("owners could not be looked at", zone=zone)
                failed.append(error)
        if failed:
            raise failed[0]
        return found


class _Later(Alerts, Notices):
    """Asks the house when something is to be said: alerts and notices are built after owners, on whom they stand."""

    def __init__(self, house: House) -> None:
        self._house = house

    async def fire(self, tx: Transaction, context: Context, raised: Raised) -> str:
        return await self._house.alerts.fire(tx, context, raised)

    async def clear(self, tx: Transaction, context: Context, key: str) -> bool:
        return await self._house.alerts.clear(tx, context, key)

    async def send(self, tx: Transaction, zone: str, notice: Notice) -> str:
        return await self._house.notices.send(tx, zone, notice)
