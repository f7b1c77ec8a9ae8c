"""Alerts: at most one is open of a zone and key, and each goes from pending to closed in plain steps.

A change of state leaves a line in the alert's timeline, an event, and a row for the dispatcher (``dispatch.py``), all
in the caller's transaction; so nobody is told of what did not happen, and what happened is told however often a process
dies. What lacks a label or annotation that an alert has to have is never refused, only marked: a badly described alert
is better than a lost one.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Literal

from bailiwick.assurance.ports import Owners, Raised
from bailiwick.evidence import codes
from bailiwick.evidence.codes import EventType
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import BailiwickError, Conflict, InvalidRequest, NotFound
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.machine import Machine
from bailiwick.kernel.severity import Severity

Source = Literal["part", "rule", "alertmanager", "manual"]
ClosedAs = Literal["true", "false", "duplicate"]
What = Literal["fired", "acknowledged", "resolved"]

ALERT = Machine(
    "alert",
    {
        "pending": ["firing", "resolved"],
        "firing": ["acknowledged", "resolved"],
        "acknowledged": ["resolved"],
        "resolved": ["closed"],
        "closed": [],
    },
)
OPEN = ("pending", "firing", "acknowledged")

FLAPS = 3
FLAPS_WITHIN = timedelta(hours=1)
QUIET = timedelta(minutes=10)
"""What was opened more than :data:`FLAPS` times within :data:`FLAPS_WITHIN` is flapping: it resolves only after having
been quiet for :data:`QUIET`, so that nobody is told of every turn."""

_MOST_TEXT, _MOST_LABELS, _MOST_LABEL = 4000, 64, 1000


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert. ``missing``: what it should say and does not. ``frozen_since``: since when its data is missing."""

    id: str
    zone: str
    key: str
    rule: str
    source: Source
    state: str
    severity: Severity
    summary: str
    owner: str
    owner_person: str
    runbook: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    missing: Sequence[str]
    group_key: str
    began_at: datetime
    pending_until: datetime | None
    fired_at: datetime | None
    last_seen_at: datetime
    seen: int
    frozen_since: datetime | None
    flapping: bool
    quiet_since: datetime | None
    acknowledged_at: datetime | None
    acknowledged_by: str
    resolved_at: datetime | None
    closed_at: datetime | None
    closed_by: str
    closed_as: ClosedAs | None
    duplicate_of: str | None
    version: int

    @property
    def open(self) -> bool:
        """Whether it is neither resolved nor closed."""
        return self.state in OPEN

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {name: getattr(self, name) for name in self.__slots__ if name != "zone"}


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of an alert's timeline."""

    at: datetime
    what: str
    by: str
    told: str

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {name: getattr(self, name) for name in self.__slots__}


@dataclass(frozen=True, slots=True)
class Opening:
    """How an alert is opened: ``pending_for`` is how long it has to last before it fires; ``group`` replaces the group
    made of its labels."""

    source: Source = "part"
    pending_for: timedelta = timedelta(0)
    began_at: datetime | None = None
    group: str = ""


# ---------------------------------------------------------------------- rules


def completed(raised: Raised) -> Raised:
    """``raised`` with what our own parts say otherwise: rule and owner are its component and team, where none are."""
    labels = {"severity": str(raised.severity), **_bounded(raised.labels)}
    labels.setdefault("component", labels.get("service") or raised.rule)
    if raised.owner:
        labels.setdefault("team", raised.owner)
    annotations = _bounded(raised.annotations)
    annotations.setdefault("summary", raised.summary)
    runbook = raised.runbook or annotations.get("runbook") or annotations.get("runbook_url") or ""
    if runbook:
        annotations.setdefault("runbook", runbook)
    return replace(
        raised, summary=raised.summary[:_MOST_TEXT], runbook=runbook[:500], labels=labels, annotations=annotations
    )


def missing_of(labels: Mapping[str, str], annotations: Mapping[str, str], *, owned: bool) -> list[str]:
    """The required labels and annotations that are not there, and ``owner`` where nobody answers for it."""
    told = [] if labels.get("severity") else ["severity"]
    if not (labels.get("service") or labels.get("component")):
        told.append("component")
    told += [] if labels.get("team") else ["team"]
    told += [name for name in ("summary", "description") if not annotations.get(name)]
    if not (annotations.get("runbook") or annotations.get("runbook_url")):
        told.append("runbook")
    return told + ([] if owned else ["owner"])


def group_of(raised: Raised) -> str:
    """What alerts are told together with this one: those of the same rule and component."""
    return f"{raised.rule}/{raised.labels.get('service') or raised.labels.get('component', '')}"


def flapping(openings: Sequence[datetime], now: datetime) -> bool:
    """Whether an alert of a key that was opened before at ``openings`` turns too often."""
    return sum(1 for each in openings if now - each <= FLAPS_WITHIN) >= FLAPS


def _bounded(texts: Mapping[str, str]) -> dict[str, str]:
    """Texts as PostgreSQL and a reader of lists take them."""
    kept = list(texts.items())[:_MOST_LABELS]
    return {plain(name)[:200]: plain(value)[:_MOST_LABEL] for name, value in kept}


def plain(text: str) -> str:
    """``text`` without what cannot be stored and what would deceive a reader of a terminal."""
    kept = (each if each in "\n\t" or each.isprintable() else "\ufffd" for each in text)
    return "".join(kept).encode("utf-8", "replace").decode()


# ---------------------------------------------------------------------- store


_SELECT = f"SELECT {', '.join(Alert.__slots__)} FROM alerts"  # noqa: S608 - names from the class


async def find(tx: Transaction, zone: str, identifier: str, *, lock: bool = False) -> Alert:
    """One alert. Raises :class:`NotFound`."""
    row = await tx.one(
        f"{_SELECT} WHERE zone = :zone AND id = :id {'FOR UPDATE' if lock else ''}", zone=zone, id=identifier
    )
    if row is None:
        raise NotFound("There is no alert by that id.")
    return alert_of(row)


async def open_of(tx: Transaction, zone: str, key: str, *, lock: bool = False) -> Alert | None:
    """The open alert of a key."""
    row = await tx.one(
        f"{_SELECT} WHERE zone = :zone AND key = :key AND state IN ('pending', 'firing', 'acknowledged')"
        f" {'FOR UPDATE' if lock else ''}",
        zone=zone,
        key=key,
    )
    return alert_of(row) if row is not None else None


async def list_alerts(
    tx: Transaction,
    zone: str,
    *,
    states: Sequence[str] = (),
    severity: str = "",
    before: str = "g",
    limit: int = 100,
) -> list[Alert]:
    """Alerts newest first, of some states and one severity, or of all; from behind the id ``before`` on."""
    rows = await tx.all(
        f"{_SELECT} WHERE zone = :zone AND id < :before AND (cardinality(cast(:states AS text[])) = 0"
        " OR state = ANY (:states)) AND (:severity = '' OR severity = :severity) ORDER BY id DESC LIMIT :limit",
        zone=zone,
        before=before,
        states=list(states),
        severity=severity,
        limit=limit,
    )
    return [alert_of(row) for row in rows]


async def entries(tx: Transaction, identifier: str) -> list[Entry]:
    """The timeline of an alert, oldest first."""
    rows = await tx.all("SELECT at, what, by, told FROM alert_entries WHERE alert = :id ORDER BY number", id=identifier)
    return [Entry(**row) for row in rows]


async def add_entry(tx: Transaction, identifier: str, at: datetime, what: str, by: str, told: str) -> None:
    """Add a line to a timeline. The alert's row must be locked by this transaction."""
    await tx.run(
        "INSERT INTO alert_entries (alert, number, at, what, by, told)"
        " SELECT :id, coalesce(max(number), 0) + 1, :at, :what, :by, :told FROM alert_entries WHERE alert = :id",
        id=identifier,
        at=at,
        what=what,
        by=by,
        told=plain(told)[:_MOST_TEXT],
    )


def alert_of(row: Row) -> Alert:
    """An alert from its row."""
    values = dict(row)
    values["severity"] = Severity(values["severity"])
    return Alert(**values)


def who(context: Context) -> str:
    """Who acts, for a timeline."""
    return context.actor.user or context.actor.application or "bailiwick"


# ---------------------------------------------------------------------- service


class AlertDesk:
    """Opens, clears, acknowledges and closes alerts: the ``Alerts`` port, and what people do."""

    def __init__(self, database: Database, clock: Clock, ids: Ids, recorder: Recorder, owners: Owners) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._recorder = recorder
        self._owners = owners

    # --- the port

    async def fire(self, tx: Transaction, context: Context, raised: Raised) -> str:
        """Open the alert, or note that it goes on; its id."""
        return (await self.open(tx, context, raised)).id

    async def clear(self, tx: Transaction, context: Context, key: str) -> bool:
        """What was wrong is right again; whether there was such an alert. One that flaps resolves later."""
        found = await open_of(tx, context.zone, key, lock=True)
        if found is None:
            return False
        now = self._clock.now()
        if found.flapping and found.state != "pending":
            if found.quiet_since is None:
                await tx.run("UPDATE alerts SET quiet_since = :now WHERE id = :id", now=now, id=found.id)
            return True
        await self.resolve(tx, context, found, "cleared")
        return True

    # --- opening

    async def open(self, tx: Transaction, context: Context, raised: Raised, opening: Opening | None = None) -> Alert:
        """Open an alert, or note that the open one of its key goes on; it as it is then."""
        opening = opening or Opening()
        raised = completed(raised)
        for _ in range(5):
            known = await open_of(tx, context.zone, raised.key, lock=True)
            if known is not None:
                return await self._goes_on(tx, context, known, raised)
            made = await self._insert(tx, context, raised, opening)
            if made is not None:
                return made
        raise Conflict("The alert is opened and resolved by others at once.")

    async def _insert(self, tx: Transaction, context: Context, raised: Raised, opening: Opening) -> Alert | None:
        now, zone = self._clock.now(), context.zone
        person = await self._owners.accountable(tx, zone, raised.owner, now) if raised.owner else None
        earlier = await tx.all(
            "SELECT began_at FROM alerts WHERE zone = :zone AND key = :key AND began_at > :since",
            zone=zone,
            key=raised.key,
            since=now - FLAPS_WITHIN,
        )
        waits = opening.pending_for > timedelta(0)
        flaps = flapping([row["began_at"] for row in earlier], now)
        row = await tx.one(
            _INSERT,
            id=self._ids(),
            zone=zone,
            key=raised.key,
            rule=raised.rule,
            source=opening.source,
            state="pending" if waits else "firing",
            severity=str(raised.severity),
            summary=plain(raised.summary),
            owner=raised.owner,
            owner_person=person.username if person else "",
            runbook=raised.runbook,
            labels=json.dumps(dict(raised.labels)),
            annotations=json.dumps(dict(raised.annotations)),
            missing=missing_of(raised.labels, raised.annotations, owned=person is not None),
            group_key=opening.group[:500] or group_of(raised)[:500],
            began_at=min(opening.began_at or now, now),
            pending_until=now + opening.pending_for if waits else None,
            fired_at=None if waits else now,
            now=now,
            flapping=flaps,
        )
        if row is None:
            return None
        alert = alert_of(row)
        if waits:
            await add_entry(tx, alert.id, now, "pending", who(context), alert.summary)
            await self._record(tx, codes.ALERT_PENDING, context, alert)
        else:
            await self._fired(tx, context, alert)
        return alert

    async def _goes_on(self, tx: Transaction, context: Context, known: Alert, raised: Raised) -> Alert:
        now = self._clock.now()
        worse = raised.severity < known.severity
        row = await tx.one(
            "UPDATE alerts SET last_seen_at = :now, seen = seen + 1, frozen_since = NULL, quiet_since = NULL,"  # noqa: S608
            " severity = LEAST(severity, :severity), summary = :summary,"
            " annotations = cast(:annotations AS jsonb), version = version + 1"
            f" WHERE id = :id RETURNING {', '.join(Alert.__slots__)}",
            id=known.id,
            now=now,
            severity=str(raised.severity),
            summary=plain(raised.summary),
            annotations=json.dumps(dict(raised.annotations)),
        )
        assert row is not None
        alert = alert_of(row)
        if alert.state == "pending" and alert.pending_until is not None and now >= alert.pending_until:
            return await self._begins_to_fire(tx, context, alert)
        if worse and alert.state != "pending":
            await add_entry(tx, alert.id, now, "worse", who(context), f"{known.severity} became {alert.severity}")
            await self._queue(tx, alert, "fired", now)
        return alert

    async def _begins_to_fire(self, tx: Transaction, context: Context, alert: Alert) -> Alert:
        ALERT.require(alert.state, "firing")
        now = self._clock.now()
        await tx.run("UPDATE alerts SET state = 'firing', fired_at = :now WHERE id = :id", now=now, id=alert.id)
        alert = replace(alert, state="firing", fired_at=now)
        await self._fired(tx, context, alert)
        return alert

    async def _fired(self, tx: Transaction, context: Context, alert: Alert) -> None:
        now = self._clock.now()
        told = alert.summary + (f" (lacks {', '.join(alert.missing)})" if alert.missing else "")
        await add_entry(tx, alert.id, now, "fired", who(context), told)
        await self._queue(tx, alert, "fired", now)
        await self._record(tx, codes.ALERT_FIRED, context, alert)

    # --- what happens to it

    async def freeze(self, tx: Transaction, context: Context, key: str) -> bool:
        """There is no data to judge an open alert by: it stays as it is. Whether there is one."""
        found = await open_of(tx, context.zone, key, lock=True)
        if found is None:
            return False
        if found.frozen_since is None:
            now = self._clock.now()
            await tx.run("UPDATE alerts SET frozen_since = :now WHERE id = :id", now=now, id=found.id)
            await add_entry(tx, found.id, now, "frozen", who(context), "there is no data to judge it by")
        return True

    async def resolve(self, tx: Transaction, context: Context, alert: Alert, why: str) -> None:
        """What it told of is over. The row must be locked. Raises ``illegal_transition``."""
        ALERT.require(alert.state, "resolved")
        now = self._clock.now()
        await tx.run(
            "UPDATE alerts SET state = 'resolved', resolved_at = :now, frozen_since = NULL, version = version + 1"
            " WHERE id = :id",
            now=now,
            id=alert.id,
        )
        await self._stop_steps(tx, alert, now)
        await add_entry(tx, alert.id, now, "resolved", who(context), why)
        if alert.fired_at is not None:
            await self._queue(tx, alert, "resolved", now)
        await self._record(tx, codes.ALERT_RESOLVED, context, alert)

    async def resolve_quiet(self, tx: Transaction, context: Context) -> int:
        """Resolve what flapped and was quiet long enough; how many."""
        rows = await tx.all(
            f"{_SELECT} WHERE zone = :zone AND quiet_since <= :before"
            " AND state IN ('firing', 'acknowledged') ORDER BY id FOR UPDATE SKIP LOCKED",
            zone=context.zone,
            before=self._clock.now() - QUIET,
        )
        for row in rows:
            await self.resolve(tx, context, alert_of(row), "cleared, and quiet since")
        return len(rows)

    async def acknowledge(self, context: Context, identifier: str, *, by: str, note: str = "") -> Alert:
        """Somebody looks at it, which stops its escalation. Raises ``illegal_transition``, ``not_found``."""
        async with self._database.begin() as tx:
            alert = await find(tx, context.zone, identifier, lock=True)
            ALERT.require(alert.state, "acknowledged")
            now = self._clock.now()
            await tx.run(
                "UPDATE alerts SET state = 'acknowledged', acknowledged_at = :now, acknowledged_by = :by,"
                " version = version + 1 WHERE id = :id",
                now=now,
                by=by,
                id=alert.id,
            )
            await self._stop_steps(tx, alert, now)
            await add_entry(tx, alert.id, now, "acknowledged", by, note)
            await self._queue(tx, alert, "acknowledged", now)
            await self._record(tx, codes.ALERT_ACKNOWLEDGED, context, alert)
            return await find(tx, context.zone, identifier)

    async def close(
        self, context: Context, identifier: str, closed_as: ClosedAs, *, by: str, note: str = "", duplicate_of: str = ""
    ) -> Alert:
        """Say what it was: true, false, or a duplicate of another. One that is open is resolved by it.

        Raises ``illegal_transition``, ``not_found``; ``invalid_request`` for a duplicate of nothing or of itself.
        """
        if (closed_as == "duplicate") != bool(duplicate_of) or duplicate_of == identifier:
            raise InvalidRequest("A duplicate, and nothing else, names the other alert that it repeats.")
        async with self._database.begin() as tx:
            alert = await find(tx, context.zone, identifier, lock=True)
            if duplicate_of:
                await find(tx, context.zone, duplicate_of)
            if alert.open:
                await self.resolve(tx, context, alert, f"closed as {closed_as}")
                alert = await find(tx, context.zone, identifier)
            ALERT.require(alert.state, "closed")
            now = self._clock.now()
            await tx.run(
                "UPDATE alerts SET state = 'closed', closed_at = :now, closed_by = :by, closed_as = :closed_as,"
                " duplicate_of = :other, version = version + 1 WHERE id = :id",
                now=now,
                by=by,
                closed_as=closed_as,
                other=duplicate_of or None,
                id=identifier,
            )
            await add_entry(tx, identifier, now, "closed", by, f"{closed_as}. {note}".strip())
            await self._recorder.record(
                tx,
                codes.ALERT_CLOSED,
                "success",
                context,
                subject=Subject(id=identifier, type="alert"),
                key=alert.key,
                closed_as=closed_as,
            )
            return await find(tx, context.zone, identifier)

    async def raise_by_hand(self, context: Context, raised: Raised, *, by: str) -> Alert:
        """A person pages. Raises ``alert_incomplete`` where the alert does not say what it has to."""
        lacking = missing_of(completed(raised).labels, completed(raised).annotations, owned=True)
        if lacking:
            raise BailiwickError(f"The alert lacks {', '.join(lacking)}.", reason="alert_incomplete", missing=lacking)
        async with self._database.begin() as tx:
            alert = await self.open(tx, context, raised, Opening(source="manual"))
            await add_entry(tx, alert.id, self._clock.now(), "raised", by, alert.summary)
            await self._record(tx, codes.ALERT_RAISED, context, alert)
            return alert

    # --- what they share

    async def _queue(self, tx: Transaction, alert: Alert, what: What, now: datetime) -> None:
        await tx.run(
            "INSERT INTO alert_changes (zone, alert, what, at) VALUES (:zone, :alert, :what, :now)",
            zone=alert.zone,
            alert=alert.id,
            what=what,
            now=now,
        )

    async def _stop_steps(self, tx: Transaction, alert: Alert, now: datetime) -> None:
        await tx.run(
            "UPDATE escalation_steps SET state = 'stopped', done_at = :now WHERE alert = :id AND state = 'due'",
            now=now,
            id=alert.id,
        )

    async def _record(self, tx: Transaction, code: EventType, context: Context, alert: Alert) -> None:
        await self._recorder.record(
            tx,
            code,
            "success",
            context,
            subject=Subject(id=alert.id, type="alert"),
            key=alert.key,
            rule=alert.rule,
            severity=str(alert.severity),
            source=alert.source,
        )


_INSERT = f"""
INSERT INTO alerts (id, zone, key, rule, source, state, severity, summary, owner, owner_person, runbook, labels,
  annotations, missing, group_key, began_at, pending_until, fired_at, last_seen_at, flapping)
VALUES (:id, :zone, :key, :rule, :source, :state, :severity, :summary, :owner, :owner_person, :runbook,
  cast(:labels AS jsonb), cast(:annotations AS jsonb), :missing, :group_key, :began_at, :pending_until, :fired_at, :now,
  :flapping)
ON CONFLICT (zone, key) WHERE state IN ('pending', 'firing', 'acknowledged') DO NOTHING
RETURNING {", ".join(Alert.__slots__)}
"""  # noqa: S608
