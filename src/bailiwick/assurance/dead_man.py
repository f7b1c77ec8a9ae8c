"""The dead-man switch: a job that should have run and did not is a failed job, whoever was to schedule it.

The check is made by processes that schedule nothing (the serve workers), so that a dead scheduler is noticed. What
nobody even wrote down tells that the scheduler is away, and raises one alert for all such jobs; what was written and
not run, did not end, or failed raises one of its own. Each is cleared when the job runs again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import structlog

from bailiwick.assurance.ports import Alerts, Raised, Run
from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import Unavailable
from bailiwick.kernel.jobs import KnownJob, known_jobs
from bailiwick.kernel.severity import Severity
from bailiwick.kernel.verdicts import Verdict

log = structlog.get_logger(__name__)

INSTALLATION_ZONE = "default"
SCHEDULER = "scheduler"
OWNER = "uptime"
RUNBOOK = "docs/how-to/probes.md#a-job-is-silent"
SLACK = timedelta(seconds=15)
_LEASES = timedelta(seconds=60)
_LOOK_S = 15.0
_LOCK = 0x6D657274  # "mert"
_LISTED = 5


@dataclass(frozen=True, slots=True)
class Occurred:
    """One line of a job's history, as far as it matters here."""

    due_at: datetime
    state: str
    started_at: datetime | None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Silence:
    """A job that should have run at ``since``. ``unwritten``: nobody even wrote that occurrence down."""

    since: datetime
    why: str
    unwritten: bool = False


# ---------------------------------------------------------------------- rules


def silence(known: KnownJob, occurred: Sequence[Occurred], now: datetime) -> Silence | None:
    """Whether a job is silent at ``now``. ``occurred``: its newest scheduled occurrences, newest first.

    The newest instant whose grace is over decides; an occurrence that is still within its time to run leaves the one
    before to decide.
    """
    job = known.definition
    due = job.due_between(known.expected_from, now - job.grace - SLACK, 3)
    by_instant = {each.due_at: each for each in occurred}
    if due and any(each.due_at >= due[-1] and each.state == "succeeded" for each in occurred):
        return None
    for moment in reversed(due):
        found = by_instant.get(moment)
        if found is None:
            return Silence(moment, "no occurrence was written: the scheduler does not run", unwritten=True)
        if found.state == "running" and found.started_at is not None:
            if now <= found.started_at + timedelta(seconds=job.timeout_s) + _LEASES:
                continue
            return Silence(moment, "it does not end")
        told = {
            "succeeded": None,
            "due": "nobody took it",
            "missed": "it could not start in time",
            "failed": f"it failed: {found.error}"[:300],
            "running": "it does not end",
        }[found.state]
        return Silence(moment, told) if told is not None else None
    return None


def tally(known: KnownJob | None, occurred: Sequence[Row], since: datetime, until: datetime) -> Run:
    """How often a job was due in (``since``, ``until``], started in time, and ended green, as it stood at ``until``:
    what ended later had not ended, so that the answer is the same whenever it is asked for.

    An instant that nobody wrote down was due all the same. One that had not ended and might still have begun in time,
    ``until`` being within its grace, counts neither way: it is not late yet. A row is green where it succeeded, and
    found PASS if it found a verdict at all.
    """
    grace, expected = timedelta(hours=1), set[datetime]()
    if known is not None:
        grace = known.definition.grace
        expected = set(known.definition.due_between(max(since, known.expected_from), until, _MOST_INSTANTS))
    due = expected | {row["due_at"] for row in occurred if row["scheduled"]}
    on_time = green = 0
    ended: set[datetime] = set()
    last: datetime | None = None
    for row in occurred:
        if row["finished_at"] is None or row["finished_at"] > until:
            continue
        ended.add(row["due_at"])
        if row["state"] not in {"succeeded", "failed"}:
            continue
        last = max(last or row["finished_at"], row["finished_at"])
        if row["scheduled"]:
            on_time += row["started_at"] is not None and row["started_at"] - row["due_at"] <= grace
            green += row["state"] == "succeeded" and row["verdict"] in (None, Verdict.PASS)
    # exactly at its end the grace is not over (kernel/jobs.py)
    undecided = {each for each in due - ended if known is not None and each + grace >= until}
    return Run(len(due - undecided), on_time, green, last)


_MOST_INSTANTS = 100_000


# ---------------------------------------------------------------------- services


class DeadMan:
    """Looks after all jobs of the installation."""

    def __init__(self, database: Database, clock: Clock, recorder: Recorder, alerts: Alerts) -> None:
        self._database = database
        self._clock = clock
        self._recorder = recorder
        self._alerts = alerts
        self._began = clock.now()

    async def watch(self) -> None:
        """Look again and again until cancelled."""
        while True:
            await asyncio.sleep(_LOOK_S)
            try:
                await self.look()
            except Unavailable:
                log.warning("nobody can tell whether jobs run: the database does not answer")
            except Exception:
                log.exception("jobs could not be looked after")

    async def look(self) -> dict[str, Silence] | None:
        """Find who is silent, tell of each that became so or was heard again; None where another process looks."""
        async with self._database.begin() as tx:
            if not await tx.value("SELECT pg_try_advisory_xact_lock(:lock)", lock=_LOCK):
                return None
            now = self._clock.now()
            known, newest = await known_jobs(tx), await _newest(tx)
            found = {
                each.definition.name: quiet
                for each in known
                if (quiet := silence(each, newest.get(each.definition.name, ()), now)) is not None
            }
            if not known and now - self._began > timedelta(minutes=2):
                found[SCHEDULER] = Silence(self._began, "no process ever said what should run", unwritten=True)
            noted = {row["job"] for row in await tx.all("SELECT job FROM silent_jobs")}
            for job, quiet in found.items():
                await self._note(tx, job, quiet, now, new=job not in noted)
            for job in noted - found.keys():
                await self._heard(tx, job)
            await self._tell_of_scheduler(tx, {job: quiet for job, quiet in found.items() if quiet.unwritten})
        return found

    async def _note(self, tx: Transaction, job: str, quiet: Silence, now: datetime, *, new: bool) -> None:
        context = Context(zone_of(job))
        await tx.run(
            "INSERT INTO silent_jobs (job, since, noticed_at, why) VALUES (:job, :since, :now, :why)"
            " ON CONFLICT (job) DO UPDATE SET why = excluded.why",
            job=job,
            since=quiet.since,
            now=now,
            why=quiet.why,
        )
        if new:
            await self._recorder.record(
                tx,
                codes.JOB_SILENT,
                "failure",
                context,
                subject=Subject(id=job, type="job"),
                since=quiet.since.isoformat(),
                why=quiet.why,
            )
        if not quiet.unwritten:
            summary = f"The job {job} was due at {quiet.since:%Y-%m-%d %H:%M:%S} UTC: {quiet.why}"
            await self._alerts.fire(tx, context, _raised(f"job/{job}", Severity.P2, summary, job))

    async def _heard(self, tx: Transaction, job: str) -> None:
        context = Context(zone_of(job))
        await tx.run("DELETE FROM silent_jobs WHERE job = :job", job=job)
        await self._recorder.record(tx, codes.JOB_HEARD, "success", context, subject=Subject(id=job, type="job"))
        await self._alerts.clear(tx, context, f"job/{job}")

    async def _tell_of_scheduler(self, tx: Transaction, unwritten: dict[str, Silence]) -> None:
        context = Context(INSTALLATION_ZONE)
        if not unwritten:
            await self._alerts.clear(tx, context, SCHEDULER)
            return
        oldest = min(quiet.since for quiet in unwritten.values())
        names = ", ".join(sorted(unwritten)[:_LISTED]) + (" and others" if len(unwritten) > _LISTED else "")
        summary = f"{len(unwritten)} jobs were not even written down since {oldest:%Y-%m-%d %H:%M:%S} UTC: {names}"
        await self._alerts.fire(tx, context, _raised(SCHEDULER, Severity.P1, summary, SCHEDULER))


class JobRuns:
    """How often jobs ran: the port ``Runs``."""

    async def of(self, tx: Transaction, zone: str, check: str, since: datetime, until: datetime) -> Run:
        """The runs of one job by its name; a job of another zone has none here."""
        if "@" in check and zone_of(check) != zone:
            return Run(0, 0, 0, None)
        known = await known_jobs(tx, check)
        rows = await tx.all(
            "SELECT due_at, state, scheduled, started_at, finished_at, detail ->> 'verdict' AS verdict"
            " FROM job_occurrences WHERE job = :job AND due_at > :since AND due_at <= :until",
            job=check,
            since=since,
            until=until,
        )
        return tally(known[0] if known else None, rows, since, until)


def zone_of(job: str) -> str:
    """The zone a job is of; the installation's own are the default one's."""
    return job.rpartition("@")[2] if "@" in job else INSTALLATION_ZONE


def _raised(key: str, severity: Severity, summary: str, job: str) -> Raised:
    return Raised(key, "JobSilent", severity, summary[:500], OWNER, RUNBOOK, labels={"job": job})


async def _newest(tx: Transaction) -> Mapping[str, Sequence[Occurred]]:
    """The newest scheduled occurrences of every job that is known, newest first."""
    found: dict[str, list[Occurred]] = {}
    for row in await tx.all(_NEWEST):
        found.setdefault(row["job"], []).append(Occurred(row["due_at"], row["state"], row["started_at"], row["error"]))
    return found


_NEWEST = """
SELECT d.job, o.due_at, o.state, o.started_at, o.error FROM job_definitions d CROSS JOIN LATERAL (
  SELECT due_at, state, started_at, coalesce(detail ->> 'error', '') AS error FROM job_occurrences
  WHERE job = d.job AND scheduled ORDER BY due_at DESC LIMIT 10) AS o
ORDER BY d.job, o.due_at DESC
"""
