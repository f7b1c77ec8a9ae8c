"""The service levels of a zone: counted minute by minute, judged, alerted on, and asked by gates."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import structlog

from bailiwick.assurance.book import Book, canonical
from bailiwick.assurance.books import Books
from bailiwick.assurance.figures import NoFigure
from bailiwick.assurance.ports import Alerts, GateAnswer, Raised, Waivers
from bailiwick.assurance.slo import buckets
from bailiwick.assurance.slo.budgets import BURN_RULES, REASONS_TOLD, BurnRule, Evaluation, Tally, Terms, evaluate
from bailiwick.assurance.slo.openslo import DATA_SOURCE, SLO, DataSourceSpec, SloSpec, burns_of
from bailiwick.assurance.slo.sources import Sources, of_snapshots
from bailiwick.assurance.slo.windows import DAY, MINUTE, fixed, floor_minute
from bailiwick.evidence import codes
from bailiwick.evidence.events import Actor, Context, Recorder, Subject
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import NotFound
from bailiwick.kernel.metrics import Metrics
from bailiwick.kernel.severity import Severity
from bailiwick.kernel.verdicts import Verdict, worst

LOOK_BACK, AGAIN_EVERY = timedelta(minutes=15), 5
"""How far back is counted again every so many minutes, for events that came late; once a day it is two days."""
RECOUNT = 2 * DAY
PORTION = timedelta(hours=6)
WAIVED_CONTROL = "slo-budget"
"""The control whose waiver, for a service, lets a change pass its exhausted budget."""
EXEMPT = frozenset({"security", "sev1"})
"""The classes of change that an exhausted budget does not stop."""
NOBODY = "bailiwick"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Level:
    """One service level as it is in force. ``definition`` is the digest of what is counted: another definition begins
    with an empty history, since its numbers mean something else."""

    name: str
    spec: SloSpec

    @property
    def definition(self) -> str:
        """See the class."""
        counted = self.spec.indicator.spec.model_dump(mode="json")
        bound = [self.spec.objective.op, self.spec.objective.value]
        return hashlib.sha256(canonical([counted, bound])).hexdigest()

    @property
    def terms(self) -> Terms:
        """What is promised."""
        ours = self.spec.ours
        rules = tuple(BurnRule(*each) for each in burns_of(self.spec)) or BURN_RULES
        return Terms(
            self.spec.objective.share, fixed(ours.stale_after), ours.least_events, ours.least_burn_events, rules
        )

    @property
    def slices(self) -> dict[str, Any]:
        """How its buckets are summed."""
        objective = self.spec.objective
        if objective.slice_window is None:
            return {}
        minutes = int(fixed(objective.slice_window).total_seconds() // 60)
        return {"slice_minutes": minutes, "slice_target": objective.slice_target}

    def document(self) -> dict[str, Any]:
        """What is promised, as JSON."""
        return {
            "name": self.name,
            "service": self.spec.service,
            "description": self.spec.description,
            "owner": self.spec.ours.owner,
            "window": self.spec.windows[0].duration,
            "method": self.spec.method,
            "definition": self.definition,
        }


def levels_of(book: Book) -> list[Level]:
    """The service levels of a book, by name."""
    return [Level(name, spec) for name, spec in book.of(SLO).items()]


async def judge(
    tx: Transaction, zone: str, level: Level, now: datetime, *, upto: int | None = None, until: datetime | None = None
) -> Evaluation:
    """The state of a level at ``now``, of the entries up to number ``upto``. ``until``: as if nothing was measured from
    then on."""
    bounds = {} if upto is None else {"upto": upto}
    terms = level.terms
    at = await buckets.measured_until(tx, zone, level.name, level.definition, until=until, **bounds)
    if at is None:
        return evaluate(terms, now, None, Tally(now), {})
    try:
        begin = level.spec.window.begin(at)
    except ValueError:  # a calendar that has not begun
        return evaluate(terms, now, None, Tally(now), {})
    lengths = sorted({length for rule in terms.rules for length in (rule.long, rule.short)})
    begins = [begin, *(at - length for length in lengths)]
    window, *rest = await buckets.tallies(tx, zone, level.name, level.definition, begins, at, **level.slices, **bounds)
    return evaluate(terms, now, at, window, dict(zip(lengths, rest, strict=True)))


class Levels:
    """Keeps the service levels of all zones."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        recorder: Recorder,
        books: Books,
        sources: Sources,
        alerts: Alerts,
        waivers: Waivers,
        metrics: Metrics,
    ) -> None:
        self._database = database
        self._clock = clock
        self._recorder = recorder
        self._books = books
        self._sources = sources
        self._alerts = alerts
        self._waivers = waivers
        self._metrics = metrics

    # --- reading

    async def all(self, tx: Transaction, zone: str) -> list[tuple[Level, Evaluation]]:
        """Every level with its state."""
        now = self._clock.now()
        levels = levels_of(await self._books.current(tx, zone))
        return [(level, await judge(tx, zone, level, now)) for level in levels]

    async def one(self, tx: Transaction, zone: str, name: str) -> tuple[Level, Evaluation]:
        """One level with its state; raises :class:`NotFound`."""
        for level in levels_of(await self._books.current(tx, zone)):
            if level.name == name:
                return level, await judge(tx, zone, level, self._clock.now())
        raise NotFound("There is no service level by that name.")

    async def history(
        self, tx: Transaction, zone: str, level: Level, length: timedelta, steps: int
    ) -> list[tuple[datetime, int, int]]:
        """Good and total of the last ``length`` in at most ``steps`` steps."""
        until = floor_minute(self._clock.now())
        step = max(MINUTE, floor_step(length / steps))
        return await buckets.series(tx, zone, level.name, level.definition, until - length, until, step)

    async def troubles(self, tx: Transaction, zone: str) -> dict[str, str]:
        """Why levels are not counted, by name, of those that are not."""
        rows = await tx.all("SELECT slo, error FROM slo_states WHERE zone = :zone AND error <> ''", zone=zone)
        return {row["slo"]: row["error"] for row in rows}

    # --- counting

    async def run(self, zone: str) -> dict[str, Any]:
        """Count what happened since the last time, and raise or clear the alerts: the job of every minute."""
        async with self._database.begin() as tx:
            book = await self._books.current(tx, zone)
        data = book.of(DATA_SOURCE)
        entered, failed = 0, []
        for level in levels_of(book):
            try:
                entered += await self._count(zone, level, data)
            except NoFigure as error:
                failed.append(level.name)
                await self._failed(zone, level, str(error))
        firing = await self.alert(zone, book)
        return {"levels": len(book.of(SLO)), "entered": entered, "failed": failed, "firing": firing}

    async def recount(
        self, context: Context, *, back: timedelta = RECOUNT, until: datetime | None = None
    ) -> dict[str, int]:
        """Count again what can be counted again; entries made, by level. Leaves an event."""
        zone = context.zone
        async with self._database.begin() as tx:
            book = await self._books.current(tx, zone)
        data, found = book.of(DATA_SOURCE), {}
        for level in levels_of(book):
            if not self._sources.replayable(level.spec):
                continue
            async with self._database.begin() as tx:
                end = await buckets.measured_until(tx, zone, level.name, level.definition, until=until)
                first = await tx.value(
                    "SELECT min(minute) FROM sli_buckets WHERE zone = :zone AND slo = :slo"
                    " AND definition = :definition",
                    zone=zone,
                    slo=level.name,
                    definition=level.definition,
                )
            if end is None:
                continue
            try:
                found[level.name] = await self._enter(zone, level, data, max(first, end - back), end)
            except NoFigure as error:
                await self._failed(zone, level, str(error))
        async with self._database.begin() as tx:
            await self._recorder.record(
                tx,
                codes.SLO_RECOUNTED,
                "success",
                context,
                subject=Subject(id=zone, type="slo"),
                levels=len(found),
                entries=sum(found.values()),
            )
        return found

    async def _count(self, zone: str, level: Level, data: Mapping[str, DataSourceSpec]) -> int:
        if not self._sources.replayable(level.spec):
            return await self._snapshot(zone, level)
        until = floor_minute(self._clock.now() - fixed(level.spec.ours.settle))
        async with self._database.begin() as tx:
            row = await tx.one(
                "SELECT counted_until FROM slo_states WHERE zone = :zone AND slo = :slo AND definition = :definition",
                zone=zone,
                slo=level.name,
                definition=level.definition,
            )
        if row is None:  # it begins at once, with what can be counted already
            await self._stands(zone, level, until)
            return 0
        since = row["counted_until"]
        late = until.minute % AGAIN_EVERY == 0
        entered = await self._again(zone, level, data, since) if late else 0
        while since < until:
            end = min(until, since + PORTION)
            entered += await self._enter(zone, level, data, since, end)
            await self._stands(zone, level, end)
            since = end
        return entered

    async def _again(self, zone: str, level: Level, data: Mapping[str, DataSourceSpec], until: datetime) -> int:
        """Count the minutes before ``until`` again, as far as they were counted before."""
        async with self._database.begin() as tx:
            first = await tx.value(
                "SELECT min(minute) FROM sli_buckets WHERE zone = :zone AND slo = :slo AND definition = :definition"
                " AND minute >= :since",
                zone=zone,
                slo=level.name,
                definition=level.definition,
                since=until - LOOK_BACK,
            )
        return 0 if first is None else await self._enter(zone, level, data, first, until)

    async def _enter(
        self, zone: str, level: Level, data: Mapping[str, DataSourceSpec], since: datetime, until: datetime
    ) -> int:
        entered = 0
        while since < until:
            end = min(until, since + PORTION)
            counts = await self._sources.count(zone, level.spec, data, since, end)
            async with self._database.begin() as tx:
                entered += await buckets.enter(tx, zone, level.name, level.definition, counts, self._clock.now())
            since = end
        return entered

    async def _snapshot(self, zone: str, level: Level) -> int:
        minute = floor_minute(self._clock.now())
        part, total = self._sources.snapshot(level.spec)
        keys = {"zone": zone, "slo": level.name, "definition": level.definition}
        async with self._database.begin() as tx:
            await tx.run(
                "INSERT INTO sli_snapshots (zone, slo, definition, minute, good, total)"
                " VALUES (:zone, :slo, :definition, :minute, :good, :total) ON CONFLICT DO NOTHING",
                **keys,
                minute=minute,
                good=part,
                total=total,
            )
            await tx.run("DELETE FROM sli_snapshots WHERE zone = :zone AND slo = :slo AND minute < :before",
                         zone=zone, slo=level.name, before=minute - DAY)  # fmt: skip
            rows = await tx.all(
                "SELECT minute, good, total FROM sli_snapshots WHERE zone = :zone AND slo = :slo"
                " AND definition = :definition AND minute IN (:before, :minute) ORDER BY minute",
                **keys,
                before=minute - MINUTE,
                minute=minute,
            )
            values = [(row["good"], row["total"]) for row in rows]
            entered = 0
            if len(values) == 2:
                counted = of_snapshots(level.spec, values[0], values[1])
                if counted is not None:
                    counts = {minute - MINUTE: counted}
                    entered = await buckets.enter(tx, zone, level.name, level.definition, counts, self._clock.now())
        await self._stands(zone, level, minute)
        return entered

    async def _stands(self, zone: str, level: Level, until: datetime) -> None:
        async with self._database.begin() as tx:
            await tx.run(
                "INSERT INTO slo_states (zone, slo, definition, counted_until)"
                " VALUES (:zone, :slo, :definition, :until)"
                " ON CONFLICT (zone, slo) DO UPDATE SET definition = :definition, counted_until = :until, error = '',"
                " failing_since = NULL",
                zone=zone,
                slo=level.name,
                definition=level.definition,
                until=until,
            )

    async def _failed(self, zone: str, level: Level, error: str) -> None:
        log.warning("a service level was not counted", zone=zone, slo=level.name, error=error)
        now = self._clock.now()
        async with self._database.begin() as tx:
            await tx.run(
                "INSERT INTO slo_states (zone, slo, definition, counted_until, error, failing_since)"
                " VALUES (:zone, :slo, :definition, :until, :error, :now)"
                " ON CONFLICT (zone, slo) DO UPDATE SET error = :error,"
                " failing_since = coalesce(slo_states.failing_since, :now)",
                zone=zone,
                slo=level.name,
                definition=level.definition,
                until=floor_minute(now - fixed(level.spec.ours.settle)),
                error=error[:500],
                now=now,
            )

    # --- telling

    async def alert(self, zone: str, book: Book) -> list[str]:
        """Raise and clear the alerts of every level of ``book``; the keys of those that fire."""
        now, firing = self._clock.now(), []
        context = Context(zone, Actor(application=NOBODY))
        for level in levels_of(book):
            async with self._database.begin() as tx:
                found = await judge(tx, zone, level, now)
                if found.left is not None:
                    self._metrics.slo_budget_left.labels(zone, level.name).set(found.left)
                firing += await self._alert_burns(tx, context, level, found)
                firing += await self._alert_blind(tx, context, level, found)
        return firing

    async def _alert_burns(self, tx: Transaction, context: Context, level: Level, found: Evaluation) -> list[str]:
        firing = []
        for burn in found.burns:
            key = f"slo/{level.name}/burn/{burn.rule.name}"
            if burn.firing is None:
                continue
            if not burn.firing:
                await self._alerts.clear(tx, context, key)
                continue
            firing.append(key)
            told = (
                f"{level.spec.service}: {level.name} burns its error budget {burn.long_rate:.1f} times as fast"
                f" as it may over {burn.rule.name}"
            )
            await self._alerts.fire(tx, context, self._raised(level, key, "SloBurn", burn.rule.severity, told))
        return firing

    async def _alert_blind(self, tx: Transaction, context: Context, level: Level, found: Evaluation) -> list[str]:
        """An alert while nothing sound is measured. A level that has only begun is not blind."""
        key = f"slo/{level.name}/not-measured"
        if found.reason in ("stale", "impossible"):
            told = f"{level.spec.service}: {level.name} cannot be judged: {REASONS_TOLD[found.reason]}"
            await self._alerts.fire(tx, context, self._raised(level, key, "SloNotMeasured", Severity.P2, told))
            return [key]
        if found.reason != "absent":
            await self._alerts.clear(tx, context, key)
            return []
        since = await tx.value(
            "SELECT failing_since FROM slo_states WHERE zone = :zone AND slo = :slo", zone=context.zone, slo=level.name
        )
        if since is None or self._clock.now() - since <= level.terms.stale_after:
            return []
        told = f"{level.spec.service}: {level.name} was never measured; its source does not answer"
        await self._alerts.fire(tx, context, self._raised(level, key, "SloNotMeasured", Severity.P2, told))
        return [key]

    def _raised(self, level: Level, key: str, rule: str, severity: Severity, told: str) -> Raised:
        ours = level.spec.ours
        labels = {"slo": level.name, "service": level.spec.service}
        description = {"description": level.spec.description or told}
        return Raised(key, rule, severity, told, ours.owner, ours.runbook, labels, description)

    # --- gating

    async def gate(
        self, tx: Transaction, context: Context, action: str, service: str, change_class: str = "normal"
    ) -> GateAnswer:
        """Whether the error budgets of ``service`` let ``action`` (such as ``deploy``) pass now; leaves an event.

        PASS takes every level of the service that gates this action to be measured and not exhausted. Changes of the
        classes ``security`` and ``sev1`` pass whatever is left, and a waiver of ``slo-budget`` for the service lets
        pass what is exhausted or has no data; the verdict stays what it is. Counts that are impossible let nothing
        pass but those classes. A service without a level is NO_DATA.
        """
        zone, now = context.zone, self._clock.now()
        because: list[str] = []
        verdicts: list[Verdict] = []
        for level in levels_of(await self._books.current(tx, zone)):
            if level.spec.service != service or action not in level.spec.ours.gates:
                continue
            found = await judge(tx, zone, level, now)
            # the first days of a level do not stop everything: what it measured so far is held against its budget
            verdict = Verdict.PASS if found.reason == "window_not_covered" else found.verdict
            verdicts.append(verdict)
            if verdict is not Verdict.PASS:
                because.append(f"{level.name}: {REASONS_TOLD[found.reason]}")
        verdict = worst(verdicts)
        exception, waiver = "", None
        if not verdict.green and change_class in EXEMPT:
            exception = change_class
        elif not verdict.green and verdict is not Verdict.ERROR:
            waiver = await self._waivers.covering(tx, zone, WAIVED_CONTROL, service, now)
            if waiver is not None:
                exception = "waiver"
                await self._waivers.used(tx, context, waiver, f"slo/{action}/{service}")
        passes = verdict.green or bool(exception)
        if not verdicts:
            because.append(f"no service level of {service} gates {action}")
        await self._recorder.record(
            tx,
            codes.SLO_GATE_ANSWERED,
            "allow" if passes else "deny",
            context,
            subject=Subject(id=service, type="service"),
            action=action,
            change_class=change_class,
            verdict=str(verdict),
            exception=exception,
            waiver=waiver or "",
            because=because[:20],
        )
        return GateAnswer(verdict, passes, tuple(because), exception, waiver)


def floor_step(step: timedelta) -> timedelta:
    """A step of whole minutes."""
    return timedelta(minutes=max(1, int(step.total_seconds() // 60)))
