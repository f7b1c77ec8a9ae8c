"""Checkpoints: evaluated from what other parts know, kept in versions that nobody changes, and told to who answers."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from bailiwick.assurance.book import Book, Document, canonical
from bailiwick.assurance.books import Books
from bailiwick.assurance.checkpoints import rules
from bailiwick.assurance.checkpoints.golive import GoLives, newest_go_lives
from bailiwick.assurance.checkpoints.plans import Plans, standing_plans
from bailiwick.assurance.checkpoints.rules import CHECKPOINT, Checkpoint, Finding
from bailiwick.assurance.ports import Alerts, CapacityFacts, DrillFacts, Raised, Runs, SloFacts, WaiverFacts
from bailiwick.assurance.rhythm.occurrences import utc
from bailiwick.assurance.windows import require_over
from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.evidence.evidence_records import EvidenceRecords, Producer
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import Conflict, NotFound
from bailiwick.kernel.severity import Severity
from bailiwick.kernel.verdicts import Verdict

CLOCK = "bailiwick"
RUNBOOK = "docs/how-to/rhythm-and-checkpoints.md"


@dataclass(frozen=True, slots=True)
class Facts:
    """Who knows what the rules ask."""

    waivers: WaiverFacts
    runs: Runs
    drills: DrillFacts
    slos: SloFacts
    capacity: CapacityFacts


@dataclass(frozen=True, slots=True)
class Result:
    """What a checkpoint came to. ``version`` is 0 for what is not kept: what is not due was not judged."""

    checkpoint: str
    title: str
    platform: str
    version: int
    at: datetime
    due_at: datetime | None
    verdict: Verdict
    findings: Sequence[Mapping[str, Any]]
    record: str
    evaluated_by: str
    evaluated_at: datetime | None

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "checkpoint": self.checkpoint,
            "title": self.title,
            "platform": self.platform,
            "version": self.version,
            "at": utc(self.at),
            "due_at": utc(self.due_at) if self.due_at else None,
            "verdict": str(self.verdict),
            "findings": [dict(each) for each in self.findings],
            "record": self.record,
            "evaluated_by": self.evaluated_by,
            "evaluated_at": utc(self.evaluated_at) if self.evaluated_at else None,
        }


class Checkpoints:
    """Evaluates checkpoints, and keeps what came of it."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        recorder: Recorder,
        books: Books,
        records: EvidenceRecords,
        go_lives: GoLives,
        plans: Plans,
        alerts: Alerts,
        facts: Facts,
        producer: Producer,
    ) -> None:
        self._database = database
        self._clock = clock
        self._recorder = recorder
        self._books = books
        self._records = records
        self._go_lives = go_lives
        self._plans = plans
        self._alerts = alerts
        self._facts = facts
        self._producer = producer

    async def keep(self) -> dict[str, int]:
        """By the clock: take what was approved, and evaluate once whatever came due; how much."""
        taken = await self._go_lives.take_approved() + await self._plans.take_approved()
        async with self._database.begin() as tx:
            zones = [row["name"] for row in await tx.all("SELECT name FROM zones WHERE state = 'active' ORDER BY name")]
        evaluated = 0
        for zone in zones:
            for each in await self.list(zone):
                if each.version == 0 and each.due_at is not None and each.due_at <= self._clock.now():
                    await self.evaluate(Context(zone), each.checkpoint, by=CLOCK)
                    evaluated += 1
        return {"taken": taken, "evaluated": evaluated}

    async def list(self, zone: str, at: datetime | None = None) -> Sequence[Result]:
        """Every checkpoint in force as it stands, or stood at ``at``, the first due first."""
        now = at or self._clock.now()
        async with self._database.begin() as tx:
            book = await self._books.current(tx, zone)
            lives = await newest_go_lives(tx, zone)
            newest = {
                row["checkpoint"]: row
                for row in await tx.all(
                    "SELECT DISTINCT ON (checkpoint) * FROM checkpoint_results"
                    " WHERE zone = :zone AND evaluated_at <= :now ORDER BY checkpoint, version DESC",
                    zone=zone,
                    now=now,
                )
            }
        found = []
        for name, spec in book.of(CHECKPOINT).items():
            live = lives.get(spec.platform)
            due = live.at + timedelta(days=spec.after_days) if live is not None else None
            if name in newest and newest[name]["due_at"] == due:
                found.append(_result(newest[name], spec.title))
            else:
                found.append(_not_judged(name, spec, due, now))
        return sorted(found, key=lambda each: (each.due_at is None, each.due_at or now, each.checkpoint))

    async def history(self, zone: str, name: str, at: datetime | None = None) -> Sequence[Result]:
        """The results of a checkpoint by ``at``, newest first; raises ``not_found`` where there never was one."""
        async with self._database.begin() as tx:
            rows = await tx.all(
                "SELECT * FROM checkpoint_results WHERE zone = :zone AND checkpoint = :name"
                " AND evaluated_at <= :at ORDER BY version DESC LIMIT 500",
                zone=zone,
                name=name,
                at=at or self._clock.now(),
            )
            spec = (await self._books.current(tx, zone)).of(CHECKPOINT).get(name)
        if spec is None and not rows:
            raise NotFound("There is no such checkpoint.")
        return [_result(row, spec.title if spec is not None else "") for row in rows]

    async def evaluate(self, context: Context, name: str, *, by: str, at: datetime | None = None) -> Result:
        """Judge a checkpoint at ``at``, by default now, and keep the result as its next version.

        What is not due at ``at`` is NOT_DUE and is not kept. Raises ``not_found``, ``window_not_over`` for an instant
        that has not come, ``conflict`` for one before the newest that was judged.
        """
        now, zone = self._clock.now(), context.zone
        moment = at or now
        require_over(moment, now)
        await self._go_lives.take_approved()
        await self._plans.take_approved()
        async with self._database.begin() as tx:
            await tx.run(
                "SELECT pg_advisory_xact_lock(hashtext('bailiwick.checkpoint'), hashtext(:which))",
                which=f"{zone}/{name}",
            )
            book = await self._books.current(tx, zone)
            document = book.documents.get((CHECKPOINT.name, name))
            if document is None:
                raise NotFound("There is no such checkpoint.")
            spec = CHECKPOINT.read(document.spec)
            live = (await newest_go_lives(tx, zone)).get(spec.platform)
            due = live.at + timedelta(days=spec.after_days) if live is not None else None
            if due is None or moment < due:
                return _not_judged(name, spec, due, moment, not_due=True)
            newest = await tx.one(
                "SELECT version, at FROM checkpoint_results WHERE zone = :zone AND checkpoint = :name"
                " ORDER BY version DESC LIMIT 1",
                zone=zone,
                name=name,
            )
            if newest is not None and moment < newest["at"]:
                raise Conflict(f"It was judged at {utc(newest['at'])} already, which is later.")
            findings = await self._findings(tx, book, name, spec, moment)
            verdict = rules.judge(findings)
            version = newest["version"] + 1 if newest is not None else 1
            result = await self._store(tx, context, document, spec, version, moment, due, verdict, findings, by)
            await self._alert(tx, context, result, spec)
        return result

    async def _findings(
        self, tx: Transaction, book: Book, name: str, spec: Checkpoint, at: datetime
    ) -> Sequence[Finding]:
        facts, zone = self._facts, book.zone
        match spec.rule:
            case "waivers":
                found = await facts.waivers.open_at(tx, zone, at)
                return rules.waivers(found, await standing_plans(tx, zone, name, at), at)
            case "automation":
                since = at - timedelta(days=spec.run_days)
                wanted = rules.checks(spec, zone, _names(book))
                runs = {job: await facts.runs.of(tx, zone, job, since, at) for jobs in wanted.values() for job in jobs}
                drilled = at - timedelta(days=max(spec.after_days, spec.run_days))
                return rules.automation(spec, wanted, runs, await facts.drills.drills(tx, zone, drilled, at))
            case "measured":
                since = at - timedelta(days=spec.after_days)
                return rules.measured(
                    spec,
                    await facts.slos.measured(tx, zone, since, at),
                    await facts.capacity.trends(tx, zone, since, at),
                )

    async def _store(
        self,
        tx: Transaction,
        context: Context,
        document: Document,
        spec: Checkpoint,
        version: int,
        at: datetime,
        due: datetime,
        verdict: Verdict,
        findings: Sequence[Finding],
        by: str,
    ) -> Result:
        now, name = self._clock.now(), document.name
        told = [each.document() for each in findings]
        definition = f"{document.version}/{document.sha256}"
        body = {
            "checkpoint": name,
            "platform": spec.platform,
            "version": version,
            "at": utc(at),
            "due_at": utc(due),
            "verdict": str(verdict),
            "findings": told,
            "definition": definition,
        }
        stored = await self._records.probe(
            tx,
            context,
            f"checkpoint.{name.lower()}",
            canonical(body) + b"\n",
            exit_code=verdict.exit_code,
            since=due,
            until=at,
            producer=self._producer,
            inputs={"version": version, "rule": spec.rule},
        )
        await tx.run(
            "INSERT INTO checkpoint_results (zone, checkpoint, version, platform, at, due_at, verdict, findings,"
            " definition, record, evaluated_by, evaluated_at) VALUES (:zone, :checkpoint, :version, :platform, :at,"
            " :due_at, :verdict, CAST(:findings AS jsonb), :definition, :record, :by, :now)",
            zone=context.zone,
            checkpoint=name,
            version=version,
            platform=spec.platform,
            at=at,
            due_at=due,
            verdict=str(verdict),
            findings=json.dumps(told, ensure_ascii=False),
            definition=definition,
            record=stored.id,
            by=by,
            now=now,
        )
        await self._recorder.record(
            tx,
            codes.CHECKPOINT_EVALUATED,
            "success" if verdict.green else "failure",
            context,
            subject=Subject(id=name, type="checkpoint"),
            platform=spec.platform,
            version=version,
            verdict=str(verdict),
            instant=utc(at),
            record=stored.id,
        )
        return Result(name, spec.title, spec.platform, version, at, due, verdict, told, stored.id, by, now)

    async def _alert(self, tx: Transaction, context: Context, result: Result, spec: Checkpoint) -> None:
        key = f"checkpoint/{result.checkpoint}"
        if result.verdict.green:
            await self._alerts.clear(tx, context, key)
            return
        wrong = [each["subject"] for each in result.findings if each["verdict"] != str(Verdict.PASS)]
        severity = Severity.P1 if result.verdict in {Verdict.FAIL, Verdict.ERROR} else Severity.P2
        await self._alerts.fire(
            tx,
            context,
            Raised(
                key,
                "checkpoint.not-passed",
                severity,
                f"{spec.title}: {result.verdict} ({', '.join(wrong[:5])})",
                spec.owner,
                RUNBOOK,
                labels={"checkpoint": result.checkpoint, "verdict": str(result.verdict)},
                annotations={"record": result.record},
            ),
        )


def _names(book: Book) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for kind, name in sorted(book.documents):
        found.setdefault(kind, []).append(name)
    return found


def _not_judged(name: str, spec: Checkpoint, due: datetime | None, at: datetime, *, not_due: bool = False) -> Result:
    if due is None:
        verdict, told = Verdict.NOT_DUE, f"It is not recorded when the platform {spec.platform} went live."
    elif not_due or at < due:
        verdict, told = Verdict.NOT_DUE, f"It is due at {utc(due)}."
    else:
        verdict, told = Verdict.NO_DATA, "It is due and was not judged yet."
    finding = Finding("due", verdict, told).document()
    return Result(name, spec.title, spec.platform, 0, at, due, verdict, [finding], "", "", None)


def _result(row: Row, title: str) -> Result:
    return Result(
        row["checkpoint"],
        title,
        row["platform"],
        row["version"],
        row["at"],
        row["due_at"],
        Verdict(row["verdict"]),
        row["findings"],
        row["record"],
        row["evaluated_by"],
        row["evaluated_at"],
    )
