"""Runs reconciliations: read both sides, match, keep what was found, report, tell of it."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import duckdb
import structlog

from bailiwick.assurance.book import Book
from bailiwick.assurance.books import Books
from bailiwick.assurance.ports import Alerts, Raised
from bailiwick.assurance.reconciliation import findings as register
from bailiwick.assurance.reconciliation import report as reports
from bailiwick.assurance.reconciliation.findings import Finding, Findings, alert_key
from bailiwick.assurance.reconciliation.matching import (
    Difference,
    Matcher,
    NotIndependent,
    TooMany,
    Totals,
    Unreachable,
    Unreadable,
    Window,
)
from bailiwick.assurance.reconciliation.periods import Mode, newest, read_range, window
from bailiwick.assurance.reconciliation.sources import Laid, Sources
from bailiwick.assurance.reconciliation.spec import (
    CONNECTION,
    RECONCILIATION,
    ConnectionSpec,
    ReconciliationSpec,
    SourceSpec,
    not_independent,
)
from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.evidence.evidence_records import EvidenceRecords, Producer
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import NotFound
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.jobs import JobDefinition
from bailiwick.kernel.severity import Severity
from bailiwick.kernel.verdicts import Verdict

log = structlog.get_logger(__name__)

MOST_VERIFIED = 31
_STEP = 2_000


@dataclass(frozen=True, slots=True)
class Run:
    """One run as it is kept. ``report`` is None where it ended in an ERROR."""

    id: str
    reconciliation: str
    mode: Mode
    period: str
    since: datetime
    until: datetime
    started_at: datetime
    finished_at: datetime
    verdict: Verdict
    error: str | None
    coverage: Mapping[str, Any]
    totals: Mapping[str, int]
    new_findings: int
    open_findings: int
    storm: bool
    sha256: str | None

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        told = {name: getattr(self, name) for name in self.__slots__}
        return {name: v.astimezone(UTC).isoformat() if isinstance(v, datetime) else v for name, v in told.items()}


@dataclass(frozen=True, slots=True)
class _Asked:
    """A run that is going on."""

    id: str
    name: str
    spec: ReconciliationSpec
    spec_sha256: str
    connections: Mapping[str, ConnectionSpec]
    mode: Mode
    period: str
    window: Window
    started_at: datetime


class Reconciliations:
    """Runs and shows them. ``scratch``: a directory for the files of a run, which are gone after it."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        ids: Ids,
        recorder: Recorder,
        books: Books,
        records: EvidenceRecords,
        alerts: Alerts,
        findings: Findings,
        sources: Sources,
        scratch: Path,
    ) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._recorder = recorder
        self._books = books
        self._records = records
        self._alerts = alerts
        self._findings = findings
        self._sources = sources
        self._scratch = scratch

    # --- what is there

    async def standing(self, zone: str) -> list[dict[str, Any]]:
        """Every reconciliation of the book with how its newest run ended."""
        async with self._database.begin() as tx:
            specs = (await self._books.current(tx, zone)).of(RECONCILIATION)
            rows = {row["reconciliation"]: row for row in await tx.all(_NEWEST, zone=zone)}
            open_ = {row["reconciliation"]: row["count"] for row in await tx.all(_OPEN, zone=zone)}
        listed = []
        for name, spec in specs.items():
            last = _run(rows[name]).document() if name in rows else None
            told = {"name": name, "description": spec.description, "owner": spec.owner, "enabled": spec.enabled}
            verdict = last["verdict"] if last else Verdict.NO_DATA
            listed.append({**told, "verdict": verdict, "open_findings": open_.get(name, 0), "last_run": last})
        return listed

    async def runs(self, zone: str, name: str, after: str, limit: int) -> list[Run]:
        """The runs of one, newest first, with ids before ``after``."""
        async with self._database.begin() as tx:
            rows = await tx.all(
                "SELECT * FROM reconciliation_runs WHERE zone = :zone AND reconciliation = :name AND id < :after"
                " ORDER BY id DESC LIMIT :limit",
                zone=zone,
                name=name,
                after=after,
                limit=limit,
            )
        return [_run(row) for row in rows]

    async def report(self, zone: str, name: str, run: str | None = None) -> tuple[Run, dict[str, Any], str]:
        """The report of a run, or of the newest that has one: as values and as Markdown. Raises ``not_found``."""
        async with self._database.begin() as tx:
            row = await tx.one(
                "SELECT * FROM reconciliation_runs WHERE zone = :zone AND reconciliation = :name"
                " AND (cast(:run AS text) IS NULL OR id = :run) ORDER BY id DESC LIMIT 1",
                zone=zone,
                name=name,
                run=run,
            )
        if row is None:
            raise NotFound("There is no run of it.")
        found = _run(row)
        if row["report"] is None:
            told = f"# Reconciliation {name}: ERROR\n\nPeriod {found.period}: {found.error}\n"
            return (
                found,
                {"reconciliation": name, "period": found.period, "verdict": "ERROR", "error": found.error},
                told,
            )
        return found, row["report"], row["markdown"]

    # --- running

    def scheduled(self, zone: str, book: Book) -> list[JobDefinition]:
        """The jobs that a book asks for: for each reconciliation the daily delta and the weekly full scan."""
        jobs = []
        for name, spec in book.of(RECONCILIATION).items():
            if not spec.enabled:
                continue
            since = book.documents[(RECONCILIATION.name, name)].applied_at
            for mode, cron in (("delta", spec.schedule.delta), ("full", spec.schedule.full)):

                async def handler(due: datetime, name: str = name, mode: Mode = mode) -> Mapping[str, Any]:  # type: ignore[assignment]
                    return await self.on_schedule(Context(zone), name, mode, due)

                label = f"reconciliation:{name}:{mode}@{zone}"
                jobs.append(
                    JobDefinition(label, cron, handler, grace=timedelta(hours=20), timeout_s=3600.0, since=since)
                )
        return jobs

    async def on_schedule(self, context: Context, name: str, mode: Mode, due: datetime) -> dict[str, Any]:
        """The run that came due at ``due``; with a delta, those periods again whose resolutions wait for it."""
        run = await self.run(context, name, mode=mode, due=due)
        told: dict[str, Any] = {"run": run.id, "verdict": run.verdict, "period": run.period}
        if mode != "delta":
            return told
        async with self._database.begin() as tx:
            spec = (await self._books.current(tx, context.zone)).of(RECONCILIATION).get(name)
            waiting = await register.resolved_unverified(tx, context.zone, name, None)
        if spec is not None and spec.time is not None:
            again = sorted({each.period for each in waiting} - {run.period})[:MOST_VERIFIED]
            told["verified"] = [
                (await self.run(context, name, mode="verify", period=period)).verdict for period in again
            ]
        return told

    async def run(
        self,
        context: Context,
        name: str,
        *,
        mode: Mode = "manual",
        period: str | None = None,
        due: datetime | None = None,
    ) -> Run:
        """Reconcile ``period`` (by default the newest that is over) and keep the run, whatever comes of it.

        Raises ``not_found`` for a name that is not in the book, ``invalid_request`` for a period that is none.
        """
        now = self._clock.now()
        async with self._database.begin() as tx:
            book = await self._books.current(tx, context.zone)
        spec = book.of(RECONCILIATION).get(name)
        if spec is None:
            raise NotFound("There is no reconciliation by that name.")
        wanted = period or newest(spec, due or now, full=mode == "full")
        asked = _Asked(
            self._ids(),
            name,
            spec,
            book.documents[(RECONCILIATION.name, name)].sha256,
            book.of(CONNECTION),
            mode,
            wanted,
            window(spec, wanted, now),
            now,
        )
        coverage: dict[str, dict[str, Any]] = {}
        try:
            return await self._compare(context, asked, coverage)
        except (Unreachable, Unreadable, TooMany, NotIndependent) as error:
            return await self._fail(context, asked, coverage, str(error))
        except duckdb.Error as error:
            log.exception("reconciliation could not be matched", reconciliation=name)
            return await self._fail(context, asked, coverage, f"the rows could not be matched ({type(error).__name__})")
        except OSError as error:
            log.exception("reconciliation could not be read", reconciliation=name)
            return await self._fail(context, asked, coverage, f"the rows could not be kept ({type(error).__name__})")

    async def _compare(self, context: Context, asked: _Asked, coverage: dict[str, dict[str, Any]]) -> Run:
        if (why := not_independent(asked.spec, asked.connections)) is not None:
            raise NotIndependent(f"not independent: {why}")
        self._scratch.mkdir(mode=0o700, parents=True, exist_ok=True)
        directory = await asyncio.to_thread(tempfile.TemporaryDirectory, dir=self._scratch, prefix="recon-")
        try:
            scratch = Path(directory.name)
            laid = await self._lay(context.zone, asked, scratch, coverage)
            matcher = await asyncio.to_thread(Matcher, asked.spec, scratch, asked.started_at, asked.window)
            try:
                totals = await asyncio.to_thread(_load, matcher, asked.spec, laid, coverage)
                return await self._keep(context, asked, matcher, totals, coverage)
            finally:
                await asyncio.to_thread(matcher.close)
        finally:
            await asyncio.to_thread(directory.cleanup)

    async def _lay(
        self, zone: str, asked: _Asked, scratch: Path, coverage: dict[str, dict[str, Any]]
    ) -> dict[str, Laid]:
        spec, laid = asked.spec, {}
        wanted: dict[str, SourceSpec] = {"left": spec.left, "right": spec.right}
        if spec.parents is not None:
            wanted["parents"] = spec.parents.source
        for side, source in wanted.items():
            coverage[side] = {"source": source.called, "rows": 0, "verdict": Verdict.ERROR}
            try:
                laid[side] = await self._sources.lay(
                    zone,
                    source,
                    asked.connections,
                    scratch / f"{side}.csv",
                    read_range(spec, asked.window),
                    spec.cap,
                    asked.window,
                )
            except (Unreachable, Unreadable, TooMany) as error:
                raise type(error)(f"{side} ({coverage[side]['source']}): {error}") from None
            read_at = self._clock.now().astimezone(UTC).isoformat()
            coverage[side] |= {"sha256": laid[side].sha256, "bytes": laid[side].bytes, "read_at": read_at}
        return laid

    async def _keep(
        self,
        context: Context,
        asked: _Asked,
        matcher: Matcher,
        totals: Totals,
        coverage: dict[str, dict[str, Any]],
    ) -> Run:
        spec, name, zone = asked.spec, asked.name, context.zone
        tally, new = reports.Tally(), 0
        differences = matcher.differences()
        async with self._database.begin() as tx:
            while batch := await asyncio.to_thread(_next, differences):
                for each in batch:
                    tally.add(spec, each)
                now = self._clock.now()
                new += await register.store(tx, self._ids, zone, name, spec, asked.period, asked.id, batch, now)
            nothing = totals.left_rows == totals.right_rows == 0
            if not nothing:
                await self._verify(tx, context, asked)
            states = {row["state"]: row["count"] for row in await tx.all(_STATES, run=asked.id)}
            open_ = states.get("open", 0) + states.get("acknowledged", 0)
            verdict = Verdict.FAIL if open_ else Verdict.NO_DATA if nothing else Verdict.PASS
            report = reports.build(
                name,
                spec,
                asked.spec_sha256,
                asked.period,
                asked.window,
                verdict,
                totals,
                tally,
                states.get("accepted", 0),
                coverage,
            )
            storm = await self._tell(tx, context, asked, verdict)
            return await self._finish(
                tx,
                context,
                asked,
                verdict,
                coverage=coverage,
                totals=totals.document(),
                new=new,
                open_=open_,
                storm=storm,
                report=report,
            )

    async def _verify(self, tx: Transaction, context: Context, asked: _Asked) -> None:
        """Resolutions of the period (of any, without instants) are confirmed or undone; waivers are looked at."""
        found = {
            (row["type"], row["fingerprint"]): row["state"]
            for row in await tx.all(_IDENTITIES, run=asked.id, most=1_000_000)
        }
        period = asked.period if asked.spec.time is not None else None
        for each in await register.resolved_unverified(tx, context.zone, asked.name, period):
            await self._findings.verify(tx, context, each, still=(each.type, each.fingerprint) in found)
        if "accepted" in found.values() or "resolved" in found.values():
            for each in await register.found_in(tx, context.zone, asked.name, asked.id):
                if each.state == "accepted" and each.waiver not in await self._findings.covering(tx, each):
                    await self._findings.uncover(tx, context, each)
                elif each.state == "resolved":  # it was confirmed once, and is there again in its period
                    await self._findings.verify(tx, context, each, still=True)

    async def _tell(self, tx: Transaction, context: Context, asked: _Asked, verdict: Verdict) -> bool:
        """Alerts of what is new: one each, or one for all where there are more than the storm cap."""
        name, spec, now = asked.name, asked.spec, self._clock.now()
        base = f"recon/{name}"
        if verdict is Verdict.NO_DATA:
            summary = f"Reconciliation {name} found no rows on either side for {asked.period}"
            await self._fire(tx, context, asked, f"{base}/no-data", Severity.P2, summary)
        else:
            await self._alerts.clear(tx, context, f"{base}/no-data")
        await self._alerts.clear(tx, context, f"{base}/error")
        rows = await tx.all(_TO_TELL, run=asked.id, now=now)
        if len(rows) > spec.storm:
            worst = min(Severity(row["severity"]) for row in rows)
            summary = f"Reconciliation {name}: {len(rows)} new findings for {asked.period}, all told by this alert"
            await self._fire(tx, context, asked, f"{base}/storm", worst, summary)
        else:
            await self._alerts.clear(tx, context, f"{base}/storm")
            for found in await _by_ids(tx, [row["id"] for row in rows]):
                key = " / ".join(found.key)[:100]
                summary = f"{found.type} in {name}, {found.period}: {key} ({found.action})"
                await self._fire(tx, context, asked, alert_key(found), Severity(found.severity), summary)
        await self._findings.alerted(tx, [row["id"] for row in rows])
        return len(rows) > spec.storm

    async def _fire(
        self, tx: Transaction, context: Context, asked: _Asked, key: str, severity: Severity, summary: str
    ) -> None:
        spec = asked.spec
        labels = {"reconciliation": asked.name, "period": asked.period}
        annotations = {"run": asked.id}
        raised = Raised(
            key, f"reconciliation/{asked.name}", severity, summary, spec.owner, spec.runbook, labels, annotations
        )
        await self._alerts.fire(tx, context, raised)

    async def _fail(self, context: Context, asked: _Asked, coverage: Mapping[str, Any], error: str) -> Run:
        """The run could not be made: that is an ERROR, and every finding stays what it was."""
        async with self._database.begin() as tx:
            summary = f"Reconciliation {asked.name} could not be made for {asked.period}: {error}"[:300]
            await self._fire(tx, context, asked, f"recon/{asked.name}/error", Severity.P1, summary)
            return await self._finish(tx, context, asked, Verdict.ERROR, coverage=coverage, error=error[:500])

    async def _finish(
        self,
        tx: Transaction,
        context: Context,
        asked: _Asked,
        verdict: Verdict,
        *,
        coverage: Mapping[str, Any],
        totals: Mapping[str, int] | None = None,
        new: int = 0,
        open_: int = 0,
        storm: bool = False,
        report: Mapping[str, Any] | None = None,
        error: str | None = None,
    ) -> Run:
        now = self._clock.now()
        text = reports.markdown(report) if report is not None else None
        sha256 = reports.digest(report) if report is not None else None
        row = await tx.one(
            "INSERT INTO reconciliation_runs (id, zone, reconciliation, mode, period, since, until, started_at,"
            " finished_at, verdict, error, coverage, totals, new_findings, open_findings, storm, report, markdown,"
            " sha256)"
            " VALUES (:id, :zone, :name, :mode, :period, :since, :until, :started, :now, :verdict, :error,"
            " cast(:coverage AS jsonb), cast(:totals AS jsonb), :new, :open, :storm, cast(:report AS jsonb), :markdown,"
            " :sha256) RETURNING *",
            id=asked.id,
            zone=context.zone,
            name=asked.name,
            mode=asked.mode,
            period=asked.period,
            since=asked.window.since,
            until=asked.window.until,
            started=asked.started_at,
            now=now,
            verdict=verdict,
            error=error,
            coverage=json.dumps(coverage),
            totals=json.dumps(totals or {}),
            new=new,
            open=open_,
            storm=storm,
            report=json.dumps(report, ensure_ascii=False) if report is not None else None,
            markdown=text,
            sha256=sha256,
        )
        assert row is not None
        await self._records.probe(
            tx,
            context,
            f"reconciliation/{asked.name.lower()}",
            (text or error or "").encode(),
            exit_code=verdict.exit_code,
            since=asked.window.since,
            until=min(asked.window.until, now),
            producer=Producer(
                name=context.actor.user or "reconciliation", program="bailiwick", version=version("bailiwick")
            ),
            inputs={"run": asked.id, "period": asked.period, "report": sha256 or ""},
        )
        await self._recorder.record(
            tx,
            codes.RECONCILIATION_RUN,
            "success" if verdict is Verdict.PASS else "failure",
            context,
            subject=Subject(id=asked.name, type="reconciliation"),
            run=asked.id,
            mode=asked.mode,
            period=asked.period,
            verdict=str(verdict),
            report=sha256 or "",
            new=new,
            open=open_,
        )
        return _run(row)


def _load(
    matcher: Matcher, spec: ReconciliationSpec, laid: Mapping[str, Laid], coverage: dict[str, dict[str, Any]]
) -> Totals:
    for side in ("left", "right"):
        rows = matcher.load(side, laid[side].path, laid[side].columns)
        coverage[side] |= {"rows": rows, "verdict": Verdict.PASS if rows else Verdict.NO_DATA}
    if spec.parents is not None:
        rows = matcher.load_parents(laid["parents"].path, spec.parents.key, laid["parents"].columns)
        coverage["parents"] |= {"rows": rows, "verdict": Verdict.PASS if rows else Verdict.NO_DATA}
    return matcher.totals()


def _next(differences: Any) -> list[Difference]:
    return list(islice(differences, _STEP))


async def _by_ids(tx: Transaction, identifiers: Sequence[str]) -> list[Finding]:
    rows = await tx.all("SELECT * FROM reconciliation_findings WHERE id = ANY(:ids) ORDER BY id", ids=list(identifiers))
    return [Finding(**{name: row[name] for name in Finding.__slots__}) for row in rows]


def _run(row: Row) -> Run:
    values = {name: row[name] for name in Run.__slots__}
    return Run(**{**values, "verdict": Verdict(row["verdict"])})


_NEWEST = """
SELECT DISTINCT ON (reconciliation) * FROM reconciliation_runs
WHERE zone = :zone AND mode <> 'verify' ORDER BY reconciliation, id DESC
"""
_OPEN = """
SELECT reconciliation, count(*) FROM reconciliation_findings
WHERE zone = :zone AND state IN ('open', 'acknowledged') GROUP BY 1
"""
_STATES = "SELECT state, count(*) FROM reconciliation_findings WHERE last_run = :run GROUP BY 1"
_IDENTITIES = "SELECT type, fingerprint, state FROM reconciliation_findings WHERE last_run = :run LIMIT :most"
_TO_TELL = """
SELECT id, severity FROM reconciliation_findings
WHERE last_run = :run AND state IN ('open', 'acknowledged') AND NOT alerted
  AND (snoozed_until IS NULL OR snoozed_until <= :now)
ORDER BY id
"""
