"""The dispatcher: from what changed of alerts to the notices that tell of it, and the steps of their escalation.

It works on rows that others left, a zone in one transaction and one process at a time; a process that dies takes its
transaction with it and the next one does the same again. So a step is told exactly once, however often this restarts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from bailiwick.assurance.alerting.alerts import Alert, AlertDesk, add_entry, find
from bailiwick.assurance.alerting.escalation import plan_steps, write_steps
from bailiwick.assurance.alerting.silences import Silence, Silences, silenced_until
from bailiwick.assurance.books import Books
from bailiwick.assurance.durations import span
from bailiwick.assurance.notices.channels import CHANNEL, ChannelSpec
from bailiwick.assurance.notices.hours import SEED_HOURS, Hours
from bailiwick.assurance.notices.notices import Marks, Outbox
from bailiwick.assurance.notices.routes import ROUTE, RouteSpec, ways
from bailiwick.assurance.oncall.staffing import never_staffed
from bailiwick.assurance.ports import Notice, OnCall, Raised
from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.severity import Severity

MOST_LISTED = 20
ON_CALL = "on-call"
"""The activity whose accountable person answers for there being somebody on call."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What a zone's book and silences say while one dispatch goes on."""

    channels: Mapping[str, ChannelSpec]
    routes: Mapping[str, RouteSpec]
    silences: Sequence[Silence]


def hours_of(routes: Mapping[str, RouteSpec], severity: Severity) -> Hours:
    """The business hours in which alerts of ``severity`` escalate: those of a route that has any, else the seed's."""
    for _, route in sorted(routes.items()):
        if route.hours is not None and (not route.severities or severity in route.severities):
            return route.hours.hours()
    return SEED_HOURS


def subject_of(alerts: Sequence[Alert], what: str) -> str:
    """One line that tells of ``alerts``."""
    worst = min(alert.severity for alert in alerts)
    mark = "" if what == "fired" else f"{what}: "
    if len(alerts) == 1:
        return f"[{worst}] {mark}{alerts[0].summary}"
    return f"[{worst}] {mark}{len(alerts)} alerts: {alerts[0].group_key}"


def body_of(alerts: Sequence[Alert], link: str) -> str:
    """What is said of ``alerts``: of one, everything; of several, a line each."""
    if len(alerts) > 1:
        lines = [f"{alert.severity} {alert.summary} ({alert.id})" for alert in alerts[:MOST_LISTED]]
        more = len(alerts) - MOST_LISTED
        return "\n".join([*lines, *([f"and {more} more"] if more > 0 else [])])
    alert = alerts[0]
    told = [alert.annotations.get("description", "")]
    told += [f"{name}: {value}" for name, value in sorted(alert.labels.items())]
    told += [
        f"owner: {alert.owner}" + (f" ({alert.owner_person})" if alert.owner_person else " (nobody)"),
        f"runbook: {alert.runbook or 'none'}",
        f"since: {alert.began_at.isoformat(timespec='seconds')}",
        f"alert: {link}/api/v1/alerts/{alert.id}",
        f"acknowledge: bailiwick alerts ack {alert.id}",
    ]
    return "\n".join(line for line in told if line)


def marks_of(alert: Alert, what: str) -> Marks:
    """What a pager makes of it: one incident an alert."""
    facts = {
        "component": alert.labels.get("component") or alert.labels.get("service", ""),
        "group": alert.group_key,
        "rule": alert.rule,
        "source": alert.labels.get("instance") or alert.labels.get("service") or alert.rule,
        "runbook": alert.runbook,
        "alert": alert.id,
    }
    actions = {"fired": "trigger", "acknowledged": "acknowledge", "resolved": "resolve"}
    return Marks(actions[what], alert.id, facts)  # type: ignore[arg-type]


class Dispatcher:
    """Tells whoever is to be told. ``link``: where the API of this installation is, by zone."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        recorder: Recorder,
        books: Books,
        desk: AlertDesk,
        silences: Silences,
        outbox: Outbox,
        on_call: OnCall,
        link: Callable[[str], str],
    ) -> None:
        self._database = database
        self._clock = clock
        self._recorder = recorder
        self._books = books
        self._desk = desk
        self._silences = silences
        self._outbox = outbox
        self._on_call = on_call
        self._link = link

    async def run_once(self) -> int:
        """Do what is due in every zone; how many zones there was something to do in."""
        async with self._database.begin() as tx:
            zones = [row["zone"] for row in await tx.all(_DUE, now=self._clock.now())]
        for zone in zones:
            async with self._database.begin() as tx:
                if await tx.value(
                    "SELECT pg_try_advisory_xact_lock(hashtext('bailiwick.dispatch'), hashtext(:zone))", zone=zone
                ):
                    await self._zone(tx, zone)
        return len(zones)

    async def _zone(self, tx: Transaction, zone: str) -> None:
        context = Context(zone)
        await self._desk.resolve_quiet(tx, context)
        book = await self._books.current(tx, zone)
        standing = Standing(book.of(CHANNEL), book.of(ROUTE), await self._silences.list(tx, zone))
        changes = await tx.all(
            "SELECT number, alert, what, at FROM alert_changes WHERE zone = :zone ORDER BY number", zone=zone
        )
        for change in changes:
            await self._take(tx, standing, change, await find(tx, zone, change["alert"], lock=True))
        await tx.run(
            "DELETE FROM alert_changes WHERE number = ANY (:numbers)", numbers=[each["number"] for each in changes]
        )
        await self._tell(tx, zone, standing)
        await self._escalate(tx, context, standing)

    # --- changes

    async def _take(self, tx: Transaction, standing: Standing, change: Row, alert: Alert) -> None:
        now, what = self._clock.now(), change["what"]
        if what != "fired":
            await self._follow_up(tx, alert, what, standing, now)
            return
        if alert.state == "firing":
            hours = hours_of(standing.routes, alert.severity)
            await write_steps(tx, alert.zone, alert.id, plan_steps(alert.severity, change["at"], hours))
        found = ways(standing.routes, alert.severity, alert.labels, alert.group_key, now)
        if alert.rule == "notices/dead":
            # what tells that a channel does not work is not told by it
            found = [way for way in found if way.channel != alert.labels.get("channel")]
        if not found:
            await add_entry(tx, alert.id, now, "untold", "bailiwick", "no route leads anywhere for it")
        for way in found:
            due = way.due_at
            if alert.severity is not Severity.P0:
                told_at = await tx.value(
                    "SELECT told_at FROM alert_groups WHERE zone = :zone AND channel = :channel AND group_key = :group",
                    zone=alert.zone,
                    channel=way.channel,
                    group=way.group_key,
                )
                interval = span(standing.routes[way.route].group_interval)
                due = max(due, told_at + interval) if told_at is not None else due
            await self._insert(tx, alert, way.channel, "fired", way.route, way.group_key, due)

    async def _follow_up(self, tx: Transaction, alert: Alert, what: str, standing: Standing, now: datetime) -> None:
        """Whoever was told, or is about to be, hears what became of it; whoever was not, hears nothing."""
        rows = await tx.all(
            "SELECT channel, route, group_key, done_at, notice FROM alert_tellings"
            " WHERE alert = :alert AND what = 'fired' ORDER BY channel",
            alert=alert.id,
        )
        for row in rows:
            if row["done_at"] is None and what == "resolved":
                await self._done(tx, [alert.id], row["channel"], "fired", None, now)
            spec = standing.channels.get(row["channel"])
            mails_every_turn = spec is not None and spec.email is not None and what == "acknowledged"
            if row["notice"] is not None and not mails_every_turn:
                await self._insert(tx, alert, row["channel"], what, row["route"], row["group_key"], now)

    async def _insert(
        self, tx: Transaction, alert: Alert, channel: str, what: str, route: str, group: str, due: datetime
    ) -> None:
        await tx.run(
            "INSERT INTO alert_tellings (alert, channel, what, zone, route, group_key, due_at)"
            " VALUES (:alert, :channel, :what, :zone, :route, :group, :due) ON CONFLICT DO NOTHING",
            alert=alert.id,
            channel=channel,
            what=what,
            zone=alert.zone,
            route=route,
            group=group,
            due=due,
        )

    # --- telling

    async def _tell(self, tx: Transaction, zone: str, standing: Standing) -> None:
        now = self._clock.now()
        rows = await tx.all(
            "SELECT alert, channel, what, group_key FROM alert_tellings"
            " WHERE zone = :zone AND done_at IS NULL AND due_at <= :now ORDER BY channel, alert, due_at, what",
            zone=zone,
            now=now,
        )
        bundles: dict[tuple[str, str, str], list[Alert]] = {}
        for row in rows:
            alert = await find(tx, zone, row["alert"])
            until = silenced_until(standing.silences, alert.labels, now) if row["what"] == "fired" else None
            if until is not None:
                await self._defer(tx, alert, row["channel"], until)
                continue
            spec = standing.channels.get(row["channel"])
            single = spec is not None and spec.pagerduty is not None
            together = f"{row['group_key']}/{alert.id}" if single else row["group_key"]
            bundles.setdefault((row["channel"], row["what"], together), []).append(alert)
        for (channel, what, _), alerts in bundles.items():
            await self._bundle(tx, zone, standing, channel, what, alerts)

    async def _defer(self, tx: Transaction, alert: Alert, channel: str, until: datetime) -> None:
        await tx.run(
            "UPDATE alert_tellings SET due_at = :until WHERE alert = :alert AND channel = :channel AND what = 'fired'",
            until=until,
            alert=alert.id,
            channel=channel,
        )

    async def _bundle(
        self, tx: Transaction, zone: str, standing: Standing, channel: str, what: str, alerts: Sequence[Alert]
    ) -> None:
        now = self._clock.now()
        if what == "fired":
            alerts = [alert for alert in alerts if not await self._stormed(tx, zone, standing, channel, alert, now)]
            if not alerts:
                return
        newest = max(alerts, key=lambda alert: alert.id)
        notice = await self._outbox.post(
            tx,
            zone,
            Notice(
                f"channel:{channel}",
                f"alert/{newest.id}/{what}/{channel}",
                subject_of(alerts, what),
                body_of(alerts, self._link(zone)),
                min(alert.severity for alert in alerts),
            ),
            marks_of(alerts[0], what) if len(alerts) == 1 else Marks(),
        )
        await self._done(tx, [alert.id for alert in alerts], channel, what, notice, now)
        if what == "fired":
            await tx.run(
                "INSERT INTO alert_groups (zone, channel, group_key, told_at) SELECT zone, channel, group_key, :now"
                " FROM alert_tellings WHERE alert = :alert AND channel = :channel AND what = 'fired'"
                " ON CONFLICT (zone, channel, group_key) DO UPDATE SET told_at = EXCLUDED.told_at",
                now=now,
                alert=newest.id,
                channel=channel,
            )

    async def _stormed(
        self, tx: Transaction, zone: str, standing: Standing, channel: str, alert: Alert, now: datetime
    ) -> bool:
        """Count a new alert against the channel's cap; whether one notice of the storm stands for it."""
        spec = standing.channels.get(channel)
        if spec is None:
            return False
        seconds = int(now.timestamp())
        within = int(span(spec.storm.within).total_seconds())
        since = datetime.fromtimestamp(seconds - seconds % within, tz=now.tzinfo)
        count = await tx.value(
            "INSERT INTO alert_storms (zone, channel, since, alerts) VALUES (:zone, :channel, :since, 1)"
            " ON CONFLICT (zone, channel, since) DO UPDATE SET alerts = alert_storms.alerts + 1 RETURNING alerts",
            zone=zone,
            channel=channel,
            since=since,
        )
        if count <= spec.storm.most:
            return False
        await self._outbox.post(
            tx,
            zone,
            Notice(
                f"channel:{channel}",
                f"storm/{channel}/{since.isoformat()}",
                f"[{alert.severity}] more than {spec.storm.most} new alerts within {spec.storm.within}",
                f"They are not told one by one. All of them: {self._link(zone)}/api/v1/alerts?state=firing",
                alert.severity,
            ),
            Marks("trigger", f"storm/{channel}/{since.isoformat()}", {"rule": "storm", "source": "alerts"}),
        )
        await self._done(tx, [alert.id], channel, "fired", None, now)
        await add_entry(tx, alert.id, now, "storm", "bailiwick", f"told by {channel} as part of a storm")
        return True

    async def _done(
        self, tx: Transaction, alerts: Sequence[str], channel: str, what: str, notice: str | None, now: datetime
    ) -> None:
        await tx.run(
            "UPDATE alert_tellings SET done_at = :now, notice = :notice"
            " WHERE alert = ANY (:alerts) AND channel = :channel AND what = :what AND done_at IS NULL",
            now=now,
            notice=notice,
            alerts=list(alerts),
            channel=channel,
            what=what,
        )

    # --- escalation

    async def _escalate(self, tx: Transaction, context: Context, standing: Standing) -> None:
        rows = await tx.all(
            "SELECT alert, number, level FROM escalation_steps WHERE zone = :zone AND state = 'due' AND due_at <= :now"
            " ORDER BY due_at, alert, number",
            zone=context.zone,
            now=self._clock.now(),
        )
        for row in rows:
            # locked as an acknowledgement locks it, and only then looked at
            alert = await find(tx, context.zone, row["alert"], lock=True)
            if alert.state == "firing":
                await self._step(tx, context, standing, alert, row)

    async def _step(self, tx: Transaction, context: Context, standing: Standing, alert: Alert, row: Row) -> None:
        now, level = self._clock.now(), row["level"]
        until = silenced_until(standing.silences, alert.labels, now)
        if until is not None:
            await tx.run(
                "UPDATE escalation_steps SET due_at = :until WHERE alert = :alert AND number = :number",
                until=until,
                alert=alert.id,
                number=row["number"],
            )
            return
        person = await self._on_call.on_call(tx, context.zone, level, now)
        notice = None
        if person is not None:
            notice = await self._outbox.send(
                tx,
                context.zone,
                Notice(
                    f"person:{person.username}",
                    f"escalation/{alert.id}/{row['number']}",
                    f"[{alert.severity}] you are called as {level}: {alert.summary}",
                    body_of([alert], self._link(context.zone)),
                    alert.severity,
                ),
            )
            await self._desk.clear(tx, context, f"on-call/nobody/{level}")
        await tx.run(
            "UPDATE escalation_steps SET state = :state, done_at = :now, person = :person, notice = :notice"
            " WHERE alert = :alert AND number = :number AND state = 'due'",
            state="done" if person is not None else "nobody",
            now=now,
            person=person.username if person is not None else "",
            notice=notice,
            alert=alert.id,
            number=row["number"],
        )
        told = f"{level}: {person.username if person is not None else 'nobody'}"
        await add_entry(tx, alert.id, now, "escalated", "bailiwick", told)
        await self._recorder.record(
            tx,
            codes.ALERT_ESCALATED,
            "success" if person is not None else "failure",
            context,
            subject=Subject(id=alert.id, type="alert"),
            level=level,
            person=person.username if person is not None else "",
        )
        if person is None:
            await self._nobody(tx, context, alert, level, now)

    async def _nobody(self, tx: Transaction, context: Context, alert: Alert, level: str, now: datetime) -> None:
        """Nobody is there to wait for: the next step is due at once, and somebody must mend the rota."""
        await tx.run(
            "UPDATE escalation_steps SET due_at = LEAST(due_at, :now) WHERE alert = :alert AND number ="
            " (SELECT number FROM escalation_steps WHERE alert = :alert AND state = 'due' ORDER BY due_at, number"
            " LIMIT 1)",
            now=now,
            alert=alert.id,
        )
        if alert.rule == "on-call/nobody" or await never_staffed(tx, await self._books.current(tx, alert.zone)):
            return
        await self._desk.fire(
            tx,
            context,
            Raised(
                f"on-call/nobody/{level}",
                "on-call/nobody",
                Severity.P1,
                f"Nobody is on call as {level}",
                ON_CALL,
                "docs/how-to/alerts-and-channels.md",
                {"service": "on-call", "level": level},
                {"description": f"An alert was to be told to the {level} and there is none. Mend the rota."},
            ),
        )


_DUE = """
SELECT zone FROM alert_changes
UNION SELECT zone FROM alert_tellings WHERE done_at IS NULL AND due_at <= :now
UNION SELECT zone FROM escalation_steps WHERE state = 'due' AND due_at <= :now
UNION SELECT zone FROM alerts WHERE quiet_since IS NOT NULL AND state IN ('firing', 'acknowledged')
ORDER BY zone
"""
