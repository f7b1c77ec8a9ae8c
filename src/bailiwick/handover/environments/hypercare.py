"""Hypercare: slots from going live to 72 hours, each filled by measuring; a slot that nothing filled has failed.

A slot that could not be measured (ERROR, NO_DATA) is tried again while it lasts; what was found stands. A P0 or P1
makes hypercare last longer, also once it is closed. A slot that is red keeps hypercare from ending unless a dated
waiver of ``hypercare-slot`` for ``environment/instant`` is in force.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
from bailiwick.handover.environments.spec import HYPERCARE_PLAN, HypercarePlan
from bailiwick.handover.environments.states import EnvironmentStates
from bailiwick.handover.environments.states import Standing as EnvironmentStanding
from bailiwick.handover.ports import OpenIncidents, Point, Standing
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.severity import Severity
from bailiwick.kernel.verdicts import Verdict, worst

CONTROL = "hypercare-slot"
GRAVE = (Severity.P0, Severity.P1)
_MOST_SHOWN = 50


@dataclass(frozen=True, slots=True)
class Filled:
    """What filled a slot, or, without results, that nothing did."""

    at: datetime
    attempt: int
    verdict: Verdict
    filled_at: datetime
    results: Sequence[Mapping[str, Any]]
    record: str

    @property
    def missed(self) -> bool:
        """Whether nothing was measured."""
        return not self.results

    @property
    def told(self) -> str:
        """One line for people."""
        if self.missed:
            return "nothing was measured in its time"
        red = [each for each in self.results if not each["outside"] and each["verdict"] != Verdict.PASS]
        return "; ".join(f"{each['name']}: {each['verdict']}, {each['detail']}" for each in red)[:300] or "all green"


@dataclass(frozen=True, slots=True)
class Grave:
    """A P0 or P1 that was open during hypercare."""

    incident: str
    severity: Severity
    opened_at: datetime


@dataclass(frozen=True, slots=True)
class Slot:
    """An instant at which somebody would look, how it stands, and the waiver that lets it pass."""

    at: datetime
    verdict: Verdict
    told: str
    attempt: int = 0
    record: str = ""
    waiver: str = ""

    @property
    def red(self) -> bool:
        """Whether its time came and it is not as it should be; one that is being measured is not red yet."""
        waits = self.verdict is Verdict.NO_DATA and not self.attempt
        return self.verdict not in (Verdict.PASS, Verdict.NOT_DUE) and not waits

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {
            "at": utc(self.at),
            "verdict": str(self.verdict),
            "told": self.told,
            "attempts": self.attempt,
            "record": self.record,
            "waiver": self.waiver,
        }


# ---------------------------------------------------------------------- rules


def ends_at(plan: HypercarePlan, begins: datetime, grave: Sequence[Grave]) -> datetime:
    """Until when it lasts at least, given what happened so far."""
    return max([begins + plan.lasts, *(each.opened_at + span(plan.calm) for each in grave)])


def instants(plan: HypercarePlan, begins: datetime, until: datetime) -> list[datetime]:
    """The instants of the slots, oldest first: by the bands, and in the cadence of the last one beyond them."""
    found: list[datetime] = []
    at = begins
    for band in plan.bands:
        while (following := at + span(band.every)) <= begins + span(band.until):
            found.append(following)
            at = following
    while at < until:  # the last one is at the end or after it, so that the end is seen
        at += span(plan.bands[-1].every)
        found.append(at)
    return found


def slots(plan: HypercarePlan, wanted: Sequence[datetime], filled: Sequence[Filled], now: datetime) -> list[Slot]:
    """How each slot stands: NOT_DUE before its time, NO_DATA while it lasts, FAIL once nothing filled it."""
    newest: dict[datetime, Filled] = {}
    for each in filled:
        if each.at <= each.filled_at <= each.at + span(plan.grace) or each.missed:
            newest[each.at] = each
    found = []
    for at in wanted:
        last = newest.get(at)
        if last is not None:
            found.append(Slot(at, last.verdict, last.told, last.attempt, last.record))
        elif now < at:
            found.append(Slot(at, Verdict.NOT_DUE, "its time has not come"))
        elif now <= at + span(plan.grace):
            found.append(Slot(at, Verdict.NO_DATA, "it is being measured"))
        else:
            found.append(Slot(at, Verdict.FAIL, "nothing was measured in its time"))
    return found


def may_fill(slot: Slot) -> bool:
    """Whether a slot that lasts is to be measured: once, and again where that could not be done."""
    return slot.verdict in (Verdict.NO_DATA, Verdict.ERROR)


def exit_of(
    found: Sequence[Slot], grave: Sequence[Grave], open_now: Sequence[str], until: datetime, now: datetime
) -> Standing:
    """Whether hypercare may end: every slot is PASS or waived, it lasted as long as it must, no P0 or P1 is open."""
    points = [Point(utc(each.at), each.verdict, each.told, each.waiver, each.record) for each in found]
    points += [Point(f"incident {each}", Verdict.FAIL, "a P0 or P1 is open") for each in open_now]
    verdict = worst(Verdict.PASS if each.passes else each.verdict for each in points)
    blockers = [each for each in points if not each.passes and each.verdict is not Verdict.NOT_DUE]
    if now < until and verdict is Verdict.PASS:
        verdict = Verdict.NOT_DUE
    if verdict is Verdict.NOT_DUE:
        blockers.append(Point("time", Verdict.NOT_DUE, f"it lasts until {utc(until)}"))
    return Standing(
        verdict,
        now,
        blockers=blockers[:_MOST_SHOWN],
        figures={
            "slots": len(found),
            "green": sum(each.verdict.green for each in found),
            "red": sum(each.red for each in found),
            "waived": sum(bool(each.waiver) for each in found),
            "grave_incidents": len(grave),
            "ends_at": utc(until),
        },
        waived=[each for each in points if each.passes and not each.verdict.green],
    )


# ---------------------------------------------------------------------- service


class Hypercare:
    """Fills the slots and tells how they stand."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        recorder: Recorder,
        books: Books,
        records: EvidenceRecords,
        states: EnvironmentStates,
        measurer: Measurer,
        alerts: Alerts,
        waivers: Waivers,
        incidents: OpenIncidents,
    ) -> None:
        self._database = database
        self._clock = clock
        self._recorder = recorder
        self._books = books
        self._records = records
        self._states = states
        self._measurer = measurer
        self._alerts = alerts
        self._waivers = waivers
        self._incidents = incidents

    async def standing(self, tx: Transaction, zone: str, name: str) -> Standing:
        """Whether it may end; NOT_DUE where nothing went live. Raises ``not_found``."""
        found = await self._states.require(tx, zone, name)
        if found.hypercare_from is None:
            waits = Point("going live", Verdict.NOT_DUE, "nothing went live yet")
            return Standing(Verdict.NOT_DUE, self._clock.now(), blockers=[waits])
        _, _, grave, until = await self._plan(tx, zone, found)
        seen = await self.slots(tx, zone, found)
        open_now = [
            each.id for each in await self._incidents.open(tx, zone) if each.severity in GRAVE
        ]  # fmt: skip
        return exit_of(seen, grave, open_now, until, self._clock.now())

    async def slots(self, tx: Transaction, zone: str, found: EnvironmentStanding) -> list[Slot]:
        """Every slot as it stands, those to come among it; none where nothing went live."""
        if found.hypercare_from is None:
            return []
        now = self._clock.now()
        plan, wanted, _, _ = await self._plan(tx, zone, found)
        seen = []
        for slot in slots(plan, wanted, await _filled(tx, zone, found.name), now):
            waiver = None
            if slot.verdict not in (Verdict.PASS, Verdict.NOT_DUE):
                waiver = await self._waivers.covering(tx, zone, CONTROL, f"{found.name}/{utc(slot.at)}", now)
            seen.append(replace(slot, waiver=waiver) if waiver is not None else slot)
        return seen

    async def _plan(
        self, tx: Transaction, zone: str, found: EnvironmentStanding
    ) -> tuple[HypercarePlan, list[datetime], list[Grave], datetime]:
        assert found.hypercare_from is not None
        plan = await self._books.read(tx, zone, HYPERCARE_PLAN, found.spec.hypercare)
        assert plan is not None, "the book's check holds that it is there"
        grave = await _grave(tx, zone, found.name)
        until = ends_at(plan, found.hypercare_from, grave)
        return plan, instants(plan, found.hypercare_from, until), grave, until

    # --- by the clock

    async def keep(self, zone: str, found: EnvironmentStanding) -> dict[str, int]:
        """Note what makes it last longer, fill the slot that lasts, write down those that were missed."""
        told = {"filled": 0, "missed": 0}
        if found.stage != "hypercare" or found.hypercare_from is None:
            return told
        context = Context(zone)
        async with self._database.begin() as tx:
            await self._note_grave(tx, context, found)
            plan, wanted, _, _ = await self._plan(tx, zone, found)
            filled = await _filled(tx, zone, found.name)
            thresholds = (await self._books.current(tx, zone)).of(THRESHOLD)
        now = self._clock.now()
        known = {each.at for each in filled}
        for slot in slots(plan, wanted, filled, now):
            lasts = slot.at <= now <= slot.at + span(plan.grace)
            if lasts and may_fill(slot):
                results = await self._measurer.measure(zone, found, plan.checks, thresholds)
                told["filled"] += await self._write(context, found, plan, slot.at, results)
            elif slot.verdict is Verdict.FAIL and slot.at not in known:
                told["missed"] += await self._write(context, found, plan, slot.at, ())
        return told

    async def _note_grave(self, tx: Transaction, context: Context, found: EnvironmentStanding) -> None:
        assert found.hypercare_from is not None
        # the closed ones too: who is quick closes one between two looks
        open_now = await self._incidents.open(tx, context.zone)
        since = await self._incidents.since(tx, context.zone, found.hypercare_from)
        for each in {each.id: each for each in (*open_now, *since)}.values():
            if each.severity not in GRAVE:
                continue
            _, _, _, before = await self._plan(tx, context.zone, found)
            if each.opened_at > before or await tx.value(
                "SELECT 1 FROM hypercare_incidents WHERE zone = :zone AND environment = :name AND incident = :id",
                zone=context.zone, name=found.name, id=each.id,
            ):  # fmt: skip
                continue
            await tx.run(
                "INSERT INTO hypercare_incidents (zone, environment, incident, severity, opened_at, seen_at)"
                " VALUES (:zone, :name, :id, :severity, :opened, :now)",
                zone=context.zone, name=found.name, id=each.id, severity=str(each.severity), opened=each.opened_at,
                now=self._clock.now(),
            )  # fmt: skip
            _, _, _, until = await self._plan(tx, context.zone, found)
            await self._recorder.record(
                tx,
                codes.HYPERCARE_EXTENDED,
                "success",
                context,
                subject=Subject(id=found.name, type="environment"),
                incident=each.id,
                severity=str(each.severity),
                until=utc(until),
            )

    async def _write(
        self, context: Context, found: EnvironmentStanding, plan: HypercarePlan, at: datetime,
        results: Sequence[Result],
    ) -> int:  # fmt: skip
        """One row: what was measured, or that nothing was; 0 where it was too late to count by then."""
        zone, name = context.zone, found.name
        verdict = overall(results) if results else Verdict.FAIL
        body = canonical_json([each.document() for each in results])
        async with self._database.begin() as tx:
            await tx.run(
                "SELECT pg_advisory_xact_lock(hashtext('bailiwick.hypercare'), hashtext(:key))", key=f"{zone}/{name}"
            )
            now = self._clock.now()
            before = [each for each in await _filled(tx, zone, name) if each.at == at]
            if before and not may_fill(Slot(at, before[-1].verdict, "")):
                return 0
            if results and now > at + span(plan.grace):
                return 0  # it took too long to count; that nothing did in time is written the next time
            attempt = len(before) + 1
            record = await self._records.probe(
                tx,
                context,
                f"hypercare.{name.lower()}",
                body.encode(),
                exit_code=verdict.exit_code,
                since=at,
                until=now,
                producer=producer_of("", "bailiwick hypercare"),
                inputs={"slot": utc(at), "attempt": attempt, "verdict": str(verdict), "missed": not results},
            )
            await tx.run(
                "INSERT INTO hypercare_slots (zone, environment, at, attempt, verdict, filled_at, results, record)"
                " VALUES (:zone, :name, :at, :attempt, :verdict, :now, :results, :record)",
                zone=zone, name=name, at=at, attempt=attempt, verdict=str(verdict), now=now, results=body,
                record=record.id,
            )  # fmt: skip
            made = (await _filled(tx, zone, name, at))[-1]
            await self._tell(tx, context, name, plan, made)
            await self._recorder.record(
                tx,
                codes.HYPERCARE_SLOT_FILLED,
                "success" if verdict.green else "failure",
                context,
                subject=Subject(id=name, type="environment"),
                slot=utc(at),
                attempt=attempt,
                verdict=str(verdict),
                record=record.id,
            )
        return 1

    async def _tell(self, tx: Transaction, context: Context, name: str, plan: HypercarePlan, made: Filled) -> None:
        key = f"hypercare/{name}"
        if made.verdict.green:
            await self._alerts.clear(tx, context, key)
            return
        await self._alerts.fire(
            tx,
            context,
            Raised(
                key=key,
                rule="HypercareNotGreen",
                severity=Severity.P2,
                summary=f"Hypercare of {name}, slot {utc(made.at)}: {made.verdict}, {made.told}"[:500],
                owner=plan.owner,
                runbook=plan.runbook,
                labels={"environment": name, "slot": utc(made.at), "verdict": str(made.verdict)},
            ),
        )


async def _filled(tx: Transaction, zone: str, name: str, at: datetime | None = None) -> list[Filled]:
    rows = await tx.all(
        "SELECT at, attempt, verdict, filled_at, results, record FROM hypercare_slots"
        " WHERE zone = :zone AND environment = :name AND (CAST(:at AS timestamptz) IS NULL OR at = :at)"
        " ORDER BY at, attempt",
        zone=zone,
        name=name,
        at=at,
    )
    return [
        Filled(**{**row, "verdict": Verdict(row["verdict"]), "results": json.loads(row["results"])}) for row in rows
    ]


async def _grave(tx: Transaction, zone: str, name: str) -> list[Grave]:
    rows = await tx.all(
        "SELECT incident, severity, opened_at FROM hypercare_incidents WHERE zone = :zone AND environment = :name"
        " ORDER BY opened_at",
        zone=zone,
        name=name,
    )
    return [Grave(row["incident"], Severity(row["severity"]), row["opened_at"]) for row in rows]
