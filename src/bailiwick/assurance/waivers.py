"""Waivers: dated, owned exceptions, and the only way around a gate.

Whether one is active or expired is read off its dates at the moment of asking; no job makes it so. A control can be
waived only where a document says so, and the canary and the two-person rule never can. Who asked does not approve, nor
does another account of the same person (``kernel/quorum.py``).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal, get_args

from pydantic import Field

from bailiwick.assurance.book import Book, Kind
from bailiwick.assurance.books import Books
from bailiwick.assurance.ports import Granted
from bailiwick.evidence import codes
from bailiwick.evidence.codes import EventType
from bailiwick.evidence.events import Context, Event, Recorder, Subject, rfc3339
from bailiwick.evidence.evidence_records import EvidenceRecords
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import BailiwickError, Conflict, InvalidRequest, NotFound
from bailiwick.kernel.fields import Body, Line, Name
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.machine import Machine
from bailiwick.kernel.permissions import Permission
from bailiwick.kernel.quorum import Action, Approval, Quorum, Terms, payload_hash

Risk = Literal["LOW", "MEDIUM", "HIGH", "CRITICAL"]
RISKS: tuple[str, ...] = get_args(Risk)
LONGEST: Mapping[str, timedelta] = {
    "CRITICAL": timedelta(days=7),
    "HIGH": timedelta(days=7),
    "MEDIUM": timedelta(days=30),
    "LOW": timedelta(days=90),
}
"""How long a waiver of each risk may last."""

MOST_RENEWALS = 2
NEVER = ("canary", "two-person-rule")
"""What no document can make waivable."""
NEVER_OF: Mapping[str, re.Pattern[str]] = {"handover-statement": re.compile(r"[^/]+/canary/release")}
"""Scopes of a control that can be waived which cannot: what the canary found stays so in a pack that says it."""

UNUSED_AFTER = timedelta(days=14)
HEADS_UP = (timedelta(days=7), timedelta(days=3), timedelta(days=1))

FIELDS = ("control", "scope", "reason", "risk", "compensating", "owner", "plan", "valid_until")
"""What a request must name."""

MACHINE = Machine(
    "waiver",
    {
        "draft": ("submitted",),
        "submitted": ("approved", "rejected"),
        "approved": ("active",),
        "rejected": (),
        "active": ("closed", "expired", "revoked"),
        "closed": (),
        "expired": ("renewed",),
        "revoked": (),
        "renewed": (),
    },
)

APPROVE = Action("waiver.approve", Permission.WAIVERS_APPROVE, life=timedelta(days=7))
RELATED_FOR = timedelta(hours=24)
"""How long an account that another one made or raised counts as that other one's."""


# ---------------------------------------------------------------------- documents


class Waivable(Body):
    """A control that gates ask about: whether it may be waived, and the activity whose accountable person owns it."""

    title: Line
    waivable: bool
    owner: Name


class Tier(Body):
    """Who approves. Tier 1 decides first requests, each renewal one tier higher. No risk takes fewer approvers than
    the rules say, whatever stands here."""

    roles: list[Name] = Field(min_length=1, max_length=10)
    approvers: int = Field(1, ge=1, le=5)


def _check_controls(book: Book) -> Iterable[str]:
    for name, control in book.of(CONTROL).items():
        if control.waivable and name in NEVER:
            yield f"WaiverControl {name}: can never be waived"


def _check_tiers(book: Book) -> Iterable[str]:
    for name in book.of(TIER):
        if name not in ("tier-1", "tier-2", "tier-3"):
            yield f"WaiverTier {name}: the tiers are tier-1, tier-2 and tier-3"


CONTROL = Kind(
    "WaiverControl", Waivable, check=_check_controls, two_persons=lambda before, after: bool(after and after.waivable)
)
TIER = Kind("WaiverTier", Tier, check=_check_tiers, two_persons=lambda before, after: True)
KINDS = (CONTROL, TIER)


# ---------------------------------------------------------------------- the record


@dataclass(frozen=True, slots=True)
class Waiver:
    """One waiver as it stands at the moment it was read. ``state`` is by the clock; ``stored`` what was decided;
    ``event`` the id of the one in the ledger by which it was approved."""

    id: str
    zone: str
    control: str
    scope: str
    reason: str
    risk: str
    compensating: str
    owner: str
    plan: str
    requested_by: str
    signed_in: bool
    tier: int
    valid_from: datetime
    valid_until: datetime
    renewals: int
    renews: str | None
    renewed_by: str | None
    approval: str | None
    stored: str
    state: str
    evidence: str
    decided_by: tuple[str, ...]
    decided_at: datetime | None
    settled_at: datetime | None
    event: str
    version: int
    created_at: datetime
    changed_at: datetime

    @property
    def past_due(self) -> bool:
        """Whether it ran out with neither a renewal nor the remedy."""
        return self.state == "expired" and self.settled_at is None

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        answer = {name: getattr(self, name) for name in self.__slots__ if name not in ("stored", "zone", "signed_in")}
        return {**answer, "decided_by": list(self.decided_by), "past_due": self.past_due}


@dataclass(frozen=True, slots=True)
class NewWaiver:
    """What is asked for; None is missing. ``valid_from`` None: now."""

    control: str | None = None
    scope: str | None = None
    reason: str | None = None
    risk: str | None = None
    compensating: str | None = None
    owner: str | None = None
    plan: str | None = None
    valid_until: datetime | None = None
    valid_from: datetime | None = None


# ---------------------------------------------------------------------- rules


def state_at(stored: str, valid_from: datetime, valid_until: datetime, now: datetime) -> str:
    """What a waiver is at ``now``: an approved one is active in ``[from, until)`` and expired from then on."""
    if stored != "approved":
        return stored
    if now >= valid_until:
        return "expired"
    return "active" if now >= valid_from else "approved"


def refuse_wrong(asked: NewWaiver, valid_from: datetime, now: datetime) -> None:
    """Refuse what lacks a field or an end, or lasts longer than its risk allows. Raises ``waiver_incomplete``,
    ``waiver_too_long``, ``invalid_request``."""
    missing = [name for name in FIELDS if not getattr(asked, name)]
    if missing:
        raise InvalidRequest(reason="waiver_incomplete", missing=missing)
    assert asked.risk is not None and asked.valid_until is not None
    if asked.risk not in RISKS:
        raise InvalidRequest(f"The risk is one of {', '.join(RISKS)}.")
    if asked.valid_until <= max(valid_from, now):
        raise InvalidRequest("The waiver would end before it begins.")
    if valid_from < now - timedelta(minutes=5):
        raise InvalidRequest("A waiver does not begin in the past.")
    longest = LONGEST[asked.risk]
    if asked.valid_until - valid_from > longest:
        raise InvalidRequest(reason="waiver_too_long", most_days=longest.days)


def approvers_of(risk: str, tier: Tier | None) -> int:
    """How many must approve: two where the risk is high, whatever a document says."""
    return max(2 if risk in ("HIGH", "CRITICAL") else 1, tier.approvers if tier else 1)


def waivable(book: Book, control: str, scope: str = "") -> bool:
    """Whether a gate lets ``control`` be waived for ``scope``; one that no document names cannot be.

    A control of many things, as ``readiness/pre-deployment/nodes``, is declared by what stands before the first ``/``.
    """
    name = control.partition("/")[0]
    if name in NEVER or (name in NEVER_OF and NEVER_OF[name].fullmatch(scope)):
        return False
    declared = book.of(CONTROL).get(name)
    return declared is not None and declared.waivable


# ---------------------------------------------------------------------- service


class WaiverRegister:
    """Keeps the waivers of all zones, and answers the gates (:class:`~bailiwick.assurance.ports.Waivers`)."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        ids: Ids,
        recorder: Recorder,
        quorum: Quorum,
        books: Books,
        records: EvidenceRecords,
    ) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._recorder = recorder
        self._quorum = quorum
        self._books = books
        self._records = records
        quorum.register(APPROVE)

    # --- asking

    async def draft(self, context: Context, asked: NewWaiver, *, by: str, signed_in: bool = True) -> Waiver:
        """Write a waiver down, to be submitted. Raises what :func:`refuse_wrong` does, ``control_not_waivable``."""
        async with self._database.begin() as tx:
            return await self._draft(tx, context, asked, by=by, signed_in=signed_in)

    async def submit(self, context: Context, identifier: str, *, by: str) -> tuple[Waiver, Approval]:
        """Ask for its approval; who drafted it asks, and whoever submits must be he."""
        async with self._database.begin() as tx:
            waiver = await self._locked(tx, context.zone, identifier)
            MACHINE.require(waiver.state, "submitted")
            if waiver.requested_by != by:
                raise Conflict("Whoever drafted it submits it.")
            book = await self._books.current(tx, context.zone)
            tier = book.of(TIER).get(f"tier-{waiver.tier}")
            terms = Terms(
                needed=approvers_of(waiver.risk, tier),
                roles=tuple(tier.roles) if tier else ("admin",),
                window=RELATED_FOR,
            )
            approval = await self._quorum.request(
                tx,
                context,
                context.zone,
                APPROVE.name,
                _payload(waiver),
                by=by,
                reason=waiver.reason,
                signed_in=waiver.signed_in,
                terms=terms,
            )
            waiver = await self._move(tx, waiver, "submitted", approval=approval.id)
            await self._record(tx, codes.WAIVER_SUBMITTED, context, waiver)
        return waiver, approval

    async def decide(
        self, context: Context, identifier: str, *, person: str, role: str, approves: bool, comment: str = ""
    ) -> tuple[Waiver, Approval]:
        """One approver's word. The waiver is approved with the last word that was missing, rejected with the first no.

        Raises what :meth:`Quorum.vote` does, and ``illegal_transition``.
        """
        async with self._database.begin() as tx:
            waiver = await self._locked(tx, context.zone, identifier)
            MACHINE.require(waiver.state, "approved" if approves else "rejected")
            assert waiver.approval is not None
            approval = await self._quorum.vote_in(
                tx,
                context,
                context.zone,
                waiver.approval,
                person=person,
                role=role,
                approves=approves,
                payload_sha256=await self._hash(tx, waiver.approval),
                comment=comment,
            )
            waiver = await self._settle(tx, context, waiver, approval)
        return waiver, approval

    async def renew(
        self,
        context: Context,
        identifier: str,
        *,
        by: str,
        reason: str,
        valid_until: datetime,
        plan: str = "",
        signed_in: bool = True,
    ) -> Waiver:
        """Draft the renewal of an expired waiver: a new record, linked, a tier higher, with a reason of its own.

        Raises ``illegal_transition``, ``waiver_renewals_exhausted``, ``waiver_too_long``, ``invalid_request`` where
        the reason is the old one.
        """
        async with self._database.begin() as tx:
            old = await self._locked(tx, context.zone, identifier)
            MACHINE.require(old.state, "renewed")
            if old.renewals >= MOST_RENEWALS:
                raise Conflict(reason="waiver_renewals_exhausted", renewals=old.renewals)
            if " ".join(reason.split()).casefold() == " ".join(old.reason.split()).casefold():
                raise InvalidRequest("A renewal has a reason of its own.")
            asked = NewWaiver(
                old.control, old.scope, reason, old.risk, old.compensating, old.owner, plan or old.plan, valid_until
            )
            return await self._draft(tx, context, asked, by=by, signed_in=signed_in, renews=old)

    # --- ending

    async def close(self, context: Context, identifier: str, evidence: str) -> Waiver:
        """The control holds again, as an evidence record shows. On an expired waiver it stays expired and is settled.

        Raises ``not_found`` for a record there is none of, ``illegal_transition``.
        """
        async with self._database.begin() as tx:
            waiver = await self._locked(tx, context.zone, identifier)
            stored = await self._records.get(tx, context.zone, evidence)
            if (verdict := stored.record.verdict(self._clock.now())) is not None and not verdict.green:
                raise Conflict(f"The record says {verdict}: it does not show that the control holds.")
            if waiver.state == "expired":
                if waiver.settled_at is not None:
                    raise Conflict("It is settled already.")
                waiver = await self._move(tx, waiver, "approved", evidence=evidence, settled_at=self._clock.now())
            else:
                MACHINE.require(waiver.state, "closed")
                waiver = await self._move(tx, waiver, "closed", evidence=evidence)
            await self._record(tx, codes.WAIVER_CLOSED, context, waiver, evidence=evidence)
        return waiver

    async def revoke(self, context: Context, identifier: str, why: str) -> Waiver:
        """End it before its time: narrowing, so one person's to do. Raises ``illegal_transition``."""
        async with self._database.begin() as tx:
            waiver = await self._locked(tx, context.zone, identifier)
            MACHINE.require(waiver.state, "revoked")
            waiver = await self._move(tx, waiver, "revoked")
            await self._record(tx, codes.WAIVER_REVOKED, context, waiver, why=why)
        return waiver

    # --- what gates ask

    async def covering(self, tx: Transaction, zone: str, control: str, scope: str, at: datetime) -> str | None:
        """The id of the waiver of ``control`` for ``scope`` that is active at ``at``; None without one."""
        if not waivable(await self._books.current(tx, zone), control, scope):
            return None
        rows = await tx.all(
            "SELECT id FROM waivers WHERE zone = :zone AND control = :control AND scope = :scope"
            " AND state = 'approved' AND valid_from <= :at AND valid_until > :at ORDER BY valid_until DESC, id",
            zone=zone,
            control=control,
            scope=scope,
            at=at,
        )
        for row in rows:
            if not await self.altered(tx, await self.get(tx, zone, row["id"])):
                return str(row["id"])
        return None

    async def granted(self, tx: Transaction, zone: str, waiver: str, at: datetime) -> Granted | None:
        """The waiver by its id, where it is active at ``at``; None otherwise."""
        try:
            found = await self.get(tx, zone, waiver)
        except NotFound:
            return None
        active = state_at(found.stored, found.valid_from, found.valid_until, at) == "active"
        allowed = waivable(await self._books.current(tx, zone), found.control, found.scope)
        if not active or not allowed or await self.altered(tx, found):
            return None
        return Granted(found.id, found.control, found.scope, found.valid_until, found.event)

    async def altered(self, tx: Transaction, waiver: Waiver) -> bool:
        """Whether an approved waiver is another one than was approved: somebody changed its row. It covers nothing."""
        approved = await tx.value(
            "SELECT payload_sha256 FROM approvals WHERE id = :id AND zone = :zone AND action = :action"
            " AND ended = 'executed'",
            id=waiver.approval,
            zone=waiver.zone,
            action=APPROVE.name,
        )
        return bool(payload_hash(APPROVE.name, waiver.zone, _payload(waiver)) != approved)

    async def used(self, tx: Transaction, context: Context, waiver: str, gate: str) -> None:
        """Note that ``gate`` let something pass because of it. Raises ``waiver_inactive``, ``not_found``."""
        found = await self.get(tx, context.zone, waiver)
        if found.state != "active" or await self.altered(tx, found):
            raise Conflict(reason="waiver_inactive", state=found.state)
        await tx.run(
            "INSERT INTO waiver_uses (waiver, gate, at) VALUES (:waiver, :gate, :now)",
            waiver=waiver,
            gate=gate,
            now=self._clock.now(),
        )
        await self._recorder.record(
            tx,
            codes.WAIVER_USED,
            "success",
            context,
            subject=Subject(id=waiver, type="waiver"),
            gate=gate,
            control=found.control,
        )

    # --- reading

    async def get(self, tx: Transaction, zone: str, identifier: str) -> Waiver:
        """One waiver. Raises ``not_found``."""
        row = await tx.one("SELECT * FROM waivers WHERE zone = :zone AND id = :id", zone=zone, id=identifier)
        if row is None:
            raise NotFound("There is no such waiver.")
        return _waiver(row, self._clock.now())

    async def uses(self, tx: Transaction, identifier: str, limit: int = 100) -> list[dict[str, Any]]:
        """Where it was used, newest first."""
        rows = await tx.all(
            "SELECT gate, at FROM waiver_uses WHERE waiver = :id ORDER BY at DESC LIMIT :limit",
            id=identifier,
            limit=limit,
        )
        return [dict(row) for row in rows]

    async def list(
        self, tx: Transaction, zone: str, *, state: str = "", before: str = "g", limit: int = 100
    ) -> list[Waiver]:
        """Waivers with ids before ``before``, newest first; those in ``state`` by the clock, or all."""
        rows = await tx.all(
            f"SELECT * FROM (SELECT *, {_STATE} AS standing FROM waivers WHERE zone = :zone) w"  # noqa: S608
            " WHERE id < :before AND (:state = '' OR standing = :state) ORDER BY id DESC LIMIT :limit",
            zone=zone,
            now=self._clock.now(),
            state=state,
            before=before,
            limit=limit,
        )
        return [_waiver(row, self._clock.now()) for row in rows]

    # --- inside

    async def settle_votes(self) -> int:
        """Approve, or reject, what was voted on elsewhere than here, or whose time ran out; how many."""
        count = 0
        async with self._database.begin() as tx:
            rows = await tx.all(
                "SELECT w.zone, w.id, w.approval FROM waivers w WHERE w.state = 'submitted' ORDER BY w.id FOR UPDATE"
            )
            for row in rows:
                waiver = await self._locked(tx, row["zone"], row["id"])
                approval = await self._quorum.get_in(tx, row["zone"], row["approval"])
                if approval.state in ("approved", "rejected", "withdrawn", "expired"):
                    before = waiver.stored
                    waiver = await self._settle(tx, Context(row["zone"]), waiver, approval)
                    count += waiver.stored != before
        return count

    async def _settle(self, tx: Transaction, context: Context, waiver: Waiver, approval: Approval) -> Waiver:
        if approval.state in ("rejected", "withdrawn", "expired"):
            waiver = await self._move(tx, waiver, "rejected", decided_by=[approval.ended_by or "the clock"])
            await self._record(tx, codes.WAIVER_REJECTED, context, waiver)
        elif approval.state == "approved":
            by = context.actor.user or waiver.requested_by
            try:
                await self._quorum.execute(tx, context, waiver.zone, approval.id, APPROVE.name, _payload(waiver), by)
            except BailiwickError as error:
                if error.reason not in ("approval_required", "approval_requester_gone"):
                    raise
                return waiver
            people = [vote.person for vote in approval.votes if vote.approves]
            event = await self._record(tx, codes.WAIVER_APPROVED, context, waiver)
            waiver = await self._move(tx, waiver, "approved", decided_by=people, event=event.id)
            if waiver.renews is not None:
                old = await self._locked(tx, waiver.zone, waiver.renews)
                MACHINE.require(old.state, "renewed")
                old = await self._move(tx, old, "renewed", renewed_by=waiver.id)
                await self._record(tx, codes.WAIVER_RENEWED, context, old, renewal=waiver.id)
        return waiver

    async def _draft(
        self,
        tx: Transaction,
        context: Context,
        asked: NewWaiver,
        *,
        by: str,
        signed_in: bool,
        renews: Waiver | None = None,
    ) -> Waiver:
        now = self._clock.now()
        valid_from = asked.valid_from or now
        refuse_wrong(asked, valid_from, now)
        assert asked.control is not None and asked.scope is not None
        if not waivable(await self._books.current(tx, context.zone), asked.control, asked.scope):
            raise InvalidRequest(
                f"The control {asked.control} cannot be waived for {asked.scope}.", reason="control_not_waivable"
            )
        identifier, renewals = self._ids(), renews.renewals + 1 if renews else 0
        added = await tx.run(
            "INSERT INTO waivers (id, zone, control, scope, reason, risk, compensating, owner, plan, requested_by,"
            " signed_in, tier, valid_from, valid_until, renewals, renews, state, created_at, changed_at) VALUES (:id,"
            " :zone, :control, :scope, :reason, :risk, :compensating, :owner, :plan, :by, :signed_in, :tier,"
            " :valid_from, :valid_until, :renewals, :renews, 'draft', :now, :now) ON CONFLICT DO NOTHING",
            id=identifier,
            zone=context.zone,
            **{name: getattr(asked, name) for name in FIELDS},
            by=by,
            signed_in=signed_in,
            tier=1 + renewals,
            valid_from=valid_from,
            renewals=renewals,
            renews=renews.id if renews else None,
            now=now,
        )
        if not added:
            raise Conflict("Its renewal is asked for already.")
        waiver = await self.get(tx, context.zone, identifier)
        await self._record(tx, codes.WAIVER_DRAFTED, context, waiver)
        return waiver

    async def _locked(self, tx: Transaction, zone: str, identifier: str) -> Waiver:
        await tx.run("SELECT id FROM waivers WHERE zone = :zone AND id = :id FOR UPDATE", zone=zone, id=identifier)
        return await self.get(tx, zone, identifier)

    async def _hash(self, tx: Transaction, approval: str) -> str:
        found: str = await tx.value("SELECT payload_sha256 FROM approvals WHERE id = :id", id=approval)
        return found

    async def _move(
        self,
        tx: Transaction,
        waiver: Waiver,
        state: str,
        *,
        approval: str | None = None,
        evidence: str = "",
        decided_by: Sequence[str] = (),
        renewed_by: str | None = None,
        settled_at: datetime | None = None,
        event: str = "",
    ) -> Waiver:
        await tx.run(
            "UPDATE waivers SET state = :state, approval = coalesce(:approval, approval), evidence = CASE WHEN"
            " :evidence = '' THEN evidence ELSE :evidence END, decided_by = CASE WHEN :decided THEN :decided_by ELSE"
            " decided_by END, decided_at = CASE WHEN :decided THEN :now ELSE decided_at END, renewed_by ="
            " coalesce(:renewed_by, renewed_by), settled_at = coalesce(:settled_at, settled_at), event = CASE WHEN"
            " :event = '' THEN event ELSE :event END,"
            " version = version + 1, changed_at = :now WHERE id = :id",
            state=state,
            approval=approval,
            evidence=evidence,
            decided=bool(decided_by),
            decided_by=[*decided_by],
            renewed_by=renewed_by,
            settled_at=settled_at,
            event=event,
            now=self._clock.now(),
            id=waiver.id,
        )
        return await self.get(tx, waiver.zone, waiver.id)

    async def _record(
        self, tx: Transaction, kind: EventType, context: Context, waiver: Waiver, **details: Any
    ) -> Event:
        return await self._recorder.record(
            tx,
            kind,
            "success",
            context,
            subject=Subject(id=waiver.id, type="waiver"),
            control=waiver.control,
            scope=waiver.scope,
            risk=waiver.risk,
            until=rfc3339(waiver.valid_until),
            **details,
        )


def _payload(waiver: Waiver) -> dict[str, Any]:
    """What is approved: every word of it."""
    return {
        "waiver": waiver.id,
        **{name: getattr(waiver, name) for name in FIELDS if name != "valid_until"},
        "valid_from": rfc3339(waiver.valid_from),
        "valid_until": rfc3339(waiver.valid_until),
        "tier": waiver.tier,
        "renews": waiver.renews or "",
    }


_STATE = (
    "CASE WHEN state <> 'approved' THEN state WHEN :now >= valid_until THEN 'expired'"
    " WHEN :now >= valid_from THEN 'active' ELSE 'approved' END"
)


def _waiver(row: Row, now: datetime) -> Waiver:
    return Waiver(
        **{name: row[name] for name in Waiver.__slots__ if name not in ("stored", "state", "decided_by")},
        stored=row["state"],
        state=state_at(row["state"], row["valid_from"], row["valid_until"], now),
        decided_by=tuple(row["decided_by"]),
    )
