"""Drills: break something on purpose and see who is told, and how soon.

A fault is real: it breaks what an alert rule looks at, and the alert comes or it does not. The times of a drill are
taken from the alert and from the receipt of its notice, never from whoever runs the drill.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from bailiwick.assurance.alerting.figures import AlertFigures
from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import BailiwickError, InvalidRequest, NotFound
from bailiwick.kernel.ids import Ids

LONGEST = timedelta(hours=4)


class Fault(Protocol):
    """Something that can be broken, and mended again. Both are in the transaction of the drill's row."""

    name: str
    meaning: str

    async def inject(self, tx: Transaction, target: str, drill: str, now: datetime, until: datetime) -> None:
        """Break ``target``. Raises ``drill_refused`` where it cannot be broken, or must not be."""
        ...

    async def mend(self, tx: Transaction, target: str, drill: str, now: datetime) -> None:
        """Undo it; mending twice does no harm."""
        ...


class StopJob:
    """Stops a scheduled job: its one place to run is taken, so that nobody can, until the drill ends."""

    name = "stop-job"
    meaning = "keeps a scheduled job from running; the target is the job's name"

    async def inject(self, tx: Transaction, target: str, drill: str, now: datetime, until: datetime) -> None:
        """See :class:`Fault`."""
        if not await tx.value("SELECT true FROM job_occurrences WHERE job = :job LIMIT 1", job=target):
            raise BailiwickError("There is no scheduled job by that name.", reason="drill_refused")
        # the lease ends it also when nobody does
        taken = await tx.run(
            "INSERT INTO job_occurrences (job, due_at, scheduled, state, attempts, holder, started_at, lease_until)"
            " SELECT :job, :now, false, 'running', 1, :holder, :now,"
            " clock_timestamp() + make_interval(secs => :lease)"
            " WHERE NOT EXISTS (SELECT FROM job_occurrences WHERE job = :job AND state = 'running')"
            " ON CONFLICT DO NOTHING",
            job=target,
            now=now,
            holder=f"drill:{drill}",
            lease=(until - now).total_seconds(),
        )
        if not taken:
            raise BailiwickError("The job runs at this moment; try again.", reason="drill_refused")

    async def mend(self, tx: Transaction, target: str, drill: str, now: datetime) -> None:
        """See :class:`Fault`."""
        await tx.run(
            "UPDATE job_occurrences SET state = 'missed', finished_at = :now, lease_until = NULL,"
            " detail = '{\"drill\": true}' WHERE job = :job AND holder = :holder AND state = 'running'",
            now=now,
            job=target,
            holder=f"drill:{drill}",
        )


class KillPart:
    """Kills a process of this installation, as a machine that runs out of memory does; the supervisor restarts it.

    ``pid_of`` answers the process of a part on this machine.
    """

    name = "kill-part"
    meaning = "kills a serve worker or the guard; the target is the part's name as `bailiwick status` shows it"

    def __init__(self, pid_of: Callable[[str], int | None], kill: Callable[[int, int], None] = os.kill) -> None:
        self._pid_of = pid_of
        self._kill = kill

    async def inject(self, tx: Transaction, target: str, drill: str, now: datetime, until: datetime) -> None:
        """See :class:`Fault`."""
        if re.fullmatch(r"w\d{1,3}|guard", target) is None:
            raise BailiwickError("Only a serve worker or the guard is killed in a drill.", reason="drill_refused")
        pid = self._pid_of(target)
        if pid is None:
            raise BailiwickError("There is no such part on this machine.", reason="drill_refused")
        try:
            self._kill(pid, signal.SIGKILL)
        except OSError as error:
            raise BailiwickError(f"The part could not be killed: {error.strerror}", reason="drill_refused") from None

    async def mend(self, tx: Transaction, target: str, drill: str, now: datetime) -> None:
        """The supervisor did."""


@dataclass(frozen=True, slots=True)
class Drill:
    """One drill and what it measured."""

    id: str
    fault: str
    target: str
    rule: str
    state: str
    started_by: str
    injected_at: datetime
    until: datetime
    mended_at: datetime | None
    alert: str | None
    delivery: str | None
    fired_at: datetime | None
    delivered_at: datetime | None
    acknowledged_at: datetime | None

    @property
    def ended(self) -> bool:
        """Whether nothing more comes of it."""
        return self.state in ("acknowledged", "missed")

    def document(self) -> dict[str, Any]:
        """The JSON form, with how long each step took in seconds."""
        steps = {"fired": self.fired_at, "delivered": self.delivered_at, "acknowledged": self.acknowledged_at}
        took = {name: (at - self.injected_at).total_seconds() for name, at in steps.items() if at is not None}
        return {**{name: getattr(self, name) for name in self.__slots__}, "took_s": took}


class Drills:
    """Starts drills and follows them."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        ids: Ids,
        recorder: Recorder,
        figures: AlertFigures,
        faults: Mapping[str, Fault],
    ) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._recorder = recorder
        self._figures = figures
        self.faults = faults

    async def start(self, context: Context, fault: str, target: str, rule: str, *, lasts: timedelta, by: str) -> Drill:
        """Break ``target`` and wait for an alert of ``rule``. Raises ``drill_refused``, ``invalid_request``."""
        if fault not in self.faults:
            raise InvalidRequest(f"There is no fault {fault}; there are {', '.join(self.faults)}.")
        if not timedelta(seconds=10) <= lasts <= LONGEST:
            raise InvalidRequest("A drill lasts from ten seconds to four hours.")
        now, identifier = self._clock.now(), self._ids()
        async with self._database.begin() as tx:
            if await tx.value(
                "SELECT true FROM alerts WHERE zone = :zone AND rule = :rule"
                " AND state IN ('pending', 'firing', 'acknowledged')",
                zone=context.zone,
                rule=rule,
            ):
                raise BailiwickError("An alert of that rule is open: it would prove nothing.", reason="drill_refused")
            await tx.run(
                "INSERT INTO alert_drills (id, zone, fault, target, rule, state, started_by, injected_at, until)"
                " VALUES (:id, :zone, :fault, :target, :rule, 'injected', :by, :now, :until)",
                id=identifier,
                zone=context.zone,
                fault=fault,
                target=target,
                rule=rule,
                by=by,
                now=now,
                until=now + lasts,
            )
            await self._figures.happened(tx, context, "drill", identifier, now, None)
            await self._recorder.record(
                tx,
                codes.ALERT_DRILL_STARTED,
                "success",
                context,
                subject=Subject(id=identifier, type="drill"),
                fault=fault,
                target=target,
                rule=rule,
            )
            await self.faults[fault].inject(tx, target, identifier, now, now + lasts)
            return await self.get(tx, context.zone, identifier)

    async def follow(self) -> int:
        """Take over what became of the drills that go on, in every zone; how many ended."""
        async with self._database.begin() as tx:
            rows = await tx.all(
                f"{_SELECT}, zone FROM alert_drills WHERE state NOT IN ('acknowledged', 'missed') OR mended_at IS NULL"
                " ORDER BY id FOR UPDATE SKIP LOCKED"
            )
            ended = 0
            for row in rows:
                values = dict(row)
                zone = values.pop("zone")
                ended += await self._follow(tx, Context(zone), Drill(**values))
        return ended

    async def _follow(self, tx: Transaction, context: Context, drill: Drill) -> int:
        now = self._clock.now()
        found = await tx.one(_FOUND, zone=context.zone, rule=drill.rule, since=drill.injected_at, until=drill.until)
        alert = found["id"] if found else None
        fired, acknowledged = (found["fired_at"], found["acknowledged_at"]) if found else (None, None)
        receipt = await tx.one(_RECEIPT, alert=alert) if alert else None
        delivered = receipt["delivered_at"] if receipt else None
        if delivered is None:
            acknowledged = None  # who was not told and looked all the same is not what a drill measures
        over = now >= drill.until
        state = (
            "acknowledged" if acknowledged else "missed" if over else
            "delivered" if delivered else "fired" if fired else "injected"
        )  # fmt: skip
        if over or acknowledged:
            await self.faults[drill.fault].mend(tx, drill.target, drill.id, now)
        await tx.run(
            "UPDATE alert_drills SET state = :state, alert = :alert, fired_at = :fired, delivered_at = :delivered,"
            " delivery = :delivery, acknowledged_at = :acknowledged,"
            " mended_at = CASE WHEN :over THEN coalesce(mended_at, :now) ELSE mended_at END WHERE id = :id",
            state=state,
            alert=alert,
            fired=fired,
            delivered=delivered,
            delivery=receipt["id"] if receipt else None,
            acknowledged=acknowledged,
            over=bool(over or acknowledged),
            now=now,
            id=drill.id,
        )
        if alert is not None and drill.alert is None:
            await self._figures.happened(tx, context, "drill", drill.id, drill.injected_at, alert)
        if state not in ("acknowledged", "missed") or drill.ended:
            return 0
        await self._recorder.record(
            tx,
            codes.ALERT_DRILL_ENDED,
            "success" if state == "acknowledged" else "failure",
            context,
            subject=Subject(id=drill.id, type="drill"),
            fault=drill.fault,
            target=drill.target,
            rule=drill.rule,
        )
        return 1

    async def get(self, tx: Transaction, zone: str, identifier: str) -> Drill:
        """One drill. Raises :class:`NotFound`."""
        row = await tx.one(f"{_SELECT} FROM alert_drills WHERE zone = :zone AND id = :id", zone=zone, id=identifier)
        if row is None:
            raise NotFound("There is no drill by that id.")
        return _drill(row)

    async def list(self, tx: Transaction, zone: str, limit: int = 100) -> list[Drill]:
        """Drills, newest first."""
        rows = await tx.all(
            f"{_SELECT} FROM alert_drills WHERE zone = :zone ORDER BY id DESC LIMIT :limit", zone=zone, limit=limit
        )
        return [_drill(row) for row in rows]


_SELECT = f"SELECT {', '.join(Drill.__slots__)}"

_FOUND = """
SELECT id, fired_at, acknowledged_at FROM alerts
WHERE zone = :zone AND rule = :rule AND fired_at >= :since AND fired_at < :until ORDER BY fired_at, id LIMIT 1
"""

# the first receipt of a notice that told somebody of the alert
_RECEIPT = """
SELECT d.id, d.delivered_at FROM notice_deliveries d
WHERE d.state = 'delivered' AND d.notice IN (
  SELECT notice FROM alert_tellings WHERE alert = :alert AND what = 'fired'
  UNION SELECT notice FROM escalation_steps WHERE alert = :alert)
ORDER BY d.delivered_at, d.id LIMIT 1
"""


def _drill(row: Row) -> Drill:
    return Drill(**row)
