"""What the clock does about waivers, and the burn-down report.

Nothing here ends a waiver: that its time is over is read off its dates. This tells of it: the event of each end, once;
the heads-up before it; an alert until it is renewed or its control is shown to hold again; those nobody ever used; and
those that are not what was approved any more, which nobody can have changed by way of us.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from bailiwick.assurance.ports import Alerts, Notice, Notices, Raised
from bailiwick.assurance.waivers import HEADS_UP, RISKS, UNUSED_AFTER, Waiver, WaiverRegister, state_at
from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject, rfc3339
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.severity import Severity

RUNBOOK = "docs/how-to/waivers-and-secrets.md"
_SEVERITY = {"CRITICAL": Severity.P1, "HIGH": Severity.P1, "MEDIUM": Severity.P2, "LOW": Severity.P3}


def heads_up_due(valid_until: datetime, now: datetime, created_at: datetime) -> int | None:
    """The smallest of 7, 3 and 1 days that the end is nearer than; None where none is, or it was over from the start.

    What was nearer than that when the waiver was made says nothing new.
    """
    if now >= valid_until:
        return None
    for before in sorted(HEADS_UP):
        if valid_until - now <= before and valid_until - created_at > before:
            return before.days
    return None


@dataclass(frozen=True, slots=True)
class BurnDown:
    """The waivers of a zone at one moment. Ages are whole hours since the first request, renewals counted on."""

    at: datetime
    open: Mapping[str, int]
    mean_age_h: Mapping[str, int]
    past_due: Mapping[str, int]
    renewed: Mapping[str, int]
    unused: Sequence[str]

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "at": self.at,
            "open": dict(self.open),
            "open_total": sum(self.open.values()),
            "mean_age_h": dict(self.mean_age_h),
            "past_due": dict(self.past_due),
            "past_due_total": sum(self.past_due.values()),
            "renewed": dict(self.renewed),
            "unused": list(self.unused),
        }


def burn_down(waivers: Sequence[Row], now: datetime) -> BurnDown:
    """The report of rows with ``id, risk, state, valid_from, valid_until, settled_at, since, renewals, uses``.

    Open: approved, active, or expired and neither renewed nor settled.
    """
    standing = [(row, state_at(row["state"], row["valid_from"], row["valid_until"], now)) for row in waivers]
    late = [row for row, state in standing if state == "expired" and row["settled_at"] is None]
    opened = [row for row, state in standing if state in ("approved", "active")] + late
    unused = [
        row["id"]
        for row, state in standing
        if state == "active" and not row["uses"] and now - row["valid_from"] >= UNUSED_AFTER
    ]

    def of(rows: Sequence[Row]) -> dict[str, int]:
        return {risk: sum(row["risk"] == risk for row in rows) for risk in RISKS}

    def age(risk: str) -> int:
        ages = [(now - row["since"]) // timedelta(hours=1) for row in opened if row["risk"] == risk]
        return sum(ages) // len(ages) if ages else 0

    renewals = [row for row in opened if row["renewals"]]
    return BurnDown(now, of(opened), {risk: age(risk) for risk in RISKS}, of(late), of(renewals), sorted(unused))


async def read_burn_down(tx: Transaction, zone: str, now: datetime) -> BurnDown:
    """The report of a zone."""
    return burn_down(await tx.all(_STANDING, zone=zone), now)


class WaiverWatch:
    """Tells of ends that come and that came, for all zones."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        recorder: Recorder,
        register: WaiverRegister,
        notices: Notices,
        alerts: Alerts,
    ) -> None:
        self._database = database
        self._clock = clock
        self._recorder = recorder
        self._register = register
        self._notices = notices
        self._alerts = alerts

    async def run(self, due: datetime) -> dict[str, Any]:
        """Look at all waivers once; what was told."""
        settled = await self._register.settle_votes()
        now = self._clock.now()
        told = {"settled": settled, "expired": 0, "heads_up": 0, "past_due": 0, "cleared": 0, "altered": 0}
        async with self._database.begin() as tx:
            rows = await tx.all("SELECT zone, id FROM waivers WHERE state IN ('approved', 'renewed') ORDER BY id")
            for row in rows:
                waiver = await self._register.get(tx, row["zone"], row["id"])
                context = Context(waiver.zone)
                told["expired"] += await self._note_end(tx, context, waiver, now)
                told["heads_up"] += await self._heads_up(tx, waiver, now)
                if await self._register.altered(tx, waiver):
                    await self._alerts.fire(tx, context, _altered(waiver))
                    told["altered"] += 1
                else:
                    await self._alerts.clear(tx, context, _altered(waiver).key)
                if waiver.past_due:
                    await self._alerts.fire(tx, context, _overdue(waiver))
                    told["past_due"] += 1
                elif waiver.state == "renewed" or waiver.settled_at is not None:
                    told["cleared"] += await self._alerts.clear(tx, context, _overdue(waiver).key)
        return told

    async def _note_end(self, tx: Transaction, context: Context, waiver: Waiver, now: datetime) -> int:
        """The event of the end; once, whoever else looks at the same time."""
        if now < waiver.valid_until:
            return 0
        first = await tx.run(
            "UPDATE waivers SET expired_noted_at = :now WHERE id = :id AND expired_noted_at IS NULL",
            now=now,
            id=waiver.id,
        )
        if first:
            await self._recorder.record(
                tx,
                codes.WAIVER_EXPIRED,
                "success",
                context,
                subject=Subject(id=waiver.id, type="waiver"),
                control=waiver.control,
                scope=waiver.scope,
                risk=waiver.risk,
                until=rfc3339(waiver.valid_until),
            )
        return first

    async def _heads_up(self, tx: Transaction, waiver: Waiver, now: datetime) -> int:
        days = heads_up_due(waiver.valid_until, now, waiver.created_at) if waiver.state == "active" else None
        if days is None:
            return 0
        subject = f"waiver of {waiver.control} for {waiver.scope} ends in {days} d"
        body = (
            f"{waiver.risk} waiver {waiver.id} ends {rfc3339(waiver.valid_until)}; from then on the gate is shut again."
            f"\nPlan: {waiver.plan}\nClose it with evidence, or have it renewed once it has ended."
        )
        for to in (f"person:{waiver.requested_by}", "role:security_owner"):
            key = f"waiver/{waiver.id}/{days}d/{to}"
            await self._notices.send(tx, waiver.zone, Notice(to, key, subject[:200], body, _SEVERITY[waiver.risk]))
        return 1


def _overdue(waiver: Waiver) -> Raised:
    return Raised(
        key=f"waiver/{waiver.id}/overdue",
        rule="WaiverOverdue",
        severity=_SEVERITY[waiver.risk],
        summary=f"{waiver.risk} waiver of {waiver.control} for {waiver.scope} ran out, neither renewed nor closed",
        owner=waiver.owner,
        runbook=RUNBOOK,
        labels={"control": waiver.control, "risk": waiver.risk},
        annotations={"plan": waiver.plan[:500]},
    )


def _altered(waiver: Waiver) -> Raised:
    return Raised(
        key=f"waiver/{waiver.id}/altered",
        rule="WaiverAltered",
        severity=Severity.P0,
        summary=f"The waiver of {waiver.control} for {waiver.scope} is not what was approved: its row was changed",
        owner=waiver.owner,
        runbook=RUNBOOK,
        labels={"control": waiver.control, "risk": waiver.risk},
        annotations={"description": "It covers nothing. Compare it with its approval, and revoke it."},
    )


_STANDING = """
WITH RECURSIVE origin (id, since) AS (
  SELECT id, created_at FROM waivers WHERE zone = :zone AND renews IS NULL
  UNION ALL
  SELECT w.id, o.since FROM waivers w JOIN origin o ON w.renews = o.id
)
SELECT w.id, w.risk, w.state, w.valid_from, w.valid_until, w.settled_at, w.renewals, o.since,
       (SELECT count(*) FROM waiver_uses u WHERE u.waiver = w.id) AS uses
FROM waivers w JOIN origin o ON o.id = w.id WHERE w.zone = :zone ORDER BY w.id
"""
