"""Scheduled jobs: every occurrence is a row, due by the injected clock, done once, and never silently skipped.

One process schedules and runs at a time (advisory lock), so any number may stand by. An occurrence that nobody ran
within its grace is ``missed``, which is a finding, not a gap. A process that dies in the middle leaves a ``running``
row; after its lease the occurrence is tried again.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import structlog

from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, libpq_url
from bailiwick.kernel.errors import Unavailable
from bailiwick.kernel.redaction import redact_text

log = structlog.get_logger(__name__)

_LOCK = 0x6A6F6273  # "jobs": one runner at a time
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MAX_ATTEMPTS = 3

Handler = Callable[[], Awaitable[Mapping[str, Any] | None]]


@dataclass(frozen=True, slots=True)
class Job:
    """Something done every ``every``, counted from the year 2000, so that all machines agree on when it is due.

    An occurrence may start up to ``grace`` late; ``lease`` is how long one run may take before it counts as dead.
    """

    name: str
    every: timedelta
    handler: Handler
    grace: timedelta = timedelta(hours=1)
    lease: timedelta = timedelta(minutes=10)

    def due(self, now: datetime) -> datetime:
        """The latest instant not after ``now`` at which the job is due."""
        return _EPOCH + ((now - _EPOCH) // self.every) * self.every


class JobRunner:
    """Schedules and runs ``jobs``. ``observe(job, outcome)`` feeds the metrics."""

    def __init__(
        self,
        database: Database,
        direct_url: str,
        clock: Clock,
        jobs: Sequence[Job],
        *,
        tick_s: float = 1.0,
        observe: Callable[[str, str], None] = lambda job, outcome: None,
    ) -> None:
        self._database = database
        self._direct_url = direct_url
        self._clock = clock
        self._jobs = {job.name: job for job in jobs}
        self._tick_s = tick_s
        self._observe = observe
        self.leading = False

    async def run(self) -> None:
        """Lead when nobody else does, until cancelled. A lost database connection gives the lead back."""
        while True:
            try:
                async with await psycopg.AsyncConnection.connect(
                    libpq_url(self._direct_url), autocommit=True, connect_timeout=3
                ) as connection:
                    await self._lead(connection)
            except (psycopg.Error, Unavailable):
                self.leading = False
            await asyncio.sleep(self._tick_s)

    async def _lead(self, connection: psycopg.AsyncConnection[Any]) -> None:
        while True:
            row = await (await connection.execute("SELECT pg_try_advisory_lock(%s)", (_LOCK,))).fetchone()
            if row and row[0]:
                break
            await asyncio.sleep(self._tick_s)
        self.leading = True
        while True:
            await connection.execute("SELECT 1")  # the lock is this connection's; without it we do not lead
            await self.step()
            await asyncio.sleep(self._tick_s)

    async def step(self) -> int:
        """Write the occurrences that are due, run what waits; answers how many ran."""
        await self._schedule()
        ran = 0
        for job in self._jobs.values():
            ran += await self._run_due(job)
        return ran

    async def _schedule(self) -> None:
        now = self._clock.now()
        async with self._database.begin() as tx:
            for job in self._jobs.values():
                latest = await tx.value("SELECT max(due_at) FROM job_occurrences WHERE job = :job", job=job.name)
                due = job.due(now)
                # after a pause: what fell due while nobody ran, newest last, not more than can be read
                first = due if latest is None else max(latest + job.every, due - 100 * job.every)
                while first <= due:
                    await tx.run(
                        "INSERT INTO job_occurrences (job, due_at) VALUES (:job, :due) ON CONFLICT DO NOTHING",
                        job=job.name,
                        due=first,
                    )
                    first += job.every
                missed = await tx.run(
                    "UPDATE job_occurrences SET state = 'missed', finished_at = :now"
                    " WHERE job = :job AND state = 'due' AND due_at < :before",
                    now=now,
                    job=job.name,
                    before=now - job.grace,
                )
                for _ in range(missed):
                    self._observe(job.name, "missed")

    async def _run_due(self, job: Job) -> int:
        """Run the newest waiting occurrence; older ones of the same job are covered by it and say so."""
        now = self._clock.now()
        async with self._database.begin() as tx:
            due_at = await tx.value(
                "SELECT due_at FROM job_occurrences WHERE job = :job AND (state = 'due'"
                " OR (state = 'running' AND started_at < :dead AND attempts < :most))"
                " ORDER BY due_at DESC LIMIT 1 FOR UPDATE SKIP LOCKED",
                job=job.name,
                dead=now - job.lease,
                most=_MAX_ATTEMPTS,
            )
            if due_at is None:
                return 0
            await tx.run(
                "UPDATE job_occurrences SET state = 'running', attempts = attempts + 1, started_at = :now, host = :host"
                " WHERE job = :job AND due_at = :due",
                now=now,
                host=socket.gethostname(),
                job=job.name,
                due=due_at,
            )
        outcome, detail = await self._perform(job)
        async with self._database.begin() as tx:
            await tx.run(
                "UPDATE job_occurrences SET state = :state, finished_at = :now, detail = cast(:detail AS jsonb)"
                " WHERE job = :job AND due_at = :due",
                state=outcome,
                now=self._clock.now(),
                detail=json.dumps(detail, default=str),
                job=job.name,
                due=due_at,
            )
            await tx.run(
                "UPDATE job_occurrences SET state = :state, finished_at = :now, detail = cast(:detail AS jsonb)"
                " WHERE job = :job AND state = 'due' AND due_at < :due",
                state=outcome,
                now=self._clock.now(),
                detail=json.dumps({"covered_by": due_at}, default=str),
                job=job.name,
                due=due_at,
            )
        self._observe(job.name, outcome)
        return 1

    async def _perform(self, job: Job) -> tuple[str, Mapping[str, Any]]:
        try:
            async with asyncio.timeout(job.lease.total_seconds()):
                return "succeeded", dict(await job.handler() or {})
        except Unavailable:
            raise
        except Exception as error:
            log.exception("job failed", job=job.name)
            return "failed", {"error": redact_text(f"{type(error).__name__}: {error}")[:500]}
