"""Validation after going live: a suite is measured within its window, and its report is never changed.

No report is made before its window opens: what is to be shown after a day cannot be shown after four minutes. A window
that closed without a report has failed, and so has one that closed on a report that is not green; measuring again later
shows how it is then and takes nothing back, which is for a dated waiver to do.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bailiwick.assurance.books import Books
from bailiwick.assurance.durations import span
from bailiwick.assurance.ports import Alerts, Raised, Waivers
from bailiwick.assurance.rhythm.occurrences import utc
from bailiwick.assurance.thresholds import THRESHOLD
from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.evidence.evidence_records import EvidenceRecords
from bailiwick.handover.environments.measuring import Measurer, Result, canonical_json, overall, producer_of
from bailiwick.handover.environments.spec import VALIDATION_SUITE, ValidationSuite
from bailiwick.handover.environments.states import EnvironmentStates, Life
from bailiwick.handover.environments.states import Standing as EnvironmentStanding
from bailiwick.handover.ports import Point, Standing
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import BailiwickError, NotFound
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.severity import Severity
from bailiwick.kernel.verdicts import Verdict, worst

CONTROL = "validation"
"""What a waiver of a suite names; its scope is ``environment/suite``."""


@dataclass(frozen=True, slots=True)
class Window:
    """From when a suite may be measured, and until when it counts."""

    opens: datetime
    closes: datetime


@dataclass(frozen=True, slots=True)
class Report:
    """What was measured once. ``body`` is the JSON that ``sha256`` is of."""

    id: str
    suite: str
    life: int
    attempt: int
    verdict: Verdict
    opened_at: datetime
    began_at: datetime
    ended_at: datetime
    asked_by: str
    body: str
    sha256: str
    record: str

    @property
    def intact(self) -> bool:
        """Whether it says what its hash was made of."""
        return hashlib.sha256(self.body.encode()).hexdigest() == self.sha256

    def document(self, *, whole: bool = True) -> dict[str, Any]:
        """The JSON form; ``whole``: with what was found of each check."""
        told = {
            **{
                name: getattr(self, name) for name in ("id", "suite", "life", "attempt", "asked_by", "sha256", "record")
            },
            "verdict": str(self.verdict),
            "opened_at": utc(self.opened_at),
            "began_at": utc(self.began_at),
            "ended_at": utc(self.ended_at),
            "intact": self.intact,
        }
        return {**told, "report": json.loads(self.body)} if whole else told


# ---------------------------------------------------------------------- rules


def window(suite: ValidationSuite, life: Life) -> Window:
    """The window of a suite for a release that went live."""
    return Window(life.counts_from + span(suite.opens), life.counts_from + span(suite.closes))


def standing_of(suite: ValidationSuite, life: Life | None, reports: Sequence[Report], now: datetime) -> Point:
    """How a suite stands. ``reports``: those of that release, oldest first."""
    title = suite.title
    if life is None:
        return Point(title, Verdict.NOT_DUE, "nothing went live yet")
    at = window(suite, life)
    if now < at.opens:
        return Point(title, Verdict.NOT_DUE, f"opens at {utc(at.opens)}")
    within = [each for each in reports if at.opens <= each.began_at and each.ended_at <= at.closes]
    if not within:
        if now < at.closes:
            return Point(title, Verdict.NO_DATA, f"open until {utc(at.closes)}, and not measured yet")
        late = f"; measured {len(reports)} times since" if reports else ""
        return Point(title, Verdict.FAIL, f"its window closed at {utc(at.closes)} without a report{late}")
    last = within[-1]
    if not last.intact:
        return Point(title, Verdict.ERROR, "the report is not what its hash says", record=last.record)
    told = f"{last.verdict} at {utc(last.ended_at)}, attempt {last.attempt}"
    return Point(title, last.verdict, told, record=last.record)


def due(suite: ValidationSuite, life: Life, reports: Sequence[Report], now: datetime) -> bool:
    """Whether the clock measures it now: while it is open, once, and again while it is not green."""
    at = window(suite, life)
    if not at.opens <= now < at.closes:
        return False
    last = reports[-1] if reports else None
    return last is None or (not last.verdict.green and now >= last.ended_at + span(suite.again))


# ---------------------------------------------------------------------- store


async def reports_of(tx: Transaction, zone: str, environment: str, life: int, suite: str = "") -> list[Report]:
    """The reports of a release, oldest first; of one suite or of all."""
    rows = await tx.all(
        "SELECT id, suite, life, attempt, verdict, opened_at, began_at, ended_at, asked_by, body, sha256, record"
        " FROM validation_reports WHERE zone = :zone AND environment = :environment AND life = :life"
        " AND (:suite = '' OR suite = :suite) ORDER BY suite, attempt",
        zone=zone, environment=environment, life=life, suite=suite,
    )  # fmt: skip
    return [Report(**{**row, "verdict": Verdict(row["verdict"])}) for row in rows]


# ---------------------------------------------------------------------- service


class Validation:
    """Measures suites and tells how they stand."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        ids: Ids,
        recorder: Recorder,
        books: Books,
        records: EvidenceRecords,
        states: EnvironmentStates,
        measurer: Measurer,
        alerts: Alerts,
        waivers: Waivers,
    ) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._recorder = recorder
        self._books = books
        self._records = records
        self._states = states
        self._measurer = measurer
        self._alerts = alerts
        self._waivers = waivers

    async def run(self, context: Context, environment: str, suite: str, *, asked_by: str = "") -> Report:
        """Measure a suite now and keep the report.

        Raises ``not_found``, ``environment_not_live``, and ``window_not_over`` before its window opens.
        """
        zone, began = context.zone, self._clock.now()
        async with self._database.begin() as tx:
            found = await self._states.require(tx, zone, environment)
            book = await self._books.current(tx, zone)
        spec = book.of(VALIDATION_SUITE).get(suite) if suite in found.spec.suites else None
        if spec is None:
            raise NotFound(f"The environment {environment} has no validation suite {suite}.")
        life = found.life
        if life is None:
            raise BailiwickError(reason="environment_not_live")
        at = window(spec, life)
        if began < at.opens:
            raise BailiwickError(
                f"{spec.title} is not due before {utc(at.opens)}.",
                reason="window_not_over",
                verdict=str(Verdict.NOT_DUE),
                opens=utc(at.opens),
            )
        results = await self._measurer.measure(zone, found, spec.checks, book.of(THRESHOLD))
        return await self._keep(context, found, suite, spec, life, began, overall(results), results, asked_by)

    async def _keep(
        self,
        context: Context,
        found: EnvironmentStanding,
        suite: str,
        spec: ValidationSuite,
        life: Life,
        began: datetime,
        verdict: Verdict,
        results: Sequence[Result],
        asked_by: str,
    ) -> Report:
        """Write down what was measured; no results: the window was missed."""
        zone, environment, at = context.zone, found.name, window(spec, life)
        ended = max(began, self._clock.now())
        async with self._database.begin() as tx:
            await tx.run(
                "SELECT pg_advisory_xact_lock(hashtext('bailiwick.validation'), hashtext(:key))",
                key=f"{zone}/{environment}/{suite}",
            )
            attempt = 1 + len(await reports_of(tx, zone, environment, life.number, suite))
            body = canonical_json(
                {
                    "zone": zone,
                    "environment": environment,
                    "suite": suite,
                    "title": spec.title,
                    "digest": life.digest,
                    "life": life.number,
                    "attempt": attempt,
                    "live_at": utc(life.counts_from),
                    "window": {"opens": utc(at.opens), "closes": utc(at.closes)},
                    "late": ended > at.closes,
                    "missed": not results,
                    "began_at": utc(began),
                    "ended_at": utc(ended),
                    "verdict": str(verdict),
                    "outside": sum(not each.counts for each in results),
                    "results": [each.document() for each in results],
                    "simulated_clock": self._clock.simulated,
                }
            )
            sha256 = hashlib.sha256(body.encode()).hexdigest()
            record = await self._records.probe(
                tx,
                context,
                f"validation.{environment.lower()}.{suite.lower()}",
                body.encode(),
                exit_code=verdict.exit_code,
                since=life.counts_from,
                until=ended,
                producer=producer_of(asked_by, "bailiwick validate"),
                inputs={"sha256": sha256, "verdict": str(verdict), "attempt": attempt},
            )
            await tx.run(
                "INSERT INTO validation_reports (id, zone, environment, life, suite, attempt, verdict, opened_at,"
                " began_at, ended_at, asked_by, body, sha256, record) VALUES (:id, :zone, :environment, :life, :suite,"
                " :attempt, :verdict, :opens, :began, :ended, :asked_by, :body, :sha256, :record)",
                id=self._ids(), zone=zone, environment=environment, life=life.number, suite=suite, attempt=attempt,
                verdict=str(verdict), opens=at.opens, began=began, ended=ended, asked_by=asked_by, body=body,
                sha256=sha256, record=record.id,
            )  # fmt: skip
            await tx.run(
                "DELETE FROM validation_asks WHERE zone = :zone AND environment = :environment AND suite = :suite",
                zone=zone, environment=environment, suite=suite,
            )  # fmt: skip
            reports = await reports_of(tx, zone, environment, life.number, suite)
            await self._tell(tx, context, found, suite, spec, standing_of(spec, life, reports, ended))
            await self._recorder.record(
                tx,
                codes.VALIDATION_REPORTED,
                "success" if verdict.green else "failure",
                context,
                subject=Subject(id=environment, type="environment"),
                suite=suite,
                life=life.number,
                attempt=attempt,
                verdict=str(verdict),
                sha256=sha256,
                record=record.id,
            )
        return reports[-1]

    async def ask(self, context: Context, environment: str, suite: str, *, by: str) -> datetime:
        """Have the work role measure a suite; from when it may. Raises ``not_found``, ``window_not_over``."""
        now = self._clock.now()
        async with self._database.begin() as tx:
            found = await self._states.require(tx, context.zone, environment)
            spec = await self._books.read(tx, context.zone, VALIDATION_SUITE, suite)
            if spec is None or suite not in found.spec.suites:
                raise NotFound(f"The environment {environment} has no validation suite {suite}.")
            if found.life is None:
                raise BailiwickError(reason="environment_not_live")
            opens = window(spec, found.life).opens
            if now < opens:
                raise BailiwickError(
                    f"{spec.title} is not due before {utc(opens)}.", reason="window_not_over",
                    verdict=str(Verdict.NOT_DUE), opens=utc(opens),
                )  # fmt: skip
            await tx.run(
                "INSERT INTO validation_asks (zone, environment, suite, asked_by, asked_at)"
                " VALUES (:zone, :environment, :suite, :by, :now) ON CONFLICT DO NOTHING",
                zone=context.zone, environment=environment, suite=suite, by=by, now=now,
            )  # fmt: skip
            await self._recorder.record(
                tx,
                codes.VALIDATION_ASKED,
                "success",
                context,
                subject=Subject(id=environment, type="environment"),
                suite=suite,
            )
        return opens

    async def points(self, tx: Transaction, zone: str, environment: str) -> dict[str, Point]:
        """How each suite of an environment stands for the newest release, waivers among it. Raises ``not_found``."""
        found = await self._states.require(tx, zone, environment)
        suites = await self._books.read_all(tx, zone, VALIDATION_SUITE)
        return {name: await self._point(tx, zone, found, name, suites[name]) for name in found.spec.suites}

    async def standing(self, tx: Transaction, zone: str, environment: str) -> Standing:
        """Whether all suites of an environment are as they should be; NO_DATA where it has none."""
        points = list((await self.points(tx, zone, environment)).values())
        return Standing(
            worst(Verdict.PASS if each.passes else each.verdict for each in points),
            self._clock.now(),
            blockers=[each for each in points if not each.passes],
            figures={"suites": len(points), "green": sum(each.verdict.green for each in points)},
            waived=[each for each in points if each.passes and not each.verdict.green],
        )

    async def _point(
        self, tx: Transaction, zone: str, found: EnvironmentStanding, name: str, suite: ValidationSuite
    ) -> Point:
        life, now = found.life, self._clock.now()
        reports = await reports_of(tx, zone, found.name, life.number, name) if life is not None else []
        point = standing_of(suite, life, reports, now)
        if point.verdict in (Verdict.PASS, Verdict.NOT_DUE):
            return Point(name, point.verdict, point.told, record=point.record)
        waiver = await self._waivers.covering(tx, zone, CONTROL, f"{found.name}/{name}", now)
        return Point(name, point.verdict, point.told, waiver=waiver or "", record=point.record)

    # --- by the clock

    async def keep(self, zone: str, found: EnvironmentStanding) -> dict[str, int]:
        """Measure what is due or was asked for, and write down what was missed; how much of each."""
        told = {"measured": 0, "missed": 0}
        life = found.life
        if life is None:
            return told
        async with self._database.begin() as tx:
            suites = await self._books.read_all(tx, zone, VALIDATION_SUITE)
            asks = await tx.all(
                "SELECT suite, asked_by FROM validation_asks WHERE zone = :zone AND environment = :environment",
                zone=zone,
                environment=found.name,
            )
        asked = {row["suite"]: row["asked_by"] for row in asks}
        for name in found.spec.suites:
            async with self._database.begin() as tx:
                reports = await reports_of(tx, zone, found.name, life.number, name)
            if name in asked and self._clock.now() < window(suites[name], life).opens:
                # asked of an earlier release, before this one went live
                await self._forget_ask(zone, found.name, name)
                continue
            if name in asked or due(suites[name], life, reports, self._clock.now()):
                await self.run(Context(zone), found.name, name, asked_by=asked.get(name, ""))
                told["measured"] += 1
                continue
            if not reports and self._clock.now() >= window(suites[name], life).closes:
                now = self._clock.now()
                await self._keep(Context(zone), found, name, suites[name], life, now, Verdict.FAIL, (), "")
                told["missed"] += 1
        return told

    async def _forget_ask(self, zone: str, environment: str, suite: str) -> None:
        async with self._database.begin() as tx:
            await tx.run(
                "DELETE FROM validation_asks WHERE zone = :zone AND environment = :environment AND suite = :suite",
                zone=zone,
                environment=environment,
                suite=suite,
            )

    async def _tell(
        self, tx: Transaction, context: Context, found: EnvironmentStanding, name: str, suite: ValidationSuite,
        point: Point,
    ) -> None:  # fmt: skip
        key = f"validation/{found.name}/{name}"
        if point.verdict.green:
            await self._alerts.clear(tx, context, key)
            return
        await self._alerts.fire(
            tx,
            context,
            Raised(
                key=key,
                rule="ValidationNotGreen",
                severity=Severity.P2,
                summary=f"{suite.title} of {found.name}: {point.verdict}, {point.told}"[:500],
                owner=suite.owner,
                runbook=suite.runbook,
                labels={"environment": found.name, "suite": name, "verdict": str(point.verdict)},
            ),
        )
