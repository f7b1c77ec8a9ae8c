"""Escalation: who is told next, and when, as long as nobody acknowledges.

The times are the seed's: the primary at once; the secondary after 15 minutes (P0) or 30 (P1); the on-call manager is
told after an hour, the engineering lead an hour after the secondary, management two hours later. P2 and P3 run in
business hours only and stop at the engineering lead. Steps are rows with due times, so a restart goes on where it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from bailiwick.assurance.notices.hours import SEED_HOURS, Hours
from bailiwick.assurance.ports import Level
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.severity import Severity

SECONDARY = {Severity.P0: timedelta(minutes=15), Severity.P1: timedelta(minutes=30)}
MANAGER = timedelta(hours=1)
LEAD = timedelta(hours=1)
MANAGEMENT = timedelta(hours=2)


@dataclass(frozen=True, slots=True)
class Step:
    """Tell the person of ``level`` at ``due_at`` unless it was acknowledged by then."""

    level: Level
    due_at: datetime


def plan_steps(severity: Severity, fired_at: datetime, hours: Hours = SEED_HOURS) -> list[Step]:
    """Every step of an alert that fired at ``fired_at``, in the order of their times."""
    if severity in SECONDARY:
        secondary = SECONDARY[severity]
        steps = [
            Step("primary", fired_at),
            Step("secondary", fired_at + secondary),
            Step("manager", fired_at + MANAGER),
            Step("lead", fired_at + secondary + LEAD),
            Step("management", fired_at + secondary + LEAD + MANAGEMENT),
        ]
        if timedelta(0) < severity.answered_within < secondary:
            # time to answer is over: the primary is told once more before the secondary is
            steps.append(Step("primary", fired_at + severity.answered_within))
        return sorted(steps, key=lambda step: step.due_at)
    answered = severity.answered_within
    return [
        Step("primary", hours.after(fired_at, timedelta(0))),
        Step("secondary", hours.after(fired_at, answered)),
        Step("lead", hours.after(fired_at, answered + LEAD)),
    ]


async def write_steps(tx: Transaction, zone: str, alert: str, steps: Sequence[Step]) -> None:
    """Have ``steps`` in place of those of the alert that are still due."""
    await tx.run("DELETE FROM escalation_steps WHERE alert = :alert AND state = 'due'", alert=alert)
    first = await tx.value("SELECT coalesce(max(number), 0) FROM escalation_steps WHERE alert = :alert", alert=alert)
    for number, step in enumerate(steps, start=int(first) + 1):
        await tx.run(
            "INSERT INTO escalation_steps (alert, number, zone, level, due_at)"
            " VALUES (:alert, :number, :zone, :level, :due_at)",
            alert=alert,
            number=number,
            zone=zone,
            level=step.level,
            due_at=step.due_at,
        )
