"""Scheduled jobs: a table of occurrences by the injected clock, and a runner that takes them from there.

The leader of the moment (a transaction's advisory lock, so any number of work processes may run and a transaction
pooler does no harm) writes a row for every occurrence that came due, those of a down-time included; one that is
further back than its job's grace is written as ``missed`` and not run. Any process takes due rows with
``FOR UPDATE SKIP LOCKED``, one of a job at a time, holds each by a lease it renews, and stores what the handler
answered. When a process is killed its lease runs out and another runs the occurrence again, so handlers must bear being
run twice; after three such deaths the occurrence has failed. Every occurrence leaves a row, also when it found nothing.

What should run is written down too (:func:`known_jobs`), so that another process can tell when it does not.

Due times are the injected clock's; leases are the database's, since they are about processes and not about calendars.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import secrets
import socket
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog
from croniter import croniter  # type: ignore[import-untyped]
from sqlalchemy.exc import IntegrityError

from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import NotFound, Unavailable
from bailiwick.kernel.metrics import Metrics
from bailiwick.kernel.redaction import redact, redact_text

log = structlog.get_logger(__name__)

Handler = Callable[[datetime], Awaitable[Mapping[str, Any] | None]]

MAX_ATTEMPTS = 3
CATCH_UP = 100
KEPT = timedelta(days=90)
_LOCK = 0x6A6F6273  # "jobs"
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
_MAX_DETAIL = 16_384
_NUL = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")  # escaped, and not a backslash followed by the letters
_LOOK_EVERY = timedelta(seconds=5)  # between looks at how old each job is, while nothing comes due
_PRUNE_EVERY = timedelta(hours=1)
_SECOND = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class JobDefinition:
    """A job: what it is called, when it is due, what it does.

    ``schedule`` is an interval, counted from midnight UTC of 2000-01-01 so that every process means the same instants,
    or a cron text of five fields in UTC. ``handler`` gets the instant the occurrence was due and may answer a mapping
    of JSON values, which is stored. An occurrence that could not start within ``grace`` is missed. ``timeout_s`` bounds
    one run. Nothing is due before ``since``. Raises :class:`ValueError` for a schedule it cannot read.
    """

    name: str
    schedule: timedelta | str
    handler: Handler = field(compare=False)
    grace: timedelta = timedelta(hours=1)
    timeout_s: float = 600.0
    since: datetime | None = None

    def __post_init__(self) -> None:
        if isinstance(self.schedule, str):
            if len(self.schedule.split()) != 5 or not croniter.is_valid(self.schedule):
                raise ValueError(f"{self.schedule!r} is no cron text of five fields")
        elif self.schedule < timedelta(seconds=1):
            raise ValueError("a job is due every second at most")

    def no_more_often_than(self, least: timedelta) -> JobDefinition:
        """The same at intervals of ``least`` if it is due more often, and with a grace of no less."""
        if isinstance(self.schedule, str):
            newest = self.due_between(_EPOCH, _EPOCH + timedelta(days=1000), limit=2)
            apart = newest[-1] - newest[0] if len(newest) == 2 else least
        else:
            apart = self.schedule
        return replace(self, schedule=self.schedule if apart >= least else least, grace=max(self.grace, least))

    def due_between(self, after: datetime, until: datetime, limit: int = CATCH_UP) -> list[datetime]:
        """The instants later than ``after`` and not later than ``until``, oldest first; the newest ``limit``."""
        found: list[datetime] = []
        previous = self._backwards(until)
        while len(found) < limit and (moment := previous()) > after:
            found.append(moment)
        return found[::-1]

    def next_after(self, moment: datetime) -> datetime:
        """The first instant of the schedule later than ``moment``."""
        if isinstance(self.schedule, str):
            return datetime.fromtimestamp(croniter(self.schedule, moment).get_next(float), UTC)
        return _EPOCH + ((moment - _EPOCH) // self.schedule + 1) * self.schedule

    def _backwards(self, until: datetime) -> Callable[[], datetime]:
        if isinstance(self.schedule, str):
            # croniter answers what is strictly before its start, and cron instants are whole minutes
            cron = croniter(self.schedule, until.replace(second=0, microsecond=0) + timedelta(minutes=1))
            return lambda: datetime.fromtimestamp(cron.get_prev(float), UTC)
        interval = self.schedule
        count = (until - _EPOCH) // interval + 1

        def previous() -> datetime:
            nonlocal count
            count -= 1
            return _EPOCH + count * interval

        return previous


@dataclass(frozen=True, slots=True)
class Occurrence:
    """One line of a job's history. ``detail`` is what the handler answered, or ``{"error": …}``."""

    job: str
    due_at: datetime
    state: str
    attempts: int
    started_at: datetime | None
    finished_at: datetime | None
    detail: dict[str, Any]


class Jobs:
    """Schedules and runs ``definitions`` in one process. ``lease_s`` is how long a killed process blocks its job.

    An interval below ``least`` is lengthened to it: where a minute passes in a few real milliseconds, what is due every
    minute could not be done.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        metrics: Metrics,
        definitions: Iterable[JobDefinition],
        *,
        lease_s: float = 30.0,
        concurrency: int = 4,
        poll_s: float = 1.0,
        least: timedelta = _SECOND,
    ) -> None:
        self._database = database
        self._clock = clock
        self._metrics = metrics
        self._least = least
        self._jobs: dict[str, JobDefinition] = {}
        self._groups: dict[str, frozenset[str]] = {}
        self._unwritten: set[str] = set()
        self._look_at: datetime | None = None  # when something may come due next; None: not known
        self._looked_at = _EPOCH
        self._lease_s = lease_s
        self._unsure: set[str] = set()  # holders of claims whose commit was not heard of
        self._concurrency = concurrency
        self._poll_s = poll_s
        self._since = clock.now()
        self._pruned_at = clock.now()
        self._running: set[asyncio.Task[None]] = set()
        self._wake = asyncio.Event()
        self._holder = f"{socket.gethostname()}:{os.getpid()}"
        self.replace("", definitions)

    # --- what others ask

    def replace(self, group: str, definitions: Iterable[JobDefinition]) -> None:
        """Have ``definitions`` in place of those of ``group``; a run that goes on ends as it began.

        Raises ValueError, and changes nothing, where two jobs had one name.
        """
        wanted: dict[str, JobDefinition] = {}
        standing = {name: each for name, each in self._jobs.items() if name not in self._groups.get(group, ())}
        for definition in definitions:
            if self._least > _SECOND:
                definition = definition.no_more_often_than(self._least)
            if definition.name in standing or wanted.setdefault(definition.name, definition) is not definition:
                raise ValueError(f"two jobs are called {definition.name!r}")
        self._jobs = {**standing, **wanted}
        self._look_at = None
        self._groups[group] = frozenset(wanted)
        self._unwritten.add(group)
        for name in wanted:
            for outcome in ("succeeded", "failed", "missed"):
                self._metrics.job_runs.labels(name, outcome)
        self._wake.set()

    async def trigger(self, job: str) -> datetime:
        """Make ``job`` due now, beside its schedule; answers the occurrence's instant. Raises ``not_found``."""
        if job not in self._jobs:
            raise NotFound("There is no job by that name.")
        now = self._clock.now()
        async with self._database.begin() as tx:
            await make_due(tx, job, now)
        self._wake.set()
        return now

    async def recent(self, job: str | None = None, limit: int = 50) -> list[Occurrence]:
        """The newest occurrences, of one job or of all."""
        async with self._database.begin() as tx:
            rows = await tx.all(
                "SELECT job, due_at, state, attempts, started_at, finished_at, detail FROM job_occurrences"
                " WHERE cast(:job AS text) IS NULL OR job = :job ORDER BY due_at DESC, job LIMIT :limit",
                job=job,
                limit=limit,
            )
        return [Occurrence(**row) for row in rows]

    # --- the loop

    async def run(self) -> None:
        """Schedule and run until cancelled; then give back what had not finished, so that another may take it."""
        away = False
        try:
            while True:
                try:
                    await self.tick()
                    while len(self._running) < self._concurrency and (claimed := await self._claim()) is not None:
                        self._start(claimed)
                    away = False
                except Unavailable:
                    if not away:
                        log.warning("jobs wait for the database")
                    away = True
                except Exception:
                    log.exception("jobs could not be scheduled")
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), self._poll_s)
                self._wake.clear()
        finally:
            for task in self._running:
                task.cancel()
            await asyncio.gather(*self._running, return_exceptions=True)

    async def run_due(self) -> int:
        """Schedule, then run everything due, one after the other; how many were run."""
        await self.tick()
        count = 0
        while (claimed := await self._claim()) is not None:
            await self._execute(claimed)
            count += 1
        return count

    def _start(self, claimed: _Claimed) -> None:
        task = asyncio.create_task(self._execute(claimed), name=f"job {claimed.definition.name}")
        self._running.add(task)

        def done(finished: asyncio.Task[None]) -> None:
            self._running.discard(finished)
            self._wake.set()
            if not finished.cancelled() and (error := finished.exception()) is not None:
                # its lease runs out and somebody runs it again
                log.error("job outcome could not be stored", job=claimed.definition.name, exc_info=error)

        task.add_done_callback(done)

    # --- scheduling

    async def tick(self) -> bool:
        """Write what came due and close what nobody can finish any more. False when another process is the leader."""
        async with self._database.begin() as tx:
            if not await tx.value("SELECT pg_try_advisory_xact_lock(:lock)", lock=_LOCK):
                return False
            now, jobs, unwritten = self._clock.now(), self._jobs, set(self._unwritten)
            look_at = looked_at = None
            for group in unwritten:
                names = [name for name in self._groups[group] if name in jobs]
                await _write_known(tx, group, [jobs[name] for name in names], now)
            if self._look_at is None or not self._looked_at <= now < min(self._look_at, self._looked_at + _LOOK_EVERY):
                came_due: list[_Due] = []
                for row in await tx.all(_STANDING, names=list(jobs)):
                    definition = jobs[row["name"]]
                    came_due += _came_due(definition, row["last_due"] or definition.since or self._since, now)
                    self._note_age(row, now)
                await self._write_due(tx, came_due, now)
                look_at, looked_at = min((each.next_after(now) for each in jobs.values()), default=now), now
            await self._close(tx, now)
            if now - self._pruned_at > _PRUNE_EVERY:
                await tx.run(_PRUNE, before=now - KEPT, long_before=now - 4 * KEPT)
                self._pruned_at = now
        self._unwritten -= unwritten
        if looked_at is not None and jobs is self._jobs:  # else they were replaced meanwhile
            self._look_at, self._looked_at = look_at, looked_at
        return True

    async def _write_due(self, tx: Transaction, came_due: Sequence[_Due], now: datetime) -> None:
        if not came_due:
            return
        for row in await tx.all(
            _DUE,
            jobs=[each.job for each in came_due],
            dues=[each.due_at for each in came_due],
            missed=[each.missed for each in came_due],
            details=[each.detail for each in came_due],
            now=now,
        ):
            if row["state"] == "missed":
                self._count(row["job"], "missed")

    async def _close(self, tx: Transaction, now: datetime) -> None:
        jobs = list(self._jobs.values())
        befores = [now - each.grace for each in jobs]
        for row in await tx.all(_MISS, names=[each.name for each in jobs], befores=befores, now=now):
            self._count(row["job"], "missed")
        for row in await tx.all(_GIVE_UP, now=now, most=MAX_ATTEMPTS, names=list(self._jobs)):
            log.error("job failed", job=row["job"], cause="every process that ran it ended")
            self._count(row["job"], "failed")

    def _note_age(self, row: Row, now: datetime) -> None:
        # a job that never succeeded is as old as its first occurrence
        since = row["last_success"] or row["first_due"] or now
        self._metrics.job_age.labels(row["name"]).set(max(0.0, (now - since).total_seconds()))

    def _count(self, job: str, outcome: str) -> None:
        self._metrics.job_runs.labels(job, outcome).inc()

    # --- running

    async def _claim(self) -> _Claimed | None:
        holder, jobs = f"{self._holder}:{secrets.token_hex(4)}", self._jobs
        try:
            async with self._database.begin() as tx:
                if self._unsure:
                    await tx.run(_GIVE_BACK, holders=list(self._unsure))
                row = await tx.one(_CLAIM, names=list(jobs), holder=holder, lease=self._lease_s, now=self._clock.now())
        except IntegrityError:
            return None  # another process took one of the same job in this instant
        except Unavailable:
            self._unsure.add(holder)  # the database may have taken it in, and we did not hear so
            raise
        self._unsure.clear()
        if row is None:
            return None
        return _Claimed(jobs[row["job"]], row["due_at"], row["attempts"], holder)

    async def _execute(self, claimed: _Claimed) -> None:
        definition = claimed.definition
        deadline = asyncio.timeout(definition.timeout_s)
        work = asyncio.create_task(_within(deadline, definition.handler, claimed.due_at))
        renewal = asyncio.create_task(self._renew(claimed, work))
        try:
            state, detail = "succeeded", dict(await work or {})
        except asyncio.CancelledError:
            await asyncio.gather(work, return_exceptions=True)
            if claimed.lost:
                return
            with contextlib.suppress(Unavailable):
                await self._give_back(claimed)
            raise
        except Exception as error:
            log.exception("job failed", job=definition.name, due_at=claimed.due_at.isoformat(), attempt=claimed.attempt)
            cause = f"no end within {definition.timeout_s:g} s" if deadline.expired() else str(error)
            state, detail = "failed", {"error": redact_text(f"{type(error).__name__}: {cause}")}
        finally:
            renewal.cancel()
            await asyncio.gather(renewal, return_exceptions=True)
        if await self._store(claimed, state, _json(detail)):
            self._count(definition.name, state)

    async def _store(self, claimed: _Claimed, state: str, detail: str) -> int:
        """Write how it ended. While the database is away, again and again: left to its lease the job would stand still
        for as long, and what was done would be done again."""
        loop, now = asyncio.get_running_loop(), self._clock.now()
        until = loop.time() + self._lease_s
        while True:
            try:
                async with self._database.begin() as tx:
                    return await tx.run(
                        "UPDATE job_occurrences SET state = :state, finished_at = :now, lease_until = NULL,"
                        " detail = cast(:detail AS jsonb)"
                        " WHERE job = :job AND due_at = :due_at AND holder = :holder AND state = 'running'",
                        state=state,
                        now=now,
                        detail=detail,
                        **claimed.key,
                    )
            except Unavailable:
                if loop.time() >= until:
                    raise
                await asyncio.sleep(self._poll_s)

    async def _renew(self, claimed: _Claimed, work: asyncio.Task[Any]) -> None:
        """Renew the lease while the handler runs; when it was lost to another process, stop the handler."""
        while True:
            await asyncio.sleep(self._lease_s / 3)
            try:
                async with self._database.begin() as tx:
                    kept = await tx.run(
                        "UPDATE job_occurrences SET lease_until = clock_timestamp() + make_interval(secs => :lease)"
                        " WHERE job = :job AND due_at = :due_at AND holder = :holder AND state = 'running'",
                        lease=self._lease_s,
                        **claimed.key,
                    )
            except Unavailable:
                continue
            if not kept:
                claimed.lost = True
                log.warning("job lease lost", job=claimed.definition.name)
                work.cancel()
                return

    async def _give_back(self, claimed: _Claimed) -> None:
        async with self._database.begin() as tx:
            await tx.run(
                "UPDATE job_occurrences SET state = 'due', attempts = attempts - 1, lease_until = NULL, holder = NULL"
                " WHERE job = :job AND due_at = :due_at AND holder = :holder AND state = 'running'",
                **claimed.key,
            )


async def make_due(tx: Transaction, job: str, now: datetime) -> None:
    """Make ``job`` due with the caller's commit; whichever process has it among its definitions runs it."""
    await tx.run(
        "INSERT INTO job_occurrences (job, due_at, scheduled) VALUES (:job, :now, false) ON CONFLICT DO NOTHING",
        job=job,
        now=now,
    )


@dataclass(frozen=True, slots=True)
class KnownJob:
    """A job that should run, as any process sees it. ``expected_from``: no instant before is expected of it."""

    definition: JobDefinition
    expected_from: datetime

    def first_run_late(self, now: datetime) -> bool:
        """Whether a job that never ran should have by ``now``: its first instant and the grace after it are over."""
        return now > self.definition.next_after(self.expected_from) + self.definition.grace


async def awaits_first_run(tx: Transaction, job: str, now: datetime) -> bool:
    """Whether ``job`` never ended a run, however it ended, and is not late for its first one."""
    known = await known_jobs(tx, job)
    if not known or known[0].first_run_late(now):
        return False
    return not await tx.value(
        "SELECT EXISTS (SELECT FROM job_occurrences WHERE job = :job AND state IN ('succeeded', 'failed', 'missed'))",
        job=job,
    )


async def known_jobs(tx: Transaction, job: str | None = None) -> list[KnownJob]:
    """What should run, by the last word of whichever process schedules. The handlers are not in it."""
    rows = await tx.all(
        "SELECT * FROM job_definitions WHERE cast(:job AS text) IS NULL OR job = :job ORDER BY job", job=job
    )
    return [
        KnownJob(
            JobDefinition(
                row["job"],
                _read_schedule(row["schedule"]),
                _elsewhere,
                grace=timedelta(seconds=row["grace_s"]),
                timeout_s=row["timeout_s"],
                since=row["since"],
            ),
            row["since"] or row["known_at"],
        )
        for row in rows
    ]


async def _elsewhere(due: datetime) -> None:
    raise RuntimeError("only the process that schedules a job can run it")


async def _write_known(tx: Transaction, group: str, definitions: Sequence[JobDefinition], now: datetime) -> None:
    names = [each.name for each in definitions]
    await tx.run(
        _KNOW,
        grp=group,
        jobs=names,
        schedules=[
            each.schedule if isinstance(each.schedule, str) else f"{each.schedule.total_seconds():.0f}s"
            for each in definitions
        ],
        graces=[each.grace.total_seconds() for each in definitions],
        timeouts=[each.timeout_s for each in definitions],
        sinces=[each.since for each in definitions],
        now=now,
    )
    await tx.run("DELETE FROM job_definitions WHERE grp = :grp AND job <> ALL (:names)", grp=group, names=names)


def _read_schedule(text: str) -> timedelta | str:
    return timedelta(seconds=int(text[:-1])) if text.endswith("s") and text[:-1].isdigit() else text


@dataclass(frozen=True, slots=True)
class _Due:
    """A row to be written. ``detail`` is JSON."""

    job: str
    due_at: datetime
    missed: bool
    detail: str


def _came_due(definition: JobDefinition, after: datetime, now: datetime) -> list[_Due]:
    """What came due later than ``after``; the first of too many says that there were more."""
    due = definition.due_between(after, now, CATCH_UP + 1)
    skipped = json.dumps({"earlier_occurrences_not_listed": True} if len(due) > CATCH_UP else {})
    return [
        _Due(definition.name, moment, now - moment > definition.grace, "{}" if number else skipped)
        for number, moment in enumerate(due[-CATCH_UP:])
    ]


@dataclass(slots=True)
class _Claimed:
    definition: JobDefinition
    due_at: datetime
    attempt: int
    holder: str
    lost: bool = False

    @property
    def key(self) -> dict[str, Any]:
        return {"job": self.definition.name, "due_at": self.due_at, "holder": self.holder}


_STANDING = """
SELECT names.name,
       (SELECT max(due_at) FROM job_occurrences o WHERE o.job = names.name AND scheduled) AS last_due,
       (SELECT min(due_at) FROM job_occurrences o WHERE o.job = names.name) AS first_due,
       (SELECT max(finished_at) FROM job_occurrences o WHERE o.job = names.name AND state = 'succeeded') AS last_success
FROM unnest(cast(:names AS text[])) AS names (name)
"""

_DUE = """
INSERT INTO job_occurrences (job, due_at, state, finished_at, detail)
SELECT job, due_at, CASE WHEN missed THEN 'missed' ELSE 'due' END,
       CASE WHEN missed THEN cast(:now AS timestamptz) END, cast(detail AS jsonb)
FROM unnest(cast(:jobs AS text[]), cast(:dues AS timestamptz[]), cast(:missed AS boolean[]), cast(:details AS text[]))
  AS came (job, due_at, missed, detail)
ON CONFLICT DO NOTHING
RETURNING job, state
"""

_KNOW = """
INSERT INTO job_definitions (job, grp, schedule, grace_s, timeout_s, since, known_at)
SELECT job, :grp, schedule, grace_s, timeout_s, since, :now
FROM unnest(cast(:jobs AS text[]), cast(:schedules AS text[]), cast(:graces AS double precision[]),
            cast(:timeouts AS double precision[]), cast(:sinces AS timestamptz[]))
  AS known (job, schedule, grace_s, timeout_s, since)
ON CONFLICT (job) DO UPDATE SET
  grp = excluded.grp, schedule = excluded.schedule, grace_s = excluded.grace_s, timeout_s = excluded.timeout_s,
  since = excluded.since,
  known_at = CASE WHEN job_definitions.schedule = excluded.schedule THEN job_definitions.known_at ELSE :now END
"""

_MISS = """
UPDATE job_occurrences o SET state = 'missed', finished_at = :now
FROM unnest(cast(:names AS text[]), cast(:befores AS timestamptz[])) AS late (job, before)
WHERE o.job = late.job AND o.state = 'due' AND o.attempts = 0 AND o.due_at < late.before
RETURNING o.job
"""

_GIVE_UP = """
UPDATE job_occurrences
SET state = 'failed', finished_at = :now, lease_until = NULL, detail = '{"error": "every process that ran it ended"}'
WHERE job = ANY (:names) AND state = 'running' AND attempts >= :most AND lease_until < clock_timestamp()
RETURNING job
"""

# what a newer success has made history goes first; a job that only fails keeps its rows four times as long
_PRUNE = """
DELETE FROM job_occurrences old
WHERE old.due_at < :before AND old.state <> 'running'
  AND (old.due_at < :long_before OR EXISTS (
        SELECT FROM job_occurrences new
        WHERE new.job = old.job AND new.state = 'succeeded' AND new.due_at > old.due_at))
  AND EXISTS (SELECT FROM job_occurrences new WHERE new.job = old.job AND new.due_at > old.due_at)
"""

_CLAIM = """
UPDATE job_occurrences
SET state = 'running', attempts = attempts + 1, holder = :holder, started_at = :now,
    lease_until = clock_timestamp() + make_interval(secs => :lease)
WHERE (job, due_at) = (
  SELECT candidate.job, candidate.due_at FROM job_occurrences candidate
  WHERE candidate.job = ANY (:names)
    AND (candidate.state = 'running' AND candidate.lease_until < clock_timestamp()
         OR candidate.state = 'due' AND NOT EXISTS (
              SELECT FROM job_occurrences other WHERE other.job = candidate.job AND other.state = 'running'))
  ORDER BY candidate.due_at LIMIT 1 FOR UPDATE SKIP LOCKED)
RETURNING job, due_at, attempts
"""


# what this process may have taken without hearing so; it runs none of it
_GIVE_BACK = """
UPDATE job_occurrences SET state = 'due', attempts = attempts - 1, lease_until = NULL, holder = NULL
WHERE holder = ANY (:holders) AND state = 'running'
"""


async def _within(deadline: asyncio.Timeout, handler: Handler, due_at: datetime) -> Mapping[str, Any] | None:
    async with deadline:
        return await handler(due_at)


def _json(detail: Mapping[str, Any]) -> str:
    """``detail`` as PostgreSQL takes it: redacted, bounded, without NUL and lone surrogates."""
    text = json.dumps(redact(detail), ensure_ascii=False, default=str).encode("utf-8", "replace").decode()
    text = _NUL.sub(r"\1" + "\N{REPLACEMENT CHARACTER}", text)
    return text if len(text) <= _MAX_DETAIL else json.dumps({"truncated": text[: _MAX_DETAIL // 2]})
