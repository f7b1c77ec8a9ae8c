"""Readiness of environments: runs of their checklists, what people state and review, and how all of it stands now."""

from __future__ import annotations

import json
import re
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal

from bailiwick import __version__
from bailiwick.assurance.book import Book
from bailiwick.assurance.books import Books
from bailiwick.assurance.durations import span
from bailiwick.assurance.owners.speaking import speaks_for
from bailiwick.assurance.ports import Owners, Waivers
from bailiwick.assurance.probes.means import Means
from bailiwick.assurance.thresholds import THRESHOLD
from bailiwick.evidence import codes
from bailiwick.evidence.events import Actor, Context, Recorder, Subject
from bailiwick.evidence.evidence_records import EvidenceRecords, Producer, Value
from bailiwick.handover.ports import Standing
from bailiwick.handover.readiness import store
from bailiwick.handover.readiness.attachments import CHECKS, RECORDED_AS, find
from bailiwick.handover.readiness.checks import Unbound, bound, kind_of
from bailiwick.handover.readiness.documents import (
    OPTIONAL,
    READINESS_PROFILE,
    Item,
    Placed,
    ReadinessProfile,
    lines_of,
)
from bailiwick.handover.readiness.measuring import Measured, measure_all
from bailiwick.handover.readiness.rules import (
    Attested,
    Facts,
    Judged,
    Result,
    blockers,
    by_area,
    judge,
    score,
    standing,
)
from bailiwick.handover.readiness.store import Kept, ReadinessRun
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import BailiwickError, Conflict, Denied, InvalidRequest, NotFound
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.jobs import JobDefinition, make_due
from bailiwick.kernel.quorum import People
from bailiwick.kernel.verdicts import Verdict

NEVER = timedelta(days=100 * 366)
"""The schedule of what runs only when it is asked for."""
RELATED_FOR = timedelta(hours=24)
"""How long an account that another one made or raised counts as that other one's."""
_RUN_S = 360.0
TREND = 16


@dataclass(frozen=True, slots=True)
class Held:
    """What an environment is held to: its profile, all items of its checklists, and what it says for their probes."""

    environment: str
    profile: ReadinessProfile
    lines: Sequence[Placed]
    values: Mapping[str, Any]
    book: Book

    def line(self, item: str) -> Placed:
        """The item by its key. Raises ``no_readiness``."""
        found = next((line for line in self.lines if line.key == item), None)
        if found is None:
            raise NotFound(f"{self.environment} has no item {item}.", reason="no_readiness")
        return found


@dataclass(frozen=True, slots=True)
class View:
    """How an environment stands, whole."""

    held: Held
    now: datetime
    judged: Sequence[Judged]
    standing: Standing
    trend: Sequence[ReadinessRun]

    def document(self) -> dict[str, Any]:
        """The JSON form: why it is not ready first, then everything."""
        return {
            "environment": self.held.environment,
            "profile": self.held.profile.profile,
            "checklists": list(self.held.profile.checklists),
            "revision": self.held.book.revision,
            "at": self.now,
            "verdict": str(self.standing.verdict),
            "until": self.standing.until,
            "score": score(self.judged).document(),
            "blockers": [each.document() for each in blockers(self.judged)],
            "areas": [
                {"checklist": checklist, "area": area, **counted}
                for (checklist, area), counted in by_area(self.judged).items()
            ],
            "trend": [
                {"run": run.id, "at": run.finished_at, "verdict": str(run.verdict), **run.score}
                for run in reversed(self.trend)
            ],
            "items": [each.document() for each in self.judged],
        }


class ReadinessDesk:
    """Implements :class:`~bailiwick.handover.ports.Readiness`.

    ``defaults``: what the installation itself says for probes where an environment does not.
    """

    def __init__(
        self,
        database: Database,
        clock: Clock,
        ids: Ids,
        recorder: Recorder,
        books: Books,
        records: EvidenceRecords,
        waivers: Waivers,
        people: People,
        owners: Owners,
        means: Callable[[], Means],
        defaults: Mapping[str, Any],
    ) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._recorder = recorder
        self._books = books
        self._records = records
        self._waivers = waivers
        self._people = people
        self._owners = owners
        self._means = means
        self._defaults = defaults

    # --- how it stands

    async def environments(self, tx: Transaction, zone: str) -> dict[str, ReadinessProfile]:
        """Every environment that the book speaks of."""
        return (await self._books.current(tx, zone)).of(READINESS_PROFILE)

    async def standing(self, tx: Transaction, zone: str, environment: str) -> Standing:
        """See :class:`~bailiwick.handover.ports.Readiness`."""
        now = self._clock.now()
        try:
            held = await self.held(tx, zone, environment)
        except NotFound:
            return Standing(Verdict.NO_DATA, now)
        return standing(await self.judged(tx, zone, held, now), now)

    async def held(self, tx: Transaction, zone: str, environment: str) -> Held:
        """What an environment is held to by the book in force. Raises ``no_readiness``."""
        book = await self._books.current(tx, zone)
        profile = book.of(READINESS_PROFILE).get(environment)
        if profile is None:
            raise NotFound(f"The book has no ReadinessProfile {environment}.", reason="no_readiness")
        said = {name: value for name, value in profile.values.model_dump(mode="json").items() if value is not None}
        return Held(environment, profile, lines_of(book, profile), {**self._defaults, **said}, book)

    async def judged(
        self, tx: Transaction, zone: str, held: Held, at: datetime, results: Mapping[str, Result] | None = None
    ) -> list[Judged]:
        """Every item at ``at``; ``results``: what was found just now, beside what is known."""
        facts = Facts(
            {**await store.newest_results(tx, zone, held.environment, at), **(results or {})},
            await store.attestations(tx, zone, held.environment, at),
        )
        found = judge(held.lines, held.profile, held.values, facts, at)
        waivers: dict[str, str] = {}
        for each in found:
            if each.applies and each.placed.item.waivable and not each.verdict.green:
                waiver = await self._waivers.covering(tx, zone, each.placed.control, held.environment, at)
                if waiver is not None:
                    waivers[each.placed.key] = waiver
        return judge(held.lines, held.profile, held.values, replace(facts, waivers=waivers), at) if waivers else found

    async def view(self, tx: Transaction, zone: str, environment: str) -> View:
        """How it stands, and why it is not ready. Raises ``no_readiness``."""
        now = self._clock.now()
        held = await self.held(tx, zone, environment)
        judged = await self.judged(tx, zone, held, now)
        trend = await store.runs(tx, zone, environment, limit=TREND)
        return View(held, now, judged, standing(judged, now), trend)

    async def explain(self, tx: Transaction, zone: str, environment: str, item: str) -> dict[str, Any]:
        """Everything about one item: what is asked, what was found and stated, what to do. Raises ``no_readiness``."""
        held = await self.held(tx, zone, environment)
        line = held.line(item)
        now = self._clock.now()
        judged = next(each for each in await self.judged(tx, zone, held, now) if each.placed.key == item)
        stated = (await store.attestations(tx, zone, environment)).get(item, [])
        return {
            "environment": environment,
            **judged.document(),
            "asks": _asks(line.item, held.values),
            "life_s": int(line.item.lives.total_seconds()) if line.item.requires is None else None,
            "waivable": line.item.waivable,
            "control": line.control if line.item.waivable else "",
            "mend": line.item.mend,
            "found": [_found(each) for each in await store.history(tx, zone, environment, item)],
            "attestations": [each.document() for each in stated[:10]],
        }

    # --- running

    async def ask(self, tx: Transaction, context: Context, environment: str) -> datetime:
        """Have the work role run it now; the instant its run is due. Raises ``no_readiness``."""
        await self.held(tx, context.zone, environment)
        now = self._clock.now()
        await make_due(tx, job_name(context.zone, environment), now)
        await self.note_asked(tx, context, environment)
        return now

    async def note_asked(self, tx: Transaction, context: Context, environment: str) -> None:
        """Leave the event that somebody asked for a run."""
        await self._recorder.record(
            tx, codes.READINESS_ASKED, "success", context, subject=Subject(id=environment, type="environment")
        )

    async def run(self, context: Context, environment: str, asked_by: str = "") -> tuple[ReadinessRun, View]:
        """Look at everything at once and write down what was found. Raises ``no_readiness``."""
        zone = context.zone
        async with self._database.begin() as tx:
            held = await self.held(tx, zone, environment)
        applying = [line for line in held.lines if line.applies(held.profile.profile)]
        started = self._clock.now()
        measured = await measure_all(applying, held.values, held.book.of(THRESHOLD), self._means(), self._clock, zone)
        async with self._database.begin() as tx:
            results = {
                line.key: await self._keep(tx, context, held, line, measured[line.key], asked_by)
                for line in applying
                if line.key in measured
            }
            now = self._clock.now()
            judged = await self.judged(tx, zone, held, now, results)
            run = await self._written(tx, context, held, judged, results, started, now, asked_by)
            for each in judged:
                if each.waiver:
                    await self._waivers.used(tx, context, each.waiver, f"readiness/{environment}")
            trend = await store.runs(tx, zone, environment, limit=TREND)
        return run, View(held, now, judged, standing(judged, now), trend)

    async def _keep(
        self, tx: Transaction, context: Context, held: Held, line: Placed, found: Measured, asked_by: str
    ) -> Result:
        """Record what was found of an item as evidence."""
        reading, expires = found.reading, found.finished_at + line.item.lives
        inputs: dict[str, Value] = {
            "environment": held.environment,
            "verdict": str(reading.verdict),
            "detail": reading.detail[:500],
        }
        if reading.value is not None:
            inputs["value"] = f"{reading.value:.12g}"
        if reading.threshold is not None:
            limit = reading.threshold
            inputs["threshold"] = f"{limit.comparison} {limit.value:.12g} {limit.unit}".strip()
        record = await self._records.probe(
            tx,
            context,
            check_name(held.environment, line.key),
            reading.output or reading.detail.encode(),
            exit_code=reading.verdict.exit_code,
            since=found.started_at,
            until=found.finished_at,
            producer=_producer(asked_by),
            command=reading.command,
            inputs=inputs,
            expires_at=expires,
            output_size=reading.output_size,
        )
        took = int((found.finished_at - found.started_at).total_seconds() * 1000)
        return Result(
            reading.verdict, found.finished_at, expires, reading.detail, reading.value, str(reading.unit), took,
            line.digest(held.values), record.id,
        )  # fmt: skip

    async def _written(
        self,
        tx: Transaction,
        context: Context,
        held: Held,
        judged: Sequence[Judged],
        results: Mapping[str, Result],
        started: datetime,
        now: datetime,
        asked_by: str,
    ) -> ReadinessRun:
        amounts = standing(judged, now)
        counted = score(judged).document()
        told = {"environment": held.environment, "score": counted, "items": [each.document() for each in judged]}
        record = await self._records.probe(
            tx,
            context,
            check_name(held.environment, "all"),
            json.dumps(told, default=str, ensure_ascii=False, indent=1).encode(),
            exit_code=amounts.verdict.exit_code,
            since=started,
            until=now,
            producer=_producer(asked_by),
            inputs={"environment": held.environment, "profile": held.profile.profile, "revision": held.book.revision},
        )
        run = ReadinessRun(
            self._ids(), held.environment, held.profile.profile, held.book.revision, asked_by, started, now,
            amounts.verdict, counted, record.id,
        )  # fmt: skip
        await store.add_run(
            tx, context.zone, run, [_kept(each, held, results.get(each.placed.key), now) for each in judged]
        )
        await self._recorder.record(
            tx,
            codes.READINESS_RUN,
            "success" if amounts.verdict.green else "failure",
            context,
            subject=Subject(id=held.environment, type="environment"),
            run=run.id,
            verdict=str(amounts.verdict),
            percent=counted["percent"],
            open_must=counted["open_must"],
            record=record.id,
        )
        return run

    def scheduled(self, zone: str, book: Book) -> list[JobDefinition]:
        """The jobs that the environments of a book ask for."""
        return [
            JobDefinition(
                job_name(zone, name),
                span(profile.every) if profile.every is not None else NEVER,
                self._due(zone, name),
                grace=timedelta(minutes=10),
                timeout_s=_RUN_S,
                since=book.documents[READINESS_PROFILE.name, name].applied_at,
            )
            for name, profile in book.of(READINESS_PROFILE).items()
        ]

    def _due(self, zone: str, environment: str) -> Callable[[datetime], Any]:
        async def run(due: datetime) -> dict[str, Any]:
            made, _ = await self.run(Context(zone, Actor(user="system:readiness")), environment)
            return {"run": made.id, "verdict": str(made.verdict), **made.score}

        return run

    # --- what people state

    async def attest(
        self, context: Context, environment: str, item: str, statement: str, attachment: str = "", sha256: str = ""
    ) -> Attested:
        """Write down what ``context.actor`` states of an item; it counts once another person agreed.

        ``sha256``: the hash of the document that goes with it, which is kept already; ``attachment`` is what it is
        called. Raises ``no_readiness``,
        ``not_attested``, ``attachment_missing``, ``person_needed``, ``attestation_role``.
        """
        zone, author = context.zone, context.actor.user
        if not statement.strip():
            raise InvalidRequest("An attestation states something.")
        async with self._database.begin() as tx:
            held = await self.held(tx, zone, environment)
            line = held.line(item)
            asked = line.item.attest
            if asked is None:
                raise Conflict(reason="not_attested")
            if (asked.attachment and not sha256) or (sha256 and await find(tx, zone, sha256) is None):
                raise BailiwickError(reason="attachment_missing")
            await self._living(tx, zone, author)
            now = self._clock.now()
            if not await speaks_for(tx, self._owners, held.book, author, line.owner, now):
                raise Denied(f"{line.key} is {line.owner}'s to state.", reason="attestation_role", role=line.owner)
            expires = now + line.item.lives
            record = await self._records.attest(
                tx,
                context,
                check_name(environment, item),
                statement,
                producer=_producer(author),
                since=now,
                until=now,
                inputs={
                    "environment": environment,
                    "states": asked.states,
                    "role": line.owner,
                    "attachment": attachment,
                    RECORDED_AS: sha256,
                },
                expires_at=expires,
            )
            made = Attested(
                self._ids(), item, statement, author, now, expires, attachment, sha256, line.digest(held.values),
                record.id,
            )  # fmt: skip
            await store.add_attestation(tx, zone, environment, made)
            await self._recorder.record(
                tx,
                codes.READINESS_ATTESTED,
                "success",
                context,
                subject=Subject(id=environment, type="environment"),
                item=item,
                attestation=made.id,
                attachment_sha256=sha256,
                record=record.id,
            )
        return made

    async def review(
        self, context: Context, environment: str, identifier: str, outcome: Literal["accepted", "refused"], note: str
    ) -> Attested:
        """Say whether what somebody else states is so. Raises ``no_readiness``, ``own_attestation``,
        ``already_reviewed``, ``person_needed``."""
        zone, reviewer = context.zone, context.actor.user
        if outcome == "refused" and not note.strip():
            raise InvalidRequest("Whoever refuses says why.")
        async with self._database.begin() as tx:
            made = await store.attestation(tx, zone, environment, identifier)
            if made is None:
                raise NotFound(f"{environment} has no attestation by that id.", reason="no_readiness")
            await self._living(tx, zone, reviewer)
            now = self._clock.now()
            same = await self._people.related(tx, zone, reviewer, [made.author], now - RELATED_FOR)
            if reviewer == made.author or made.author in same:
                raise Denied(reason="own_attestation")
            record = await self._records.attest(
                tx,
                context,
                check_name(environment, made.item),
                f"{outcome} what {made.author} states: {made.statement}\n{note}",
                producer=_producer(reviewer),
                since=now,
                until=now,
                inputs={"environment": environment, "attestation": made.record, "outcome": outcome},
            )
            if not await store.add_review(tx, made.id, outcome, reviewer, note, now, record.id):
                raise Conflict(reason="already_reviewed")
            await self._recorder.record(
                tx,
                codes.READINESS_REVIEWED,
                "success",
                context,
                subject=Subject(id=environment, type="environment"),
                item=made.item,
                attestation=made.id,
                outcome=outcome,
                author=made.author,
                record=record.id,
            )
            found = await store.attestation(tx, zone, environment, identifier)
            assert found is not None
        return found

    async def _living(self, tx: Transaction, zone: str, name: str) -> None:
        """Refuse whoever is no person with an active account."""
        account = await self._people.standing(tx, zone, name)
        if account is None or not account.is_active:
            raise Denied(reason="person_needed")


def job_name(zone: str, environment: str) -> str:
    """What the job of an environment is called."""
    return f"readiness:{environment}@{zone}"


def check_name(environment: str, item: str) -> str:
    """What evidence records call an item."""
    return re.sub(r"[^a-z0-9._/-]", "-", f"{CHECKS}{environment.lower()}/{item}")[:128]


def _producer(name: str) -> Producer:
    return Producer(
        host=socket.gethostname(), name=name or "schedule", program="bailiwick readiness", version=__version__
    )


def _kept(judged: Judged, held: Held, result: Result | None, now: datetime) -> Kept:
    digest = judged.placed.digest(held.values)
    if result is None:
        return Kept(
            judged.placed.key, digest, False, judged.verdict, judged.told, now, judged.until, waiver=judged.waiver,
            record=judged.record,
        )  # fmt: skip
    return Kept(
        judged.placed.key, digest, True, result.verdict, result.detail, result.at, result.expires_at, result.value,
        result.unit, judged.waiver, result.took_ms, result.record,
    )  # fmt: skip


def _asks(item: Item, values: Mapping[str, Any]) -> dict[str, Any]:
    if item.attest is not None:
        return {"states": item.attest.states, "attachment": item.attest.attachment}
    if item.requires is not None:
        return {"requires": item.requires}
    assert item.probe is not None
    told: dict[str, Any] = {"probe": kind_of(item.probe.check), **item.probe.model_dump(mode="json", exclude_none=True)}
    try:
        told["check"] = bound(item.probe.check, dict(values), OPTIONAL)
    except Unbound as error:
        told["missing"] = error.names
    return told


def _found(result: Result) -> dict[str, Any]:
    return {name: getattr(result, name) for name in Result.__slots__ if name != "sha256"}
