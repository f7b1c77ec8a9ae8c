"""The entitlement ledger: who is given what, by double entry, written down when it is given and when it is taken.

Every posting has two legs that add up to nothing, *desired* (what was given) and *observed* (what must be found at
the connector), and only ever one of a kind stands per subject and resource; the database holds the sum and lets nobody
change what stands. What it says is compared with what is found: a role that nobody gave is *excess*.

People's roles are followed from the recorded events alone, so that a row changed behind their back shows.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bailiwick.assurance.reconciliation.own import OWN
from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject, decode
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.errors import Conflict
from bailiwick.kernel.ids import Ids

_STEP = 2_000
_TAKEN = frozenset({codes.USER_DISABLED.code, codes.USER_DELETED.code})
_FOLLOWED = sorted({codes.USER_CREATED.code, codes.USER_CHANGED.code, codes.USER_ENABLED.code, *_TAKEN})


@dataclass(frozen=True, slots=True)
class Entitlement:
    """``subject`` has ``resource``."""

    subject: str
    resource: str


class EntitlementLedger:
    """Posts and reads it. ``by`` the zone of the context."""

    def __init__(self, clock: Clock, ids: Ids, recorder: Recorder) -> None:
        self._clock = clock
        self._ids = ids
        self._recorder = recorder

    async def holds(self, tx: Transaction, zone: str, entitlement: Entitlement) -> bool:
        """Whether it is given, as the ledger has it."""
        return bool(
            await tx.value(
                "SELECT coalesce(sum(amount), 0) > 0 FROM entitlement_legs"
                " WHERE zone = :zone AND subject = :subject AND resource = :resource AND leg = 'desired'",
                zone=zone,
                subject=entitlement.subject,
                resource=entitlement.resource,
            )
        )

    async def post(
        self, tx: Transaction, context: Context, entitlement: Entitlement, *, granted: bool, cause: str, by: str
    ) -> str:
        """Write down that it is given, or taken; the id of the posting. Raises ``conflict`` where it stands so."""
        lock = f"{context.zone}/{entitlement.subject}/{entitlement.resource}"
        await tx.run("SELECT pg_advisory_xact_lock(hashtext('bailiwick.entitlements'), hashtext(:lock))", lock=lock)
        if await self.holds(tx, context.zone, entitlement) == granted:
            raise Conflict("The entitlement ledger says so already.")
        posting, sign = self._ids(), 1 if granted else -1
        await tx.run(
            "INSERT INTO entitlement_legs (posting, zone, subject, resource, leg, amount, cause, at, by)"
            " SELECT :posting, :zone, :subject, :resource, leg, amount, :cause, :now, :by"
            " FROM (VALUES ('desired', :sign), ('observed', -:sign)) AS legs (leg, amount)",
            posting=posting,
            zone=context.zone,
            subject=entitlement.subject,
            resource=entitlement.resource,
            sign=sign,
            cause=cause,
            now=self._clock.now(),
            by=by,
        )
        await self._recorder.record(
            tx,
            codes.ENTITLEMENT_POSTED,
            "success",
            context,
            subject=Subject(id=entitlement.subject, type="entitlement"),
            resource=entitlement.resource,
            granted=granted,
            posting=posting,
            cause=cause,
        )
        return posting

    async def open_with(self, tx: Transaction, context: Context, standing: Iterable[Entitlement], *, by: str) -> int:
        """Begin a ledger that is empty with what stands; how many were posted. Raises ``conflict`` for another."""
        if await tx.value("SELECT true FROM entitlement_legs WHERE zone = :zone LIMIT 1", zone=context.zone):
            raise Conflict("The entitlement ledger has begun; what differs from it is a finding.")
        count = 0
        for each in standing:
            await self.post(tx, context, each, granted=True, cause="opening balance", by=by)
            count += 1
        return count

    async def follow(self, tx: Transaction, context: Context) -> int:
        """Post what the events of people's roles say that came since last time; how many postings that made.

        Events that are not in the ledger yet are taken from the outbox, and come again without effect. The first time
        the ledger opens with the roles that stand.
        """
        zone = context.zone
        await tx.run("SELECT pg_advisory_xact_lock(hashtext('bailiwick.entitlements'), hashtext(:zone))", zone=zone)
        begun = await tx.value("SELECT next_seq FROM entitlement_follow WHERE zone = :zone", zone=zone)
        if begun is None:
            return await self._open(tx, context)
        count, at = 0, int(begun)
        while rows := await tx.all(_EVENTS, zone=zone, codes=_FOLLOWED, at=at, step=_STEP):
            for row in rows:
                count += await self._heed(tx, context, row["code"], row["event"], f"event {row['id']}")
            at = rows[-1]["seq"] + 1
        await tx.run("UPDATE entitlement_follow SET next_seq = :at WHERE zone = :zone", at=at, zone=zone)
        for row in await tx.all("SELECT event FROM outbox WHERE zone = :zone ORDER BY id", zone=zone):
            event = decode(bytes(row["event"]))
            if event.code in _FOLLOWED and event.subject is not None:
                told = {"subject": {"id": event.subject.id}, "details": event.details}
                count += await self._heed(tx, context, event.code, told, f"event {event.id}")
        return count

    async def _open(self, tx: Transaction, context: Context) -> int:
        zone = context.zone
        roles = await tx.all(f"{OWN['roles']} ORDER BY 1", zone=zone)
        end = await tx.value("SELECT coalesce(max(seq), -1) + 1 FROM ledger.events WHERE zone = :zone", zone=zone)
        await tx.run("INSERT INTO entitlement_follow (zone, next_seq) VALUES (:zone, :end)", zone=zone, end=end)
        standing = [Entitlement(row["subject"], row["resource"]) for row in roles]
        return await self.open_with(tx, context, standing, by="reconciliation")

    async def _heed(self, tx: Transaction, context: Context, code: str, event: Mapping[str, Any], cause: str) -> int:
        """What one event says: the role that somebody has from then on, which ends every other."""
        username, role = event["subject"]["id"], str(event["details"].get("role") or "")
        wanted = set() if code in _TAKEN or role in ("", "none") else {role}
        rows = await tx.all(
            "SELECT resource FROM entitlement_legs WHERE zone = :zone AND subject = :subject AND leg = 'desired'"
            " GROUP BY resource HAVING sum(amount) > 0",
            zone=context.zone,
            subject=username,
        )
        held = {row["resource"] for row in rows}
        for resource in sorted(held ^ wanted):
            entitlement = Entitlement(username, resource)
            await self.post(tx, context, entitlement, granted=resource in wanted, cause=cause, by="reconciliation")
        return len(held ^ wanted)

    async def balances(self, tx: Transaction, zone: str) -> dict[str, Any]:
        """The sum of all legs, which is nothing, and how many entitlements stand."""
        row = await tx.one(
            "SELECT coalesce(sum(amount), 0) AS balance, count(*) AS legs,"
            " coalesce(sum(amount) FILTER (WHERE leg = 'desired'), 0) AS given"
            " FROM entitlement_legs WHERE zone = :zone",
            zone=zone,
        )
        assert row is not None
        return {"balance": int(row["balance"]), "given": int(row["given"]), "legs": int(row["legs"])}


_EVENTS = """
SELECT seq, id, code, convert_from(rest, 'UTF8')::jsonb AS event FROM ledger.events
WHERE zone = :zone AND seq >= :at AND code = ANY(:codes) ORDER BY seq LIMIT :step
"""
