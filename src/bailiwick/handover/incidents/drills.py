"""Drills: a trigger is injected in a zone that is a sandbox, and it is measured when people and program answer.

The alert is real, goes the way of every alert and opens an incident as any would; only the zone is one that nobody
depends on. The times are taken from the incident, never from whoever runs the drill.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from bailiwick.assurance.books import Books
from bailiwick.assurance.ports import Alerts, Raised
from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.handover.incidents.documents import DRILL_ZONE, TRIGGER
from bailiwick.handover.incidents.service import RUNBOOK
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import BailiwickError, Conflict, NotFound
from bailiwick.kernel.ids import Ids

LONGEST = timedelta(hours=4)


@dataclass(frozen=True, slots=True)
class Drill:
    """One drill. Each time is None until it came."""

    id: str
    zone: str
    trigger: str
    started_by: str
    injected_at: datetime
    until: datetime
    incident: str | None
    opened_at: datetime | None
    acknowledged_at: datetime | None
    contained_at: datetime | None
    ended_at: datetime | None
    outcome: str | None

    def seconds(self, at: datetime | None) -> int | None:
        """How long after the injection something came."""
        return None if at is None else int((at - self.injected_at).total_seconds())

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        told = {name: getattr(self, name) for name in self.__slots__ if name != "zone"}
        names = ("opened", "acknowledged", "contained")
        return {**told, **{f"{name}_s": self.seconds(getattr(self, f"{name}_at")) for name in names}}


def outcome_of(drill: Drill, now: datetime) -> str | None:
    """``passed``: contained in time; ``late``: opened and not contained in time; ``missed``: it never opened."""
    if drill.contained_at is not None and drill.contained_at <= drill.until:
        return "passed"
    if now < drill.until:
        return None
    return "late" if drill.opened_at is not None else "missed"


class IncidentDrills:
    """Holds drills."""

    def __init__(
        self, database: Database, clock: Clock, ids: Ids, recorder: Recorder, books: Books, alerts: Alerts
    ) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._recorder = recorder
        self._books = books
        self._alerts = alerts

    async def start(self, context: Context, trigger: str, within: timedelta) -> Drill:
        """Inject what ``trigger`` is over. Raises ``not_a_sandbox``, ``not_found``, ``conflict``, ``drill_refused``."""
        now = self._clock.now()
        async with self._database.begin() as tx:
            await tx.run("SELECT pg_advisory_xact_lock(hashtext('incident drills'), hashtext(:z))", z=context.zone)
            if not await self._books.read_all(tx, context.zone, DRILL_ZONE):
                raise BailiwickError(reason="not_a_sandbox")
            known = await self._books.read(tx, context.zone, TRIGGER, trigger)
            if known is None:
                raise NotFound(f"There is no IncidentTrigger {trigger}.")
            if not known.alerts and not known.severities:
                raise BailiwickError("Only alerts can be injected; this trigger is over none.", reason="drill_refused")
            if await self._open(tx, context.zone, trigger):
                raise Conflict("A drill of this trigger goes on.")
            if await tx.value(
                "SELECT EXISTS (SELECT FROM incidents WHERE zone = :zone AND trigger = :trigger"
                " AND state IN ('open', 'contained'))",
                zone=context.zone,
                trigger=trigger,
            ):
                raise Conflict("An incident of this trigger goes on: the drill would prove nothing.")
            identifier = self._ids()
            await tx.run(
                "INSERT INTO incident_drills (id, zone, trigger, started_by, injected_at, until)"
                " VALUES (:id, :zone, :trigger, :by, :now, :until)",
                id=identifier,
                zone=context.zone,
                trigger=trigger,
                by=context.actor.user,
                now=now,
                until=now + min(within, LONGEST),
            )
            rule = known.alerts[0] if known.alerts else "IncidentDrill"
            severity = known.severity if known.alerts else known.severities[0]
            raised = Raised(
                f"incident-drill/{identifier}", rule, severity, f"DRILL: {known.title}", known.owner, RUNBOOK,
                {"component": "incidents", "drill": identifier}, {"description": "A drill, in a sandbox."},
            )  # fmt: skip
            await self._alerts.fire(tx, context, raised)
            subject = Subject(id=identifier, type="incident-drill")
            await self._recorder.record(
                tx, codes.INCIDENT_DRILL_STARTED, "success", context, subject=subject, trigger=trigger
            )
            return await self.get(tx, context.zone, identifier)

    async def follow(self) -> int:
        """Take in what came of drills that go on, and end those that are over; how many ended."""
        async with self._database.begin() as tx:
            rows = await tx.all(f"{_SELECT} WHERE ended_at IS NULL ORDER BY id")
        ended = 0
        for row in rows:
            async with self._database.begin() as tx:
                ended += await self._follow(tx, _drill(row))
        return ended

    async def _follow(self, tx: Transaction, drill: Drill) -> int:
        now, context = self._clock.now(), Context(drill.zone)
        await tx.run("SELECT pg_advisory_xact_lock(hashtext('incident drills'), hashtext(:z))", z=drill.zone)
        row = await tx.one(
            "SELECT id, opened_at, acknowledged_at, contained_at FROM incidents WHERE zone = :zone AND drill = :id",
            zone=drill.zone,
            id=drill.id,
        )
        if row is not None:
            await tx.run(
                "UPDATE incident_drills SET incident = :incident, opened_at = :opened, acknowledged_at = :acknowledged,"
                " contained_at = :contained WHERE id = :id",
                incident=row["id"],
                opened=row["opened_at"],
                acknowledged=row["acknowledged_at"],
                contained=row["contained_at"],
                id=drill.id,
            )
            drill = await self.get(tx, drill.zone, drill.id)
        outcome = outcome_of(drill, now)
        if outcome is None or drill.ended_at is not None:
            return 0
        await tx.run(
            "UPDATE incident_drills SET ended_at = :now, outcome = :outcome WHERE id = :id",
            now=now,
            outcome=outcome,
            id=drill.id,
        )
        await self._alerts.clear(tx, context, f"incident-drill/{drill.id}")
        opened, contained = drill.seconds(drill.opened_at), drill.seconds(drill.contained_at)
        await self._recorder.record(
            tx,
            codes.INCIDENT_DRILL_ENDED,
            "success" if outcome == "passed" else "failure",
            context,
            subject=Subject(id=drill.id, type="incident-drill"),
            trigger=drill.trigger,
            outcome=outcome,
            opened_s=-1 if opened is None else opened,
            contained_s=-1 if contained is None else contained,
        )
        return 1

    async def get(self, tx: Transaction, zone: str, identifier: str) -> Drill:
        """One drill. Raises :class:`NotFound`."""
        row = await tx.one(f"{_SELECT} WHERE zone = :zone AND id = :id", zone=zone, id=identifier)
        if row is None:
            raise NotFound("There is no drill by that id.")
        return _drill(row)

    async def list(self, tx: Transaction, zone: str) -> Sequence[Drill]:
        """The newest hundred."""
        rows = await tx.all(f"{_SELECT} WHERE zone = :zone ORDER BY id DESC LIMIT 100", zone=zone)
        return [_drill(row) for row in rows]

    async def _open(self, tx: Transaction, zone: str, trigger: str) -> bool:
        return bool(
            await tx.value(
                "SELECT EXISTS (SELECT FROM incident_drills WHERE zone = :zone AND trigger = :trigger"
                " AND ended_at IS NULL)",
                zone=zone,
                trigger=trigger,
            )
        )


def _drill(row: Row) -> Drill:
    return Drill(**row)


_SELECT = f"SELECT {', '.join(Drill.__slots__)} FROM incident_drills"  # noqa: S608 - names from the class
