"""What people and the program do with incidents. Every step leaves a line in the timeline and an event."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

from pydantic import ValidationError

from bailiwick.assurance.books import Books
from bailiwick.assurance.incident_states import INCIDENT
from bailiwick.assurance.override_records import Ask, Override
from bailiwick.assurance.overrides import Overrides
from bailiwick.assurance.ports import Notice, Task
from bailiwick.assurance.standing_evidence import require_evidence
from bailiwick.evidence import codes
from bailiwick.evidence.codes import EventType
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.evidence.evidence_records import EvidenceRecords
from bailiwick.evidence.pack_requests import PackRequests
from bailiwick.handover.incidents.containment import Look, Preview, arguments_of, preview
from bailiwick.handover.incidents.containments import containment_of, note_containment, settled
from bailiwick.handover.incidents.documents import TRIGGER, Class, cadence
from bailiwick.handover.incidents.openings import (
    RUNBOOK,
    BackUp,
    Opening,
    Ports,
    Review,
    incident_key,
    nowhere,
    overdue_key,
    raised_of,
)
from bailiwick.handover.incidents.packs import selection
from bailiwick.handover.incidents.records import (
    REVIEWED_WITHIN,
    Incident,
    actions_of,
    add_line,
    alerts_of,
    find,
    ongoing_of,
    put,
    refuse_other_severity,
)
from bailiwick.handover.incidents.recovery import Condition, Recovery, overall, refuse_unmet, unmet_exits
from bailiwick.handover.incidents.rooms import Rooms
from bailiwick.handover.incidents.streams import Ask as StreamsNow
from bailiwick.handover.incidents.streams import unknown
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import BailiwickError, Conflict, Denied, InvalidRequest
from bailiwick.kernel.http import Caller
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.severity import Severity

ASKED_AGAIN = timedelta(minutes=15)
"""So long an answer that was not heard is given again."""


class Incidents:
    """Keeps the incidents of all zones. ``mandates_live``: how long a mandate is good for; ``streams``: tells which
    long requests go on; ``back_up`` has a base backup begun beside a pack."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        ids: Ids,
        recorder: Recorder,
        books: Books,
        records: EvidenceRecords,
        overrides: Overrides,
        packs: PackRequests,
        recovery: Recovery,
        ports: Ports,
        *,
        mandates_live: timedelta,
        streams: StreamsNow = unknown,
        back_up: BackUp = nowhere,
    ) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._recorder = recorder
        self._books = books
        self._records = records
        self._overrides = overrides
        self._packs = packs
        self._recovery = recovery
        self._ports = ports
        self._rooms = Rooms(books, ports.notices, ids)
        self._mandates_live = mandates_live
        self._streams = streams
        self._back_up = back_up

    # --- beginning

    async def open(self, tx: Transaction, context: Context, opening: Opening) -> tuple[Incident, bool]:
        """Open it, or link what is new with the one of its key that goes on; whether it is new.

        The on-call persons take it: the primary commands, the secondary writes.
        """
        zone, now = context.zone, self._clock.now()
        await tx.run("SELECT pg_advisory_xact_lock(hashtext('bailiwick.incidents'), hashtext(:zone))", zone=zone)
        standing = await ongoing_of(tx, zone, opening.key)
        if standing is not None:
            await self.link(tx, standing, opening.alerts)
            return standing, False
        commander = await self._ports.on_call.on_call(tx, zone, "primary", now)
        scribe = await self._ports.on_call.on_call(tx, zone, "secondary", now)
        identifier = self._ids()
        await tx.run(
            'INSERT INTO incidents (id, zone, number, key, trigger, title, severity, "class", state, drill, public,'
            " runbook, exits, began_at, opened_at, opened_by, commander, scribe, update_due)"
            " SELECT :id, :zone, coalesce(max(number), 0) + 1, :key, :trigger, :title, :severity, :class_, 'open',"
            " :drill, :public, :runbook, :exits, :began_at, :now, :by, :commander, :scribe, :update_due"
            " FROM incidents WHERE zone = :zone",
            id=identifier,
            zone=zone,
            key=opening.key,
            trigger=opening.trigger,
            title=opening.title,
            severity=opening.severity.value,
            class_=opening.class_,
            drill=opening.drill,
            public=opening.public,
            runbook=opening.runbook,
            exits=[*opening.exits],
            began_at=min(opening.began_at or now, now),
            now=now,
            by=context.actor.user or "bailiwick",
            commander=commander.username if commander else "",
            scribe=scribe.username if scribe else "",
            update_due=now + cadence(opening.severity),
        )
        incident = await find(tx, zone, identifier)
        who = f"commander {incident.commander or 'nobody'}, scribe {incident.scribe or 'nobody'}"
        await self._note(tx, codes.INCIDENT_OPENED, context, incident, "opened", f"{incident.title} ({who})")
        if opening.alerts:
            alert = opening.alerts[0]  # somebody is called already
        else:
            alert = await self._ports.alerts.fire(tx, context, raised_of(incident, opening.owner))
        await put(tx, incident.id, alert=alert)
        await self.link(tx, incident, opening.alerts)
        return await find(tx, zone, identifier), True

    async def by_hand(
        self, context: Context, *, title: str, severity: Severity, class_: Class, trigger: str = "", public: str = ""
    ) -> Incident:
        """Open one by hand, as a trigger says where one is named. Raises ``invalid_request`` for an unknown trigger."""
        async with self._database.begin() as tx:
            opening = Opening(f"hand/{self._ids()}", title, severity, class_, public=public)
            if trigger:
                known = await self._books.read(tx, context.zone, TRIGGER, trigger)
                if known is None:
                    raise InvalidRequest(f"There is no IncidentTrigger {trigger}.")
                opening = Opening.of(trigger, known, began_at=None)
            return (await self.open(tx, context, opening))[0]

    async def link(self, tx: Transaction, incident: Incident, alerts: Sequence[str]) -> None:
        """Make alerts part of it."""
        for alert in alerts:
            await tx.run(
                "INSERT INTO incident_alerts (incident, alert, linked_at) VALUES (:id, :alert, :now)"
                " ON CONFLICT DO NOTHING",
                id=incident.id,
                alert=alert,
                now=self._clock.now(),
            )

    # --- while it goes on

    async def acknowledge(self, context: Context, identifier: str) -> Incident:
        """Somebody works on it; without a commander he is it."""
        async with self._database.begin() as tx:
            incident = await self._unclosed(tx, context, identifier)
            if incident.acknowledged_at is not None:
                return incident
            by = context.actor.user
            await put(tx, incident.id, acknowledged_at=self._clock.now(), commander=incident.commander or by)
            await self._note(tx, codes.INCIDENT_ACKNOWLEDGED, context, incident, "acknowledged", f"{by} works on it")
            return await find(tx, context.zone, incident.id)

    async def tell(
        self, context: Context, identifier: str, told: str, *, public: str | None = None, what: str = "update"
    ) -> Incident:
        """Tell how it goes: whoever waits for news has it until the cadence is over again. ``public`` goes to the
        status page. ``what``: ``update``, or ``blast-radius`` for what was within reach of an exposed secret."""
        now = self._clock.now()
        async with self._database.begin() as tx:
            incident = await self._unclosed(tx, context, identifier)
            columns: dict[str, Any] = {} if public is None else {"public": public}
            if incident.ongoing and what == "update":
                columns["update_due"] = now + cadence(incident.severity)
                await self._ports.alerts.clear(tx, context, overdue_key(incident))
            if columns:
                await put(tx, incident.id, **columns)
            await self._note(tx, codes.INCIDENT_TOLD, context, incident, what, told)
            for role in ("ops_owner", "product_owner"):
                subject = f"[{incident.severity}] {incident.name}: {incident.title}"
                if incident.class_ == "security":
                    subject, role = f"[{incident.severity}] {incident.name}", "security_owner"
                key = f"incident/{incident.id}/{role}/{now.isoformat()}"
                await self._ports.notices.send(
                    tx, context.zone, Notice(f"role:{role}", key, subject[:200], told, incident.severity)
                )
            return await find(tx, context.zone, incident.id)

    async def assign(
        self,
        context: Context,
        identifier: str,
        *,
        commander: str | None = None,
        scribe: str | None = None,
        severity: Severity | None = None,
        class_: Class | None = None,
    ) -> Incident:
        """Give it to others, or another severity or class.

        Raises ``severity_held`` for a lower severity before its exit condition is met, and where it would cease to be
        a security incident.
        """
        async with self._database.begin() as tx:
            incident = await self._unclosed(tx, context, identifier)
            columns: dict[str, Any] = {}
            for name, value in (("commander", commander), ("scribe", scribe)):
                if value is not None and value != getattr(incident, name):
                    if not await tx.value(
                        "SELECT is_active FROM users WHERE zone = :z AND username = :u", z=context.zone, u=value
                    ):
                        raise InvalidRequest(f"There is no active user {value}.")
                    columns[name] = value
            if severity is not None and severity is not incident.severity:
                refuse_other_severity(incident, severity, await unmet_exits(tx, incident))
                columns["severity"] = severity.value
                if incident.update_due is not None:
                    columns["update_due"] = min(incident.update_due, self._clock.now() + cadence(severity))
            if class_ is not None and class_ != incident.class_:
                if incident.class_ == "security":
                    raise BailiwickError(reason="severity_held", because=["a security incident stays one"])
                columns["class_"] = class_
            if not columns:
                return incident
            await put(tx, incident.id, **columns)
            told = ", ".join(f"{name.removesuffix('_')} {value}" for name, value in columns.items()
                             if name != "update_due")  # fmt: skip
            await self._note(tx, codes.INCIDENT_CHANGED, context, incident, "changed", told)
            return await find(tx, context.zone, incident.id)

    # --- containing

    async def preview(
        self, context: Context, identifier: str, action: str, given: Mapping[str, str], why: str = "preview"
    ) -> Preview:
        """What an action would hit now; of no incident where it is only looked at. Raises ``invalid_request``,
        ``not_found``, ``conflict``."""
        found, arguments = arguments_of(action, given, why)
        streams = await self._streams(context.zone)
        async with self._database.begin() as tx:
            if identifier:
                await self._unclosed(tx, context, identifier)
            operation = self._overrides.operations(await self._books.current(tx, context.zone)).get(found.operation)
            if operation is None:
                raise Conflict(f"{found.operation} is done by the API's workers, and this is none.")
            look = Look(tx, context.zone, arguments, self._clock, self._mandates_live, streams)
            try:
                return await preview(look, action, found, operation)
            except ValidationError as error:
                raise InvalidRequest(f"The arguments of {action}: {error.errors()[0]['msg']}") from None

    async def contain(
        self,
        context: Context,
        caller: Caller,
        identifier: str,
        action: str,
        given: Mapping[str, str],
        *,
        why: str,
        sha256: str,
    ) -> tuple[Incident, dict[str, Any]]:
        """Do an action, exactly as previewed under ``sha256``, as one person; another reviews it within a day.

        The act, its override, the incident that is contained by it and the line of its timeline are one transaction.
        Asked for again under the same hash while it stands, it is not done again: by who did not hear the answer, so
        within :data:`ASKED_AGAIN` and with nothing else done since. Raises ``approval_changed`` where it
        is not what was read any more, and what the operation refuses.
        """
        try:
            seen = await self.preview(context, identifier, action, given, why)
            if seen.sha256 != sha256:
                raise Conflict("It is not what you read any more: preview again.", reason="approval_changed")
        except Conflict:
            if (done := await self._done_already(context, identifier, action, sha256)) is not None:
                return done
            raise
        found, arguments = arguments_of(action, given, why)
        async with self._database.begin() as tx:
            incident = await self._unclosed(tx, context, identifier)
        ask = Ask(found.operation, arguments, why, incident.name, "CRITICAL")

        async def contained(tx: Transaction, override: Override) -> None:
            await self._contained(tx, context, incident.id, seen, override)

        done_by = await self._overrides.break_glass(context, caller, ask, also=contained)
        async with self._database.begin() as tx:
            await settled(tx, done_by.id, self._clock.now())
            incident = await find(tx, context.zone, incident.id)
        return incident, {"preview": seen.document(), "override": done_by.document()}

    async def _contained(
        self, tx: Transaction, context: Context, identifier: str, seen: Preview, override: Override
    ) -> None:
        incident = await self._unclosed(tx, context, identifier)
        now = self._clock.now()
        if incident.ongoing:
            await put(
                tx, incident.id, state="contained", contained_at=incident.contained_at or now,
                acknowledged_at=incident.acknowledged_at or now,
            )  # fmt: skip
        await note_containment(tx, incident.id, seen, override, now)
        told = f"{seen.title}: {seen.target}; taken back {seen.back}; review until {override.review_due}"
        if seen.uncut:
            told = f"{told}; not cut: {', '.join(seen.uncut)}"
        await self._note(
            tx, codes.INCIDENT_CONTAINED, context, incident, "contained", told, ref=f"override/{override.id}"
        )

    async def _done_already(
        self, context: Context, identifier: str, action: str, sha256: str
    ) -> tuple[Incident, dict[str, Any]] | None:
        """What was done under this hash of this incident, where it was: who asks again did not hear the answer."""
        async with self._database.begin() as tx:
            incident = await self._unclosed(tx, context, identifier)
            done = await containment_of(tx, incident.id, action, sha256, self._clock.now() - ASKED_AGAIN)
            if done is None:
                return None
            override = await self._overrides.get(tx, context.zone, done)
            if override.state not in ("review_due", "confirmed"):
                return None
        return incident, {"preview": None, "override": override.document()}

    async def declare_contained(self, context: Context, identifier: str, how: str) -> Incident:
        """It was contained by something that is not done here; a person says what."""
        async with self._database.begin() as tx:
            incident = await self._unclosed(tx, context, identifier)
            INCIDENT.require(incident.state, "contained")
            now = self._clock.now()
            await put(
                tx, incident.id, state="contained", contained_at=incident.contained_at or now,
                acknowledged_at=incident.acknowledged_at or now,
            )  # fmt: skip
            await self._note(tx, codes.INCIDENT_CONTAINED, context, incident, "contained", how)
            return await find(tx, context.zone, incident.id)

    # --- preserving

    async def preserve(self, context: Context, identifier: str) -> Incident:
        """Have one signed pack built of everything since an hour before it began. Again only where that failed."""
        async with self._database.begin() as tx:
            incident = await self._unclosed(tx, context, identifier)
            state = await tx.value("SELECT state FROM evidence_packs WHERE id = :id", id=incident.pack)
            if state is not None and state != "failed":
                return await self.note_preserved(tx, context, incident)
            asked = await self._packs.ask(tx, context, selection(incident, self._clock), kept=True)
            await put(tx, incident.id, pack=asked.id)
            told = f"evidence pack {asked.id}; {await self._back_up(tx, context)}"
            await self._note(tx, codes.INCIDENT_PRESERVING, context, incident, "preserving", told)
            return await find(tx, context.zone, incident.id)

    async def note_preserved(self, tx: Transaction, context: Context, incident: Incident) -> Incident:
        """Take in that its pack is built, if it is."""
        row = await tx.one(
            "SELECT state, sha256, finished_at, error FROM evidence_packs WHERE id = :id", id=incident.pack
        )
        if row is not None and row["state"] == "failed" and incident.preserved_at is None:
            now = self._clock.now()
            told = f"evidence pack {incident.pack} could not be built: {row['error']}; preserve again"
            if await add_line(tx, incident.id, "preserving", told, at=now, now=now, ref=f"pack/{incident.pack}/failed"):
                await self._rooms.tell(tx, incident, "preserving", told)
        if row is None or row["state"] != "built" or incident.preserved_at is not None:
            return incident
        await put(tx, incident.id, preserved_at=row["finished_at"])
        told = f"evidence pack {incident.pack}, sha256 {row['sha256']}"
        await self._note(
            tx, codes.INCIDENT_PRESERVED, context, incident, "preserved", told, ref=f"pack/{incident.pack}"
        )
        return await find(tx, incident.zone, incident.id)

    # --- recovering

    async def judge(self, context: Context, identifier: str) -> tuple[Incident, list[Condition]]:
        """Measure whether it is over; what was found is kept."""
        async with self._database.begin() as tx:
            incident = await self._unclosed(tx, context, identifier)
            incident = await self.note_preserved(tx, context, incident)
            return incident, await self._judge(tx, context, incident)

    async def _judge(self, tx: Transaction, context: Context, incident: Incident) -> list[Condition]:
        conditions = await self._recovery.measure(tx, incident)
        verdict = overall(conditions)
        await tx.run(
            "INSERT INTO incident_judgements (incident, number, at, by, verdict, conditions)"
            " SELECT :id, coalesce(max(number), 0) + 1, :now, :by, :verdict, cast(:conditions AS jsonb)"
            " FROM incident_judgements WHERE incident = :id",
            id=incident.id,
            now=self._clock.now(),
            by=context.actor.user or "bailiwick",
            verdict=verdict.value,
            conditions=json.dumps([each.document() for each in conditions]),
        )
        told = ", ".join(f"{each.name} {each.verdict}" for each in conditions)
        await self._note(tx, codes.INCIDENT_JUDGED, context, incident, "judged", told, verdict=verdict.value)
        return conditions

    async def recover(self, context: Context, identifier: str) -> tuple[Incident, list[Condition]]:
        """It is over. Raises ``preserve_first`` before its evidence is preserved, ``recovery_unproven``."""
        incident, conditions = await self._measured(context, identifier)
        refuse_unmet(conditions)
        return incident, conditions

    async def _measured(self, context: Context, identifier: str) -> tuple[Incident, list[Condition]]:
        """Measure and, if all is PASS, note that it is over; a measurement that fails is kept as well."""
        async with self._database.begin() as tx:
            incident = await self._unclosed(tx, context, identifier)
            INCIDENT.require(incident.state, "recovered")
            incident = await self.note_preserved(tx, context, incident)
            if incident.preserved_at is None:
                raise BailiwickError(reason="preserve_first")
            conditions = await self._judge(tx, context, incident)
            if not overall(conditions).green:
                return incident, conditions
            now, by = self._clock.now(), context.actor.user
            await put(
                tx, incident.id, state="recovered", recovered_at=now, recovered_by=by, update_due=None,
                review_due=now + REVIEWED_WITHIN,
            )  # fmt: skip
            await self._note(tx, codes.INCIDENT_RECOVERED, context, incident, "recovered", "all conditions PASS")
            for key in (incident_key(incident), overdue_key(incident)):
                await self._ports.alerts.clear(tx, context, key)
            owner = f"person:{incident.commander}" if incident.commander else "incident-response"
            task = Task(f"incident/{incident.id}/review", f"Review {incident.name}", owner, now + REVIEWED_WITHIN,
                        Severity.P2)  # fmt: skip
            await self._ports.tasks.open(tx, context, task)
            return await find(tx, context.zone, incident.id), conditions

    # --- learning

    async def review(self, context: Context, identifier: str, review: Review) -> Incident:
        """What happened, why, and what is to be done so that it does not again; each action is a task."""
        now, by = self._clock.now(), context.actor.user
        async with self._database.begin() as tx:
            incident = await self._unclosed(tx, context, identifier)
            INCIDENT.require(incident.state, "reviewed")
            told = {"summary": review.summary, "cause": review.cause, "by": by,
                    "late": incident.review_due is not None and now > incident.review_due}  # fmt: skip
            await put(
                tx, incident.id, state="reviewed", reviewed_at=incident.reviewed_at or now, review=json.dumps(told)
            )
            first = await tx.value(
                "SELECT coalesce(max(number), 0) FROM incident_actions WHERE incident = :id", id=incident.id
            )
            for number, (title, owner, due) in enumerate(review.actions, start=int(first) + 1):
                await tx.run(
                    "INSERT INTO incident_actions (incident, number, title, owner, due, state, changed_at)"
                    " VALUES (:id, :number, :title, :owner, :due, 'open', :now)",
                    id=incident.id,
                    number=number,
                    title=title,
                    owner=owner,
                    due=due,
                    now=now,
                )
                await self._ports.tasks.open(tx, context, Task(_source(incident, number), title, owner, due))
            await self._note(tx, codes.INCIDENT_REVIEWED, context, incident, "reviewed", review.summary)
            await self._ports.tasks.close(tx, context, f"incident/{incident.id}/review", "reviewed")
            return await find(tx, context.zone, incident.id)

    async def do_action(self, context: Context, identifier: str, number: int) -> list[dict[str, Any]]:
        """An action of the review is done, says a person; somebody else verifies it."""
        return await self._move(context, identifier, number, "open", "done", done_by=context.actor.user)

    async def verify_action(self, context: Context, identifier: str, number: int, record: str) -> list[dict[str, Any]]:
        """It is verified by an evidence record that is newer than the review. Raises ``evidence_needed``,
        ``permission_denied`` for who did it himself."""
        return await self._move(
            context, identifier, number, "done", "verified", verified_by=context.actor.user, record=record
        )

    async def _move(
        self, context: Context, identifier: str, number: int, before: str, after: str, *, done_by: str = "",
        verified_by: str = "", record: str = "",
    ) -> list[dict[str, Any]]:  # fmt: skip
        now = self._clock.now()
        async with self._database.begin() as tx:
            incident = await self._unclosed(tx, context, identifier)
            row = next((each for each in await actions_of(tx, incident.id) if each["number"] == number), None)
            if row is None or row["state"] != before:
                raise Conflict(f"There is no action {number} that is {before}.")
            if after == "verified":
                if row["done_by"] == verified_by:
                    raise Denied("Whoever did it does not verify it.")
                await require_evidence(
                    tx, self._records, context.zone, record, now, since=incident.reviewed_at or incident.opened_at
                )
                await self._ports.tasks.close(tx, context, _source(incident, number), "verified")
            await tx.run(
                "UPDATE incident_actions SET state = :after, done_by = CASE WHEN :done_by = '' THEN done_by"
                " ELSE :done_by END, verified_by = :verified_by, record = :record, changed_at = :now"
                " WHERE incident = :id AND number = :number",
                after=after,
                done_by=done_by,
                verified_by=verified_by,
                record=record,
                now=now,
                id=incident.id,
                number=number,
            )
            await self._note(
                tx, codes.INCIDENT_CHANGED, context, incident, "action", f"action {number} is {after}: {row['title']}"
            )
            return await actions_of(tx, incident.id)

    async def close(self, context: Context, identifier: str) -> Incident:
        """Close it: recovered by measurement, reviewed, every action verified, every exit condition met.

        Raises ``illegal_transition``, ``actions_unverified``, ``severity_held``.
        """
        async with self._database.begin() as tx:
            incident = await self._unclosed(tx, context, identifier)
            if incident.state != "reviewed":
                if incident.state == "recovered":
                    raise Conflict(reason="review_missing")
                INCIDENT.require(incident.state, "closed")
            left = [each for each in await actions_of(tx, incident.id) if each["state"] != "verified"]
            if left:
                named = [f"{each['number']}: {each['title']} ({each['state']})" for each in left]
                raise Conflict(reason="actions_unverified", actions=named)
            if unmet := await unmet_exits(tx, incident):
                raise BailiwickError(reason="severity_held", because=unmet)
            await self._note(tx, codes.INCIDENT_CLOSED, context, incident, "closed", "closed")
            await put(tx, incident.id, state="closed", closed_at=self._clock.now(), closed_by=context.actor.user)
            return await find(tx, context.zone, incident.id)

    # --- inside

    async def _unclosed(self, tx: Transaction, context: Context, identifier: str) -> Incident:
        incident = await find(tx, context.zone, identifier, lock=True)
        if incident.state == "closed":
            raise Conflict(reason="incident_closed")
        return incident

    async def _note(
        self,
        tx: Transaction,
        kind: EventType,
        context: Context,
        incident: Incident,
        what: str,
        told: str,
        *,
        ref: str | None = None,
        **details: Any,
    ) -> None:
        """A line and an event of the same thing; a security incident's event says no more than that there is one."""
        now = self._clock.now()
        by = context.actor.user or "bailiwick"
        if await add_line(tx, incident.id, what, told, at=now, now=now, by=by, ref=ref):
            await self._rooms.tell(tx, incident, what, told)
        await self._recorder.record(
            tx,
            kind,
            "success",
            context,
            subject=Subject(id=incident.id, type="incident"),
            incident=incident.name,
            severity=incident.severity.value,
            told="" if incident.class_ == "security" else told[:500],
            **details,
        )


def _source(incident: Incident, number: int) -> str:
    return f"incident/{incident.id}/action/{number}"


__all__ = [
    "RUNBOOK",
    "BackUp",
    "Incidents",
    "Opening",
    "Ports",
    "Review",
    "alerts_of",
    "incident_key",
    "nowhere",
    "overdue_key",
]
