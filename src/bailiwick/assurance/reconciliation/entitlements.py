"""The entitlement ledger: who is given what, by double entry, written down when it is given and when it is taken.

Every posting has two legs that add up to nothing, *desired* (what was given) and *observed* (what must be found at
the connector), and only ever one of a kind stands per subject and resource; the database holds the sum and lets nobody
change what stands. What it says is compared with what is found: a membership that nobody gave is *excess*.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.errors import Conflict
from bailiwick.kernel.ids import Ids

MOST_FOLLOWED = 10_000


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
