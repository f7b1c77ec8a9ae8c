"""What the clock does about incidents: opens them from their triggers, keeps their timelines, minds who waits for news.

Everything is looked up in rows, and each line stands once by what it is of, so it may be done twice or late.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any

from bailiwick.assurance.books import Books
from bailiwick.assurance.durations import span
from bailiwick.assurance.ports import Alerts, Raised, Verdicts
from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.handover.incidents.containments import LEFT, settled, unsettled_before, workers_behind
from bailiwick.handover.incidents.documents import TRIGGER, Trigger, cadence
from bailiwick.handover.incidents.records import (
    Incident,
    add_line,
    alerts_of,
    closed_since,
    every_unclosed,
    find,
    put,
)
from bailiwick.handover.incidents.rooms import thread_of
from bailiwick.handover.incidents.service import RUNBOOK, Incidents, Opening, overdue_key
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Row, Transaction

OWN_ALERTS = ("IncidentOpen", "IncidentUpdateOverdue", "BreakGlass", "SwitchLeftOn", "task-overdue")
"""Alerts that come of incidents and of what is done about them: they open none."""

_LOOK_BACK = timedelta(minutes=10)
_BEFORE = timedelta(hours=1)
_AFTER = timedelta(hours=2)


# ---------------------------------------------------------------------- rules


def matching(triggers: Mapping[str, Trigger], alert: Mapping[str, Any], now: datetime) -> str | None:
    """The trigger that an alert opens an incident by: one that names it, else one of its severity; the more urgent
    first. ``alert`` has ``rule``, ``alias``, ``severity`` and ``fired_at``."""
    names = {alert["rule"], alert["alias"]} - {None, ""}
    naming = {name for each in triggers.values() for name in each.alerts}
    found = []
    for name, trigger in triggers.items():
        named = bool(names & set(trigger.alerts))
        of_severity = (
            alert["severity"] in {str(each) for each in trigger.severities}
            and not names & naming
            and not names & set(trigger.except_alerts)
        )
        if (named or of_severity) and now - alert["fired_at"] >= span(trigger.sustained):
            found.append((not named, trigger.severity, name))
    return min(found)[2] if found else None


# ---------------------------------------------------------------------- service


class IncidentWatch:
    """Looks at the incidents of all zones."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        recorder: Recorder,
        books: Books,
        incidents: Incidents,
        verdicts: Verdicts,
        alerts: Alerts,
    ) -> None:
        self._database = database
        self._clock = clock
        self._recorder = recorder
        self._books = books
        self._incidents = incidents
        self._verdicts = verdicts
        self._alerts = alerts

    async def run(self, due: datetime) -> dict[str, int]:
        """Everything once; how much was done."""
        async with self._database.begin() as tx:
            zones = [row["name"] for row in await tx.all("SELECT name FROM zones WHERE state = 'active' ORDER BY name")]
        opened = 0
        for zone in zones:
            async with self._database.begin() as tx:
                opened += await self.open_due(tx, zone)
        followed = await self.follow()
        return {"opened": opened, **followed, "settled": await self.settle_left()}

    # --- triggers

    async def open_due(self, tx: Transaction, zone: str) -> int:
        """Open what the triggers of a zone say; how many are new."""
        triggers = await self._books.read_all(tx, zone, TRIGGER)
        if not triggers:
            return 0
        found = [*await self._by_alerts(tx, zone, triggers)]
        for name, trigger in triggers.items():
            if trigger.events:
                found += await self._by_events(tx, zone, name, trigger)
            elif trigger.probe is not None:
                found += await self._by_probe(tx, zone, name, trigger)
        opened = 0
        for opening in found:
            drill = await tx.value(
                "SELECT id FROM incident_drills WHERE zone = :zone AND trigger = :trigger AND ended_at IS NULL",
                zone=zone,
                trigger=opening.trigger,
            )
            context = Context(zone)
            _, new = await self._incidents.open(tx, context, _of_drill(opening, drill))
            opened += new
        return opened

    async def _by_alerts(self, tx: Transaction, zone: str, triggers: Mapping[str, Trigger]) -> Iterable[Opening]:
        rows = await tx.all(
            "SELECT id, rule, labels ->> 'alias' AS alias, severity, began_at, coalesce(fired_at, began_at) AS fired_at"
            " FROM alerts a WHERE zone = :zone AND state IN ('firing', 'acknowledged') AND rule <> ALL(:own)"
            " AND NOT EXISTS (SELECT FROM incident_alerts i WHERE i.alert = a.id) ORDER BY id",
            zone=zone,
            own=[*OWN_ALERTS],
        )
        by_trigger: dict[tuple[str, str], list[Row]] = {}
        for row in rows:
            name = matching(triggers, dict(row), self._clock.now())
            if name is not None:
                # what is only of a severity has nothing else in common with others of it
                rule = "" if triggers[name].alerts else row["rule"]
                by_trigger.setdefault((name, rule), []).append(row)
        found = []
        for (name, rule), alerts in by_trigger.items():
            opening = Opening.of(
                name,
                triggers[name],
                began_at=min(row["began_at"] for row in alerts),
                alerts=[row["id"] for row in alerts],
            )
            if rule:
                opening = replace(opening, key=f"{opening.key}/{rule}", title=f"{opening.title}: {rule}"[:200])
            found.append(opening)
        return found

    async def _by_events(self, tx: Transaction, zone: str, name: str, trigger: Trigger) -> list[Opening]:
        """Events since the trigger last opened an incident, and not older than the look goes back."""
        first = await tx.value(
            "SELECT min(at) FROM ledger.events WHERE zone = :zone AND code = ANY(:codes) AND recorded_at >"
            " greatest(:since, (SELECT max(coalesce(recovered_at, opened_at)) FROM incidents"
            "   WHERE zone = :zone AND trigger = :name))",
            zone=zone,
            codes=trigger.codes(),
            since=self._clock.now() - _LOOK_BACK,
            name=name,
        )
        return [] if first is None else [Opening.of(name, trigger, began_at=first)]

    async def _by_probe(self, tx: Transaction, zone: str, name: str, trigger: Trigger) -> list[Opening]:
        assert trigger.probe is not None
        found = await self._verdicts.newest(tx, zone, trigger.probe, self._clock.now())
        if found is None or found.verdict not in trigger.on:
            return []
        if await tx.value(
            "SELECT EXISTS (SELECT FROM incidents WHERE zone = :zone AND trigger = :name AND recovered_at >= :at)",
            zone=zone,
            name=name,
            at=found.at,
        ):
            return []
        return [Opening.of(name, trigger, began_at=found.at)]

    # --- timelines and news

    async def follow(self) -> dict[str, int]:
        """Bring every timeline up to date, and raise where people wait for news."""
        lines = overdue = 0
        async with self._database.begin() as tx:
            unclosed = await every_unclosed(tx)
            closed = await closed_since(tx, self._clock.now() - _AFTER)
        for each in closed:  # what was told last of it may not have arrived yet
            async with self._database.begin() as tx:
                lines += await self._lines(tx, each)
        for each in unclosed:
            async with self._database.begin() as tx:
                incident = await find(tx, each.zone, each.id, lock=True)
                context = Context(incident.zone)
                lines += await self._lines(tx, incident)
                incident = await self._incidents.note_preserved(tx, context, incident)
                await self._acknowledged(tx, incident)
                overdue += await self._news(tx, context, incident)
        return {"lines": lines, "overdue": overdue}

    async def settle_left(self) -> int:
        """Find out what became of actions whose process ended before it knew that every worker has them; how many.

        It is told in the timeline at once, and again when they have it.
        """
        now, told = self._clock.now(), 0
        async with self._database.begin() as tx:
            left = await unsettled_before(tx, now - LEFT)
        for each in left:
            async with self._database.begin() as tx:
                behind = await workers_behind(tx, each.zone, now)
                if behind == []:
                    await settled(tx, each.override, now)
                    what, said = "settled", "every live worker has it"
                else:
                    what = "interrupted"
                    said = "no worker lives" if behind is None else f"not known to have it: {', '.join(behind)}"
                said = f"{each.action}: done, and whoever did it ended before every worker had confirmed; {said}"
                told += await add_line(tx, each.incident, what, said, at=now, now=now, ref=f"{what}/{each.override}")
        return told

    async def _lines(self, tx: Transaction, incident: Incident) -> int:
        now, added = self._clock.now(), 0
        values = {
            "zone": incident.zone,
            "since": incident.began_at - _BEFORE,
            "until": incident.recovered_at or now,
            "alerts": await alerts_of(tx, incident.id),
            "thread": thread_of(incident.id),
        }
        for row in await tx.all(_HAPPENED, **values):
            added += await add_line(
                tx, incident.id, row["what"], row["told"], at=row["at"], now=now, by=row["by"], ref=row["ref"]
            )
        return added

    async def _acknowledged(self, tx: Transaction, incident: Incident) -> None:
        """Who acknowledges its alert works on it."""
        if incident.acknowledged_at is not None:
            return
        row = await tx.one(
            "SELECT acknowledged_at, acknowledged_by FROM alerts WHERE id = :id AND acknowledged_at IS NOT NULL",
            id=incident.alert,
        )
        if row is not None:
            await put(
                tx, incident.id, acknowledged_at=row["acknowledged_at"],
                commander=incident.commander or row["acknowledged_by"],
            )  # fmt: skip

    async def _news(self, tx: Transaction, context: Context, incident: Incident) -> int:
        now = self._clock.now()
        if not incident.ongoing or incident.update_due is None or now < incident.update_due:
            return 0
        missed = incident.updates_missed + 1
        # counted on from now: after a night in which nothing ran, one update is missed and not twenty
        await put(tx, incident.id, updates_missed=missed, update_due=now + cadence(incident.severity))
        severity = incident.severity if missed < 2 else incident.severity.raised
        await self._alerts.fire(
            tx,
            context,
            Raised(
                overdue_key(incident),
                "IncidentUpdateOverdue",
                severity,
                f"{incident.name}: people wait for news since {incident.update_due:%H:%M} UTC",
                "incident-response",
                RUNBOOK,
                {"component": "incidents", "incident": incident.name},
                {"description": f"bailiwick incident tell {incident.name} '…'"},
            ),
        )
        told = f"no update by {incident.update_due:%H:%M} UTC, missed {missed} times"
        await add_line(tx, incident.id, "overdue", told, at=now, now=now)
        await self._recorder.record(
            tx,
            codes.INCIDENT_UPDATE_OVERDUE,
            "success",
            context,
            subject=Subject(id=incident.id, type="incident"),
            incident=incident.name,
            severity=incident.severity.value,
            missed=missed,
        )
        return 1


def _of_drill(opening: Opening, drill: str | None) -> Opening:
    if not drill:
        return opening
    return replace(opening, drill=drill, title=f"DRILL: {opening.title}"[:200])


# everything that happened in the zone while it went on, from an hour before it began; ref is what makes a line one
_HAPPENED = """
SELECT 'alert' AS what, 'alert/' || a.id || '/' || e.number AS ref, e.at, e.by,
    a.rule || ' ' || e.what || CASE e.told WHEN '' THEN '' ELSE ': ' || e.told END AS told
  FROM alert_entries e JOIN alerts a ON a.id = e.alert WHERE a.id = ANY(:alerts)
UNION ALL
SELECT 'deployment', 'policy/' || id, activated_at, activated_by, 'policy set ' || hash || ' by ' || kind
  FROM policy_activations WHERE zone = :zone AND activated_at BETWEEN :since AND :until
UNION ALL
SELECT 'deployment', 'book/' || revision, min(applied_at), min(applied_by),
    'operating model, revision ' || revision || ': ' || count(*) || ' documents'
  FROM assurance_documents WHERE zone = :zone AND applied_at BETWEEN :since AND :until GROUP BY revision
UNION ALL
SELECT 'decision', 'override/' || id, executed_at, executed_by, operation || ' on ' || target || ': ' || reason
  FROM overrides WHERE zone = :zone AND executed_at BETWEEN :since AND :until
UNION ALL
SELECT 'decision', 'approval/' || a.id || '/' || v.person, v.at, v.person,
    CASE WHEN v.approves THEN 'approved ' ELSE 'rejected ' END || a.action || ' of ' || a.requested_by
  FROM approval_votes v JOIN approvals a ON a.id = v.approval
  WHERE a.zone = :zone AND v.at BETWEEN :since AND :until
UNION ALL
SELECT 'action', 'closure/' || id, closed_at, closed_by,
  'gateway closed' || CASE server WHEN '' THEN '' ELSE ' to ' || server END || ': ' || reason
  FROM gateway_closures WHERE zone = :zone AND closed_at BETWEEN :since AND :until
UNION ALL
SELECT 'action', 'opening/' || id, opened_at, coalesce(opened_by, ''),
  'gateway opened again' || CASE server WHEN '' THEN '' ELSE ' to ' || server END
  FROM gateway_closures WHERE zone = :zone AND opened_at BETWEEN :since AND :until
UNION ALL
SELECT 'action', 'switch/' || id, thrown_at, thrown_by, 'switched off: ' || name || ': ' || reason
  FROM switches WHERE zone = :zone AND thrown_at BETWEEN :since AND :until
UNION ALL
SELECT 'action', 'lift/' || id, lifted_at, coalesce(lifted_by, ''), 'switched on again: ' || name
  FROM switches WHERE zone = :zone AND lifted_at BETWEEN :since AND :until
UNION ALL
SELECT 'action', 'revocation/' || revision, revoked_at, revoked_by, 'revoked ' || kind || ' ' || key || ': ' || reason
  FROM revocations WHERE zone = :zone AND revoked_at BETWEEN :since AND :until
UNION ALL
SELECT 'backup', 'backup/' || id || '/' || state, finished_at, asked_by, CASE state WHEN 'failed'
    THEN 'base backup failed: ' || coalesce(error, '') ELSE 'base backup ' || id || ', sha256 ' || manifest_sha256 END
  FROM backups WHERE finished_at BETWEEN :since AND :until AND state IN ('complete', 'failed')
UNION ALL
SELECT 'delivery', 'delivery/' || d.id || '/' || CASE d.state WHEN 'due' THEN 'failing' ELSE d.state END,
  coalesce(d.delivered_at, d.created_at), 'bailiwick', CASE d.state
    WHEN 'delivered' THEN '"' || (n.facts ->> 'what') || '" arrived in ' || d.channel
      || CASE d.remote_id WHEN '' THEN '' ELSE ' as ' || d.remote_id END
    WHEN 'not_set_up' THEN '"' || (n.facts ->> 'what') || '" was not sent in ' || d.channel || ': ' || d.told
    WHEN 'dead' THEN '"' || (n.facts ->> 'what') || '" did not arrive in ' || d.channel || ': ' || d.told
    ELSE '"' || (n.facts ->> 'what') || '" does not arrive in ' || d.channel || ' yet: ' || d.told END
  FROM notice_deliveries d JOIN notices n ON n.id = d.notice
  WHERE d.zone = :zone AND d.dedup_key = :thread AND (d.state <> 'due' OR d.told <> '')
ORDER BY at, ref
"""
