"""The escalation package: what whoever is asked for help needs to know, in one document, made at once.

Each section is read by itself: when things are bad enough to escalate, some part does not answer, and that is told in
its place instead of taking the rest along.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import structlog

from bailiwick import __version__
from bailiwick.evidence import codes
from bailiwick.evidence.codes import DECISIONS, EVENT_TYPES
from bailiwick.evidence.events import Context, Recorder, Subject, decode, rfc3339
from bailiwick.evidence.stored import COLUMNS, body_of
from bailiwick.handover.handovers.document import standing_json
from bailiwick.handover.ports import Environments, OpenIncidents, Readiness
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Transaction

LOOK_BACK = timedelta(hours=24)
MOST = 50
MOST_CHANGES = 200
HEAD_AGE = timedelta(minutes=65)
OUTBOX_AGE = timedelta(minutes=1)

log = structlog.get_logger(__name__)

Section = Callable[[Transaction, str, str, datetime], Awaitable[Any]]


@dataclass(frozen=True, slots=True)
class Installed:
    """What is set here: the newest migration that is known, how old what workers know may be, whether Redis is used."""

    schema: str
    freshness_s: float
    with_redis: bool


class Escalation:
    """Makes the package."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        recorder: Recorder,
        installed: Installed,
        readiness: Readiness,
        incidents: OpenIncidents,
        environments: Environments,
    ) -> None:
        self._database = database
        self._clock = clock
        self._recorder = recorder
        self._installed = installed
        self._readiness = readiness
        self._incidents = incidents
        self._environments = environments

    async def make(self, context: Context, environment: str) -> dict[str, Any]:
        """The package of ``environment``, as plain JSON values."""
        zone, now = context.zone, self._clock.now()
        sections: dict[str, Section] = {
            "environment": self._environment,
            "version": self._version,
            "changes": self._changes,
            "readiness": self._ready,
            "incidents": self._fires,
            "alerts": self._alerts,
            "requests": self._requests,
            "explanations": self._explanations,
            "streams": self._streams,
            "migrations": self._migrations,
            "degraded": self._degraded,
        }
        told: dict[str, Any] = {
            "format": "bailiwick-escalation/v1",
            "zone": zone,
            "at": rfc3339(now),
            "simulated_clock": self._clock.simulated,
            "asked_for": environment,
        }
        unread = []
        for name, read in sections.items():
            try:
                async with self._database.begin() as tx:
                    told[name] = _plain(await read(tx, zone, environment, now))
            except Exception as error:  # whatever is broken is what one escalates about
                log.exception("a section of the escalation package cannot be read", section=name)
                told[name] = None
                unread.append(f"{name} cannot be read: {type(error).__name__}")
        told["degraded"] = [*(told["degraded"] or []), *unread]
        async with self._database.begin() as tx:
            await self._recorder.record(
                tx,
                codes.HANDOVER_ESCALATED,
                "success",
                context,
                subject=Subject(id=zone, type="zone"),
                environment=environment,
                degraded=len(told["degraded"]),
            )
        return told

    # ------------------------------------------------------------------ sections

    async def _environment(self, tx: Transaction, zone: str, environment: str, now: datetime) -> Any:
        found = await self._environments.get(tx, zone, environment)
        if found is None:
            return {"name": environment, "stage": "nobody declared it"}
        return {"name": found.name, "stage": found.stage, "digest": found.digest, "live_at": found.live_at}

    async def _version(self, tx: Transaction, zone: str, environment: str, now: datetime) -> Any:
        return {
            "bailiwick": __version__,
            "postgresql": await tx.value("SHOW server_version"),
            "policy_set": await tx.value(
                "SELECT hash FROM policy_activations WHERE zone = :zone ORDER BY id DESC LIMIT 1", zone=zone
            ),
            "book": await tx.value("SELECT max(revision) FROM assurance_documents WHERE zone = :zone", zone=zone),
        }

    async def _changes(self, tx: Transaction, zone: str, environment: str, now: datetime) -> Any:
        """Every change of the last day, newest first."""
        changing = [code for code, kind in EVENT_TYPES.items() if kind.mutation]
        return await self._events(tx, zone, now, changing, MOST_CHANGES)

    async def _ready(self, tx: Transaction, zone: str, environment: str, now: datetime) -> Any:
        return standing_json(await self._readiness.standing(tx, zone, environment))

    async def _fires(self, tx: Transaction, zone: str, environment: str, now: datetime) -> Any:
        found = await self._incidents.open(tx, zone)
        # titles of security incidents are for those who may read them
        return [{"id": each.id, "severity": str(each.severity), "opened_at": each.opened_at} for each in found]

    async def _alerts(self, tx: Transaction, zone: str, environment: str, now: datetime) -> Any:
        rows = await tx.all(
            "SELECT rule, severity, state, summary, owner_person, runbook, began_at, id FROM alerts WHERE zone = :zone"
            " AND state IN ('firing', 'acknowledged') ORDER BY severity, began_at LIMIT :most",
            zone=zone,
            most=MOST,
        )
        return [dict(row) for row in rows]

    async def _requests(self, tx: Transaction, zone: str, environment: str, now: datetime) -> Any:
        """Requests of the last day that we answered with an error of ours, newest first."""
        rows = await tx.all(
            "SELECT request_id, at, method, route, status, duration_us FROM api_requests WHERE zone = :zone"
            " AND at >= :since AND status >= 500 ORDER BY at DESC LIMIT :most",
            zone=zone,
            since=now - LOOK_BACK,
            most=MOST,
        )
        return [dict(row) for row in rows]

    async def _explanations(self, tx: Transaction, zone: str, environment: str, now: datetime) -> Any:
        """What the audit says of the newest decisions that did not allow: who, what, by which policies, and why."""
        return await self._events(tx, zone, now, list(DECISIONS), MOST, refused=True)

    async def _streams(self, tx: Transaction, zone: str, environment: str, now: datetime) -> Any:
        """Where evidence and the feed stand: on their way, pending, dead; and how far behind each worker is."""
        outbox = await tx.one("SELECT count(*) AS waiting, min(at) AS oldest FROM outbox WHERE zone = :zone", zone=zone)
        spools = await tx.all(
            "SELECT source, segment, position, finished, gone, updated_at FROM spool_positions ORDER BY updated_at DESC"
            " LIMIT :most",
            most=MOST,
        )
        sinks = await tx.all(
            "SELECT s.name, s.kind, s.enabled, c.next_seq, c.delivered, t.breaker, t.last_error,"
            " (SELECT max(size) FROM ledger.heads h WHERE h.zone = s.zone) - c.next_seq AS pending,"
            " (SELECT count(*) FROM siem_dead_letters d WHERE d.sink = s.id AND d.delivered_at IS NULL) AS dead"
            " FROM siem_sinks s LEFT JOIN siem_cursors c ON c.sink = s.id AND c.zone = s.zone"
            " LEFT JOIN siem_state t ON t.sink = s.id WHERE s.zone = :zone ORDER BY s.name",
            zone=zone,
        )
        head = await tx.one(
            "SELECT size, at FROM ledger.heads WHERE zone = :zone ORDER BY size DESC, at DESC LIMIT 1", zone=zone
        )
        return {
            "redis": "in use" if self._installed.with_redis else "not used",
            "outbox": dict(outbox) if outbox else None,
            "head": dict(head) if head else None,
            "dead_letters": await self._dead(tx, zone),
            "spools": [dict(row) for row in spools],
            "sinks": [dict(row) for row in sinks],
            "feed_revision": await tx.value("SELECT max(revision) FROM feed"),
            "workers": [dict(row) for row in await self._workers(tx, now)],
        }

    async def _migrations(self, tx: Transaction, zone: str, environment: str, now: datetime) -> Any:
        applied = await tx.value("SELECT version_num FROM public.alembic_version")
        return {"applied": applied, "known": self._installed.schema, "pending": applied != self._installed.schema}

    async def _degraded(self, tx: Transaction, zone: str, environment: str, now: datetime) -> list[str]:
        """Each guarantee of access safety that does not hold in full now, in a line."""
        found = []
        switches = await tx.all(
            "SELECT name, thrown_at FROM switches WHERE zone = :zone AND lifted_at IS NULL ORDER BY name", zone=zone
        )
        found += [f"switched off since {row['thrown_at']:%Y-%m-%d %H:%M} UTC: {row['name']}" for row in switches]
        closed = await tx.all(
            "SELECT server, closed_at FROM gateway_closures WHERE zone = :zone AND opened_at IS NULL", zone=zone
        )
        found += [f"the gateway is closed: {row['server'] or 'all servers'}" for row in closed]
        revision = await tx.value("SELECT coalesce(max(revision), 0) FROM feed")
        for row in await self._workers(tx, now):
            late = (now - row["seen_at"]).total_seconds()
            if row["fenced_at"] is not None or late > self._installed.freshness_s:
                found.append(f"worker {row['slot']} on {row['host']} is fenced off or silent for {late:.0f} s")
            elif row["revision"] < revision:
                found.append(f"worker {row['slot']} on {row['host']} is {revision - row['revision']} revisions behind")
        if dead := await self._dead(tx, zone):
            found.append(f"{dead} events could not be put into the ledger")
        oldest = await tx.value("SELECT min(at) FROM outbox WHERE zone = :zone", zone=zone)
        if oldest is not None and now - oldest > OUTBOX_AGE:
            found.append(f"events wait for the ledger since {oldest:%Y-%m-%d %H:%M} UTC")
        signed = await tx.value("SELECT max(at) FROM ledger.heads WHERE zone = :zone", zone=zone)
        if signed is None or now - signed > HEAD_AGE:
            found.append("no head of the ledger was signed within the hour")
        rows = await tx.all(
            "SELECT name FROM identity_providers WHERE zone = :zone AND enabled AND away_since IS NOT NULL", zone=zone
        )
        return found + [f"identity provider {row['name']} does not answer" for row in rows]

    # ------------------------------------------------------------------ inside

    async def _dead(self, tx: Transaction, zone: str) -> int:
        return int(
            await tx.value(
                "SELECT count(*) FROM ledger.dead_letters d LEFT JOIN ledger.replays r ON r.dead_letter = d.id"
                " WHERE d.zone IN (:zone, '') AND r.at IS NULL",
                zone=zone,
            )
        )

    async def _workers(self, tx: Transaction, now: datetime) -> Any:
        return await tx.all(
            "SELECT slot, host, pid, revision, seen_at, fenced_at FROM workers WHERE seen_at > :since"
            " ORDER BY host, slot",
            since=now - timedelta(hours=1),
        )

    async def _events(
        self, tx: Transaction, zone: str, now: datetime, wanted: list[str], most: int, *, refused: bool = False
    ) -> list[dict[str, Any]]:
        rows = await tx.all(
            f"SELECT {COLUMNS} FROM ledger.events WHERE zone = :zone AND at >= :since AND code = ANY (:codes)"  # noqa: S608
            f"{' AND outcome NOT IN (:allow, :success)' if refused else ''} ORDER BY seq DESC LIMIT :most",
            zone=zone,
            since=now - LOOK_BACK,
            codes=wanted,
            most=most,
            **({"allow": "allow", "success": "success"} if refused else {}),
        )
        found = []
        for row in rows:
            event = decode(body_of(row))
            found.append(
                {
                    "at": event.at,
                    "event": event.name,
                    "id": event.id,
                    "outcome": event.outcome,
                    "request": event.request_id,
                    "by": event.actor.user or event.actor.application,
                    "server": event.server,
                    "subject": f"{event.subject.type}/{event.subject.id}" if event.subject else "",
                    "policy_set": event.policy_set,
                    "reasons": list(event.reasons),
                }
            )
        return found


def lines(told: Mapping[str, Any]) -> list[str]:
    """The package for somebody at a terminal, 80 columns wide."""
    environment, version = told.get("environment") or {}, told.get("version") or {}
    readiness = told.get("readiness") or {}
    found = [
        f"environment  {environment.get('name', told['asked_for'])}: {environment.get('stage', 'unknown')}",
        f"version      {version.get('bailiwick', '?')}, policy set {str(version.get('policy_set') or '-')[:12]}",
        f"readiness    {readiness.get('verdict', 'unknown')}",
        f"changes      {len(told.get('changes') or [])} in 24 h",
        f"alerts       {', '.join(each['rule'] for each in told.get('alerts') or []) or 'none'}",
        f"requests     {len(told.get('requests') or [])} answered with an error of ours",
        f"refusals     {len(told.get('explanations') or [])} explained",
    ]
    return [line[:80] for line in [*found, *(f"degraded     {each}" for each in told["degraded"])]]


def _plain(value: Any) -> Any:
    """As JSON values: instants as text."""
    return json.loads(json.dumps(value, default=_text))


def _text(value: Any) -> str:
    return rfc3339(value.astimezone(UTC)) if isinstance(value, datetime) else str(value)
