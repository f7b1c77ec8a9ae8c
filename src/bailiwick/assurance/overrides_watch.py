"""What the clock does about overrides: broken glass that nobody confirmed, external ones that nobody answered, too many
of them in an hour, and a sample of each month for a person to look at."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from bailiwick.assurance.override_rules import MOST_AN_HOUR
from bailiwick.assurance.overrides import RUNBOOK, Overrides
from bailiwick.assurance.ports import Alerts, Raised, Task, Tasks
from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database
from bailiwick.kernel.errors import BailiwickError
from bailiwick.kernel.severity import Severity

MOST_ATTEMPTS = 5
LEAST_SAMPLE, SAMPLE_PERCENT = 5, 10

log = structlog.get_logger(__name__)


def sample(month: str, identifiers: Sequence[str]) -> list[str]:
    """A tenth of them, and five at least, drawn by a hash of the month: nobody chooses, and anybody can draw again."""
    count = max(LEAST_SAMPLE, -(-len(identifiers) * SAMPLE_PERCENT // 100))
    drawn = sorted(identifiers, key=lambda each: hashlib.sha256(f"{month}/{each}".encode()).digest())
    return sorted(drawn[:count])


def month_before(now: datetime) -> tuple[str, datetime, datetime]:
    """The month that ended last: its name, its begin and its end."""
    end = now.astimezone(UTC).replace(day=1, hour=0, minute=0, second=0, microsecond=0)
    begin = (end - timedelta(days=1)).replace(day=1)
    return f"{begin:%Y-%m}", begin, end


class OverrideWatch:
    """Looks at the overrides of all zones."""

    def __init__(
        self, database: Database, clock: Clock, recorder: Recorder, overrides: Overrides, alerts: Alerts, tasks: Tasks
    ) -> None:
        self._database = database
        self._clock = clock
        self._recorder = recorder
        self._overrides = overrides
        self._alerts = alerts
        self._tasks = tasks

    async def run(self, due: datetime) -> dict[str, Any]:
        """Everything once; what was found."""
        return {
            "taken_back": await self.take_back(),
            "resumed": await self.resume(),
            "too_many": await self.rate(),
            "sampled": await self.draw(),
        }

    async def take_back(self) -> int:
        """What was done by broken glass and is disputed, or was not confirmed in time."""
        now, count = self._clock.now(), 0
        async with self._database.begin() as tx:
            waiting = await self._overrides.waiting(tx, "review_due")
        for override in waiting:
            disputed = override.approval.state == "rejected"
            if disputed or (override.review_due is not None and now >= override.review_due):
                why, by = ("disputed", override.approval.ended_by or "") if disputed else ("unreviewed", "bailiwick")
                await self._overrides.take_back(Context(override.zone), override, why, by)
                count += 1
        return count

    async def resume(self) -> int:
        """External operations that were begun a minute ago and not answered."""
        async with self._database.begin() as tx:
            waiting = await self._overrides.waiting(tx, "executing")
        count = 0
        for override in waiting:
            begun = override.executed_at or override.requested_at
            if self._clock.now() - begun < timedelta(minutes=1):
                continue
            context = Context(override.zone)
            if override.attempts >= MOST_ATTEMPTS:
                await self._overrides.give_up(context, override, f"no answer to {override.attempts} requests")
                async with self._database.begin() as tx:
                    await self._alerts.fire(tx, context, _unanswered(override.id, override.operation))
                continue
            try:
                await self._overrides.resume(context, override)
                count += 1
            except BailiwickError as error:
                log.error("override not resumed", override=override.id, why=str(error))
        return count

    async def rate(self) -> int:
        """Alert on zones with more than :data:`MOST_AN_HOUR` in the last hour, and clear where it is over."""
        since, count = self._clock.now() - timedelta(hours=1), 0
        async with self._database.begin() as tx:
            rows = await tx.all(
                "SELECT z.name AS zone, count(o.id) AS done FROM zones z LEFT JOIN overrides o"
                " ON o.zone = z.name AND o.executed_at > :since GROUP BY z.name ORDER BY z.name",
                since=since,
            )
            for row in rows:
                context, key = Context(row["zone"]), "override-rate"
                if row["done"] > MOST_AN_HOUR:
                    await self._alerts.fire(
                        tx,
                        context,
                        Raised(
                            key,
                            "OverrideRate",
                            Severity.P2,
                            f"{row['done']} overrides in an hour; {MOST_AN_HOUR} are the most that is usual",
                            "manual-overrides",
                            RUNBOOK,
                        ),
                    )
                    count += 1
                else:
                    await self._alerts.clear(tx, context, key)
        return count

    async def draw(self) -> int:
        """Draw the sample of last month, once a zone, and open the task of looking at it."""
        now, count = self._clock.now(), 0
        month, begin, end = month_before(now)
        async with self._database.begin() as tx:
            rows = await tx.all(
                "SELECT o.zone, array_agg(o.id ORDER BY o.id) AS ids FROM overrides o WHERE o.executed_at >= :begin"
                " AND o.executed_at < :end AND NOT EXISTS (SELECT FROM override_samples s"
                " WHERE s.zone = o.zone AND s.month = :month) GROUP BY o.zone",
                begin=begin,
                end=end,
                month=month,
            )
            for row in rows:
                drawn = sample(month, row["ids"])
                for identifier in drawn:
                    await tx.run(
                        "INSERT INTO override_samples (zone, month, override) VALUES (:zone, :month, :id)",
                        zone=row["zone"],
                        month=month,
                        id=identifier,
                    )
                context = Context(row["zone"])
                title = f"Look at {len(drawn)} of {len(row['ids'])} overrides of {month}"
                task = Task(f"overrides/sample/{month}", title, "manual-overrides", now + timedelta(days=7))
                await self._tasks.open(tx, context, task)
                await self._recorder.record(
                    tx,
                    codes.OVERRIDE_SAMPLED,
                    "success",
                    context,
                    subject=Subject(id=row["zone"], type="zone"),
                    month=month,
                    of=len(row["ids"]),
                    sample=drawn[:50],
                )
                count += len(drawn)
        return count


def _unanswered(identifier: str, operation: str) -> Raised:
    return Raised(
        f"override/{identifier}/unanswered",
        "OverrideUnanswered",
        Severity.P1,
        f"nobody answered {operation}; look whether the other side did it",
        "manual-overrides",
        RUNBOOK,
    )
