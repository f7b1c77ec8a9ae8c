"""Which policy sets have proved themselves, so that a rollback and a worker in trouble know where to turn.

*Known good* is a set that has been active for :data:`KNOWN_GOOD_AFTER`, has decided something in that time, and of
which no worker reported a policy error; or one that two persons marked. A set with an error, or that was rolled back
from, is *suspect*: nothing falls back to it until it is activated again, or two persons mark it. One person alone may
return to what is known good, so nobody makes it that alone.
"""

from __future__ import annotations

from datetime import datetime, timedelta

from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import NotFound
from bailiwick.kernel.quorum import Approval, Quorum
from bailiwick.policy import sets
from bailiwick.policy.agreement import MARK, Agreements
from bailiwick.policy.sets import Activation

KNOWN_GOOD_AFTER = timedelta(minutes=10)


class KnownGood:
    """Keeps the marks of all zones."""

    def __init__(self, database: Database, recorder: Recorder, clock: Clock, quorum: Quorum) -> None:
        self._database = database
        self._recorder = recorder
        self._clock = clock
        self._agreements = Agreements(quorum)

    async def mark(self, context: Context, hash: str) -> Activation | Approval:
        """Mark a set that is or was active as known good, whatever was reported of it; what is that already stays so.

        Answers the approval that is waited for; asked for once more when that is given, it is done. Raises
        ``NotFound``.
        """
        async with self._database.begin() as tx:
            await sets.lock_zone(tx, context.zone)
            newest = await tx.value(
                "SELECT max(id) FROM policy_activations WHERE zone = :zone AND hash = :hash",
                zone=context.zone,
                hash=hash,
            )
            if newest is None:
                raise NotFound("No such policy set was ever active.")
            (marked,) = await sets.read_history(tx, context.zone, int(newest) + 1, 1)
            if marked.known_good_at is not None and marked.suspect_at is None:
                return marked
            bound = {"policy_set": hash, "activation": marked.id, "suspect": marked.suspect_at is not None}
            members = ", ".join(f"{member.name} {member.version}" for member in marked.members)
            approval = await self._agreements.given(
                tx, context, MARK, bound, {"summary": f"known good: {members}"[:200]}
            )
            if approval.state != "executed":
                return approval
            await tx.run(
                "UPDATE policy_activations SET known_good_at = :now, suspect_at = NULL WHERE id = :id",
                id=marked.id,
                now=self._clock.now(),
            )
            await self._record(tx, context, hash)
            return (await sets.read_history(tx, context.zone, marked.id + 1, 1))[0]

    async def mark_known_good(self) -> list[tuple[str, str]]:
        """Mark what has proved itself; a job calls this each minute. Answers (zone, set hash) of what was marked."""
        now = self._clock.now()
        async with self._database.begin() as tx:
            rows = await tx.all(
                "UPDATE policy_activations a SET known_good_at = :now"
                " FROM (SELECT zone, max(id) AS id FROM policy_activations GROUP BY zone) newest"
                " JOIN policy_activations n ON n.id = newest.id"
                " JOIN policy_sets s ON s.zone = n.zone AND s.hash = n.hash"
                " WHERE a.id = newest.id AND a.activated_at <= :proved AND a.decided_at IS NOT NULL"
                " AND a.suspect_at IS NULL AND a.known_good_at IS NULL AND s.members <> '[]'"
                " RETURNING a.zone, a.hash",
                now=now,
                proved=now - KNOWN_GOOD_AFTER,
            )
            for row in rows:
                await self._record(tx, Context(row["zone"]), row["hash"])
        return [(row["zone"], row["hash"]) for row in rows]

    async def note(self, zone: str, policy_set: str, *, decisions: int, fault: str | None = None) -> None:
        """What a worker saw of a set: how many decisions, and a policy reason code if one of them failed.

        Workers report what is new every few seconds. An error makes the active set suspect unless it is known good,
        since whoever may ask may also be able to provoke errors.
        """
        async with self._database.begin() as tx:
            if decisions:
                await tx.run(
                    "UPDATE policy_activations SET decided_at = :now WHERE decided_at IS NULL AND hash = :hash AND id ="
                    " (SELECT max(id) FROM policy_activations WHERE zone = :zone)",
                    zone=zone,
                    hash=policy_set,
                    now=self._clock.now(),
                )
            if fault is not None:
                active = await sets.read_active(tx, zone)
                if active is not None and active.hash == policy_set and active.known_good_at is None:
                    await suspect(tx, self._recorder, Context(zone), active, fault, self._clock.now())

    async def _record(self, tx: Transaction, context: Context, hash: str) -> None:
        subject = Subject(id=hash, type="policy-set")
        await self._recorder.record(tx, codes.POLICY_KNOWN_GOOD, "success", context, subject=subject, policy_set=hash)


async def suspect(
    tx: Transaction, recorder: Recorder, context: Context, activation: Activation, why: str, now: datetime
) -> None:
    """Make an activation's set suspect, once."""
    marked = await tx.run(
        "UPDATE policy_activations SET suspect_at = :now, known_good_at = NULL WHERE id = :id AND suspect_at IS NULL",
        id=activation.id,
        now=now,
    )
    if marked:
        await recorder.record(
            tx,
            codes.POLICY_SUSPECT,
            "success",
            context,
            subject=Subject(id=activation.hash, type="policy-set"),
            policy_set=activation.hash,
            why=why,
        )
