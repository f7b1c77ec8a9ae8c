"""The one probe runner: look, judge, write the run and its evidence down, and raise or clear its alert."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog

from bailiwick import __version__
from bailiwick.assurance.book import Book
from bailiwick.assurance.books import Books
from bailiwick.assurance.durations import span
from bailiwick.assurance.ports import Alerts, Raised
from bailiwick.assurance.probes import runs
from bailiwick.assurance.probes.looks import look
from bailiwick.assurance.probes.means import Asked, Means
from bailiwick.assurance.probes.reading import Limit, LookFailed, Reading, failed, read, standing
from bailiwick.assurance.probes.runs import ProbeRun
from bailiwick.assurance.probes.spec import PROBE, Probe, check_name, job_name, limit_of
from bailiwick.assurance.thresholds import THRESHOLD, Threshold
from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.evidence.evidence_records import EvidenceRecords, Producer, Value
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import BailiwickError, NotFound
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.jobs import JobDefinition, make_due
from bailiwick.kernel.verdicts import Verdict

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Standing:
    """How a probe stands: the newest run's verdict while it counts, the runs that led there (newest first)."""

    name: str
    probe: Probe
    verdict: Verdict
    runs: Sequence[ProbeRun]
    overdue_since: datetime | None

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "name": self.name,
            "summary": self.probe.summary,
            "type": self.probe.check.type,
            "verdict": str(self.verdict),
            "owner": self.probe.owner,
            "severity": str(self.probe.severity),
            "runbook": self.probe.runbook,
            "every": self.probe.every or self.probe.cron or "",
            "threshold": self.probe.threshold or "",
            "overdue_since": self.overdue_since,
            "last": self.runs[0].document() if self.runs else None,
        }


class Probes:
    """Runs probes and knows how they stand."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        ids: Ids,
        recorder: Recorder,
        books: Books,
        records: EvidenceRecords,
        alerts: Alerts,
        means: Means,
    ) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._recorder = recorder
        self._books = books
        self._records = records
        self._alerts = alerts
        self._means = means

    # --- running

    async def run(
        self, context: Context, name: str, probe: Probe, limit: Limit | None, *, due: datetime, asked_by: str = ""
    ) -> ProbeRun:
        """Run one occurrence: it leaves one row, whatever happens, also when it is run a second time."""
        zone = context.zone
        started = self._clock.now()
        reading = await self.measure(zone, probe, limit)
        finished = max(started, self._clock.now())
        async with self._database.begin() as tx:
            await tx.run(
                "SELECT pg_advisory_xact_lock(hashtext('bailiwick.probe'), hashtext(:key))", key=f"{zone}/{name}"
            )
            if (already := await runs.of_due(tx, zone, name, due)) is not None:
                return already
            before = await runs.newest(tx, zone, name, limit=1)
            was = before[0].verdict if before else None
            expires = finished + span(probe.evidence_life)
            record = await self._records.probe(
                tx,
                context,
                check_name(name),
                reading.output,
                exit_code=reading.verdict.exit_code,
                since=started,
                until=finished,
                producer=Producer(
                    host=socket.gethostname(),
                    name=asked_by or "schedule",
                    program="bailiwick probe",
                    version=__version__,
                ),
                command=reading.command,
                inputs=_inputs(reading, due),
                expires_at=expires,
                output_size=reading.output_size,
            )
            identifier = self._ids()
            await runs.add(
                tx, zone, name, reading, id=identifier, due=due, asked_by=asked_by, started=started,
                finished=finished, expires=expires, record=record.id,
            )  # fmt: skip
            if was is not reading.verdict:
                await self._recorder.record(
                    tx,
                    codes.PROBE_TURNED,
                    "success" if reading.verdict.green else "failure",
                    context,
                    subject=Subject(id=name, type="probe"),
                    before=str(was or ""),
                    verdict=str(reading.verdict),
                    detail=reading.detail[:200],
                    record=record.id,
                )
            await self._tell(tx, context, name, probe, reading)
            (made,) = await runs.newest(tx, zone, name, limit=1)
        return made

    async def measure(self, zone: str, probe: Probe, limit: Limit | None) -> Reading:
        """Look and judge, and keep nothing. Whatever goes wrong is a reading."""
        window = span(probe.window) if probe.window else None
        asked = Asked(zone, self._clock.now(), window, span(probe.timeout).total_seconds())
        try:
            return read(await look(probe.check, self._means, asked), limit, window)
        except LookFailed as error:
            return failed(str(error), limit, window)
        except BailiwickError as error:
            return failed(error.detail, limit, window)
        except Exception as error:  # a fault of ours must be a red probe, not a silent one
            log.exception("probe could not be run", type=probe.check.type)
            return failed(f"a fault of the probe itself: {type(error).__name__}", limit, window)

    async def _tell(self, tx: Transaction, context: Context, name: str, probe: Probe, reading: Reading) -> None:
        key = f"probe/{name}"
        if reading.verdict.green:
            await self._alerts.clear(tx, context, key)
            return
        if reading.early:
            return
        await self._alerts.fire(
            tx,
            context,
            Raised(
                key=key,
                rule=f"Probe/{name}",
                severity=probe.severity,
                summary=f"{probe.summary}: {reading.verdict}, {reading.detail}"[:500],
                owner=probe.owner,
                runbook=probe.runbook,
                labels={"probe": name, "verdict": str(reading.verdict)},
                annotations={"detail": reading.detail},
            ),
        )

    # --- what the schedule and people ask

    def scheduled(self, zone: str, book: Book) -> list[JobDefinition]:
        """The jobs that the probes of a book ask for."""
        thresholds = book.of(THRESHOLD)
        return [
            self._job(zone, name, probe, thresholds, book.documents[PROBE.name, name].applied_at)
            for name, probe in book.of(PROBE).items()
        ]

    def _job(
        self, zone: str, name: str, probe: Probe, thresholds: Mapping[str, Threshold], since: datetime | None
    ) -> JobDefinition:
        limit = limit_of(probe, thresholds)

        async def run(due: datetime) -> dict[str, Any]:
            made = await self.run(Context(zone), name, probe, limit, due=due)
            return {"verdict": str(made.verdict), "detail": made.detail, "run": made.id}

        return JobDefinition(
            job_name(zone, name),
            # one that runs only when it is asked for still has to be known to the runner
            probe.schedule or NEVER,
            run,
            grace=span(probe.grace),
            timeout_s=span(probe.timeout).total_seconds() + 30,
            since=since,
        )

    async def ask(self, tx: Transaction, context: Context, name: str) -> datetime:
        """Have the work role run a probe now; the instant its run goes by. Raises ``not_found``."""
        await self.get(tx, context.zone, name)
        now = self._clock.now()
        await make_due(tx, job_name(context.zone, name), now)
        await self.note_asked(tx, context, name)
        return now

    async def note_asked(self, tx: Transaction, context: Context, name: str) -> None:
        """Leave the event that somebody asked for a run."""
        await self._recorder.record(tx, codes.PROBE_ASKED, "success", context, subject=Subject(id=name, type="probe"))

    async def get(self, tx: Transaction, zone: str, name: str) -> tuple[Probe, Limit | None]:
        """A probe in force, and what its value is held against. Raises ``not_found``."""
        book = await self._books.current(tx, zone)
        probe = book.of(PROBE).get(name)
        if probe is None:
            raise NotFound(f"There is no probe {name} in force.")
        return probe, limit_of(probe, book.of(THRESHOLD))

    async def standings(self, tx: Transaction, zone: str, each: int = 20) -> list[Standing]:
        """How every probe in force stands now, with its newest runs."""
        book = await self._books.current(tx, zone)
        probes, now = book.of(PROBE), self._clock.now()
        history = await runs.latest(tx, zone, list(probes), each)
        found = []
        for name, probe in probes.items():
            job = self._job(zone, name, probe, book.of(THRESHOLD), None)
            since = book.documents[PROBE.name, name].applied_at
            overdue = overdue_since(job, since, now) if probe.schedule is not None else None
            last = history[name][0].last if history[name] else None
            if last is None and probe.schedule is None:
                overdue = since  # nobody ever asked for it, so nothing is known
            found.append(Standing(name, probe, standing(last, overdue, now), history[name], overdue))
        return found


def overdue_since(job: JobDefinition, since: datetime | None, now: datetime) -> datetime | None:
    """The newest instant whose grace and time to run are over; None where none is since ``since``."""
    until = now - job.grace - timedelta(seconds=job.timeout_s)
    if since is None or until <= since:
        return None
    due = job.due_between(since, until, 1)
    return due[-1] if due else None


def _inputs(reading: Reading, due: datetime) -> dict[str, Value]:
    told: dict[str, Value] = {"due": due.isoformat(), "verdict": str(reading.verdict), "detail": reading.detail[:500]}
    if reading.value is not None:
        told["value"] = f"{reading.value:.12g}"
    if reading.unit:
        told["unit"] = str(reading.unit)
    if reading.threshold is not None:
        told["threshold"] = f"{reading.threshold.comparison} {reading.threshold.value:.12g} {reading.threshold.unit}"
        told["threshold_key"] = reading.threshold.key
    if reading.window is not None:
        told["window_s"] = f"{reading.window.total_seconds():g}"
    return told


NEVER = timedelta(days=100 * 366)
"""The schedule of what runs only when it is asked for."""
