"""Runbooks, executed: each step is done or measured here, or a person attests it; in order, and written down.

A run is of an incident, or *dry*: then actions are only previewed and nothing is measured that takes an incident, and
the run says so. Runs are what counts as practised.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bailiwick import __version__
from bailiwick.assurance.books import Books
from bailiwick.evidence import codes
from bailiwick.evidence.codes import EventType
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.evidence.evidence_records import EvidenceRecords, Producer
from bailiwick.handover.incidents.containment import ACTIONS
from bailiwick.handover.incidents.documents import RUNBOOK, Step
from bailiwick.handover.incidents.records import Incident, add_line, find
from bailiwick.handover.incidents.recovery import Recovery, overall, unmet_exits
from bailiwick.handover.incidents.service import Incidents
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import Conflict, Denied, InvalidRequest, NotFound
from bailiwick.kernel.http import Caller
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.permissions import Permission
from bailiwick.kernel.verdicts import Verdict

_LOOKING = ("diagnose",)
"""Phases in which what is found need not be green."""


@dataclass(frozen=True, slots=True)
class Given:
    """What a person gives to a step: the arguments and the digest of a previewed action, or what he attests."""

    arguments: Mapping[str, str]
    why: str = ""
    sha256: str = ""
    statement: str = ""


@dataclass(frozen=True, slots=True)
class Result:
    """What a step came to. ``done``: the next one may begin."""

    done: bool
    verdict: Verdict
    told: str
    record: str = ""


@dataclass(frozen=True, slots=True)
class Run:
    """One execution. ``results``: of the steps that are done, by their place."""

    id: str
    zone: str
    runbook: str
    version: int
    incident: str | None
    dry: bool
    started_by: str
    started_at: datetime
    steps: Sequence[Step]
    ended_at: datetime | None
    outcome: str | None
    results: Mapping[int, Mapping[str, Any]]

    @property
    def next(self) -> int | None:
        """The place of the step that comes next; None where all are done."""
        return next((number for number in range(1, len(self.steps) + 1) if number not in self.results), None)

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        told = {name: getattr(self, name) for name in self.__slots__ if name not in ("steps", "results", "zone")}
        steps = [
            {"number": number, **step.model_dump(exclude_defaults=True), "result": self.results.get(number)}
            for number, step in enumerate(self.steps, start=1)
        ]
        return {**told, "next": self.next, "steps": steps}


class Runbooks:
    """Executes runbooks."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        ids: Ids,
        recorder: Recorder,
        books: Books,
        records: EvidenceRecords,
        incidents: Incidents,
        recovery: Recovery,
    ) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._recorder = recorder
        self._books = books
        self._records = records
        self._incidents = incidents
        self._recovery = recovery

    async def start(self, context: Context, name: str, incident: str | None, *, dry: bool) -> Run:
        """Begin a run, of an incident or dry. Raises ``not_found``, ``invalid_request``, ``incident_closed``."""
        if dry is (incident is not None):
            raise InvalidRequest("A run is of an incident, or dry.")
        async with self._database.begin() as tx:
            book = await self._books.current(tx, context.zone)
            document = book.documents.get((RUNBOOK.name, name))
            if document is None:
                raise NotFound(f"There is no Runbook {name}.")
            found: Incident | None = None
            if incident is not None:
                found = await find(tx, context.zone, incident)
                if found.state == "closed":
                    raise Conflict(reason="incident_closed")
            steps = [step.model_dump() for step in RUNBOOK.read(document.spec).steps]
            identifier = self._ids()
            await tx.run(
                "INSERT INTO runbook_runs (id, zone, runbook, version, incident, dry, started_by, started_at, steps)"
                " VALUES (:id, :zone, :runbook, :version, :incident, :dry, :by, :now, cast(:steps AS jsonb))",
                id=identifier,
                zone=context.zone,
                runbook=name,
                version=document.version,
                incident=found.id if found else None,
                dry=dry,
                by=context.actor.user,
                now=self._clock.now(),
                steps=json.dumps(steps),
            )
            run = await self.get(tx, context.zone, identifier)
            await self._note(tx, codes.RUNBOOK_STARTED, context, run, f"runbook {name} begun")
        return run

    async def get(self, tx: Transaction, zone: str, identifier: str, *, lock: bool = False) -> Run:
        """One run. Raises :class:`NotFound`."""
        row = await tx.one(
            f"SELECT * FROM runbook_runs WHERE zone = :zone AND id = :id {'FOR UPDATE' if lock else ''}",  # noqa: S608
            zone=zone,
            id=identifier,
        )
        if row is None:
            raise NotFound("There is no run by that id.")
        return await _run(tx, row)

    async def list(self, tx: Transaction, zone: str) -> list[dict[str, Any]]:
        """Every runbook of the book, with how often and when it was last executed to its end, dry or not."""
        rows = await tx.all(
            "SELECT runbook, dry, count(*) AS runs, max(ended_at) AS last FROM runbook_runs WHERE zone = :zone"
            " AND outcome = 'done' GROUP BY runbook, dry",
            zone=zone,
        )
        done = {(row["runbook"], row["dry"]): row for row in rows}
        told = []
        for name, book in (await self._books.read_all(tx, zone, RUNBOOK)).items():
            real, dry = done.get((name, False)), done.get((name, True))
            told.append(
                {
                    "name": name,
                    "title": book.title,
                    "alerts": book.alerts,
                    "steps": len(book.steps),
                    "runs": real["runs"] if real else 0,
                    "dry_runs": dry["runs"] if dry else 0,
                    "last_executed": max((each["last"] for each in (real, dry) if each), default=None),
                }
            )
        return told

    async def abandon(self, context: Context, identifier: str) -> Run:
        """End a run before its end."""
        async with self._database.begin() as tx:
            run = await self._going(tx, context, identifier)
            return await self._end(tx, context, run, "abandoned")

    async def step(
        self, context: Context, caller: Caller, identifier: str, number: int, given: Given
    ) -> tuple[Run, Result]:
        """Do the next step; of what is measured and not as it should be nothing is written, and it is done again.

        Raises ``runbook_order`` for another step than the next, ``approval_changed``, and what its action refuses.
        """
        async with self._database.begin() as tx:
            run = await self._going(tx, context, identifier)
        if run.next != number:
            raise Conflict(reason="runbook_order", next=run.next)
        step = run.steps[number - 1]
        result = await self._do(context, caller, run, step, given)
        if not result.done:
            return run, result
        async with self._database.begin() as tx:
            run = await self._going(tx, context, identifier)
            if number in run.results:  # somebody else did it at this moment
                raise Conflict(reason="runbook_order", next=run.next)
            record = result.record
            if step.attest:
                record = await self._attest(tx, context, run, step, given.statement)
            await tx.run(
                "INSERT INTO runbook_steps (run, number, verdict, at, by, told, record)"
                " VALUES (:run, :number, :verdict, :now, :by, :told, :record)",
                run=run.id,
                number=number,
                verdict=result.verdict.value,
                now=self._clock.now(),
                by=context.actor.user,
                told=result.told[:4000],
                record=record,
            )
            run = await self.get(tx, context.zone, identifier)
            told = f"{step.phase}/{step.name}"
            await self._note(
                tx, codes.RUNBOOK_STEP_DONE, context, run, f"{run.runbook} {told}: {result.verdict} {result.told}",
                step=told, verdict=result.verdict.value,
            )  # fmt: skip
            if run.next is None:
                run = await self._end(tx, context, run, "done")
        return run, result

    # --- what a step does

    async def _do(self, context: Context, caller: Caller, run: Run, step: Step, given: Given) -> Result:
        if step.action is not None:
            return await self._act(context, caller, run, step, given)
        if step.probe is not None:
            return await self._probe(run, step)
        if step.measure is not None:
            return await self._measure(context, run, step)
        if not given.statement.strip():
            raise InvalidRequest(f"State it: {step.attest}")
        return Result(True, Verdict.PASS, given.statement)

    async def _act(self, context: Context, caller: Caller, run: Run, step: Step, given: Given) -> Result:
        assert step.action is not None
        arguments = {**step.arguments, **given.arguments}
        if run.dry or run.incident is None:
            if set(ACTIONS[step.action].asked) - set(arguments):
                return Result(True, Verdict.NOT_DUE, f"dry: {step.action} would ask for {ACTIONS[step.action].asked}")
            seen = await self._incidents.preview(context, "", step.action, arguments)
            return Result(True, Verdict.NOT_DUE, f"dry: would hit {len(seen.hits)}: {'; '.join(seen.hits)}")
        if not caller.may(Permission.OVERRIDES_BREAK_GLASS):
            needed = Permission.OVERRIDES_BREAK_GLASS
            raise Denied(f"This needs the permission {needed}.", permission=str(needed))
        if not given.sha256 or not given.why:
            raise InvalidRequest("An action takes the sha256 of its preview, and why.")
        _, done = await self._incidents.contain(
            context, caller, run.incident, step.action, arguments, why=given.why, sha256=given.sha256
        )
        return Result(True, Verdict.PASS, f"{done['preview']['title']}: override {done['override']['id']}")

    async def _probe(self, run: Run, step: Step) -> Result:
        assert step.probe is not None
        async with self._database.begin() as tx:
            if run.incident is not None:
                incident = await find(tx, run.zone, run.incident)
                verdict, told = await self._recovery.probe(tx, incident, step.probe)
            else:
                verdict, told = await self._recovery.newest(tx, run.zone, step.probe, run.started_at)
        return Result(run.dry or verdict.green or step.phase in _LOOKING, verdict, told)

    async def _measure(self, context: Context, run: Run, step: Step) -> Result:
        if run.dry or run.incident is None:
            return Result(True, Verdict.NOT_DUE, f"dry: {step.measure} is of an incident")
        if step.measure == "preserved":
            incident = await self._incidents.preserve(context, run.incident)
            if incident.preserved_at is None:
                return Result(False, Verdict.NOT_DUE, f"evidence pack {incident.pack} is being built")
            return Result(True, Verdict.PASS, f"evidence pack {incident.pack}")
        if step.measure == "recovery":
            async with self._database.begin() as tx:
                incident = await find(tx, run.zone, run.incident)
            if not incident.ongoing:
                return Result(True, Verdict.PASS, f"recovered at {incident.recovered_at}")
            incident, conditions = await self._incidents.judge(context, run.incident)
            verdict = overall(conditions)
            told = "; ".join(f"{each.name} {each.verdict}: {', '.join(each.told)}" for each in conditions)
            return Result(verdict.green, verdict, told)
        async with self._database.begin() as tx:
            incident = await find(tx, run.zone, run.incident)
            unmet = [each for each in await unmet_exits(tx, incident) if not each.startswith("not recovered")]
        if step.measure == "exits":
            return Result(not unmet, Verdict.FAIL if unmet else Verdict.PASS, "; ".join(unmet) or "all are met")
        reviewed = incident.reviewed_at is not None
        return Result(reviewed, Verdict.PASS if reviewed else Verdict.NOT_DUE, f"state {incident.state}")

    async def _attest(self, tx: Transaction, context: Context, run: Run, step: Step, statement: str) -> str:
        now = self._clock.now()
        stored = await self._records.attest(
            tx,
            context,
            f"runbook/{run.runbook}/{step.name}".lower(),
            statement,
            producer=Producer(name=context.actor.user, program="bailiwick", version=__version__),
            since=min(run.started_at, now),
            until=now,
            inputs={"run": run.id, "dry": run.dry},
        )
        return stored.id

    # --- inside

    async def _going(self, tx: Transaction, context: Context, identifier: str) -> Run:
        run = await self.get(tx, context.zone, identifier, lock=True)
        if run.outcome is not None:
            raise Conflict(f"The run is {run.outcome}.")
        return run

    async def _end(self, tx: Transaction, context: Context, run: Run, outcome: str) -> Run:
        await tx.run(
            "UPDATE runbook_runs SET ended_at = :now, outcome = :outcome WHERE id = :id",
            now=self._clock.now(),
            outcome=outcome,
            id=run.id,
        )
        await self._note(tx, codes.RUNBOOK_ENDED, context, run, f"runbook {run.runbook} is {outcome}", outcome=outcome)
        return await self.get(tx, context.zone, run.id)

    async def _note(
        self, tx: Transaction, kind: EventType, context: Context, run: Run, told: str, **details: Any
    ) -> None:
        now = self._clock.now()
        if run.incident is not None:
            await add_line(tx, run.incident, "runbook", told, at=now, now=now, by=context.actor.user)
        await self._recorder.record(
            tx,
            kind,
            "success",
            context,
            subject=Subject(id=run.id, type="runbook-run"),
            runbook=run.runbook,
            incident=run.incident or "",
            dry=run.dry,
            **details,
        )


async def _run(tx: Transaction, row: Row) -> Run:
    results = await tx.all(
        "SELECT number, verdict, at, by, told, record FROM runbook_steps WHERE run = :run ORDER BY number",
        run=row["id"],
    )
    told = {name: row[name] for name in Run.__slots__ if name not in ("steps", "results")}
    return Run(
        **told,
        steps=[Step.model_validate(each) for each in row["steps"]],
        results={each["number"]: {name: value for name, value in each.items() if name != "number"} for each in results},
    )
