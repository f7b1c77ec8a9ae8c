"""Plans: how a waiver that is open at a checkpoint is to be closed. One counts once a second person approved it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from datetime import date, datetime, timedelta
from typing import Any

from bailiwick.assurance.checkpoints.rules import Plan
from bailiwick.assurance.rhythm.actions import Wanted, require_complete
from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import BailiwickError, Conflict, NotFound
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.permissions import Permission
from bailiwick.kernel.quorum import Action, Approval, Quorum

APPROVE_PLAN = Action("checkpoints.plan", Permission.CHECKPOINTS_DECIDE, life=timedelta(hours=72))


class Plans:
    """Keeps them."""

    def __init__(self, database: Database, clock: Clock, ids: Ids, recorder: Recorder, quorum: Quorum) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._recorder = recorder
        self._quorum = quorum
        quorum.register(APPROVE_PLAN)

    async def propose(
        self,
        context: Context,
        checkpoint: str,
        *,
        waiver: str,
        plan: str,
        owner: str,
        due: date,
        by: str,
        signed_in: bool = True,
    ) -> tuple[dict[str, Any], Approval]:
        """Ask for a plan to be approved. Raises ``action_incomplete`` without a living owner or with a day past."""
        zone, now, identifier = context.zone, self._clock.now(), self._ids()
        async with self._database.begin() as tx:
            await require_complete(tx, zone, [Wanted(plan, owner, due)], now)
            payload = {
                "plan": identifier,
                "checkpoint": checkpoint,
                "waiver": waiver,
                "text_sha256": hashlib.sha256(plan.encode()).hexdigest(),
                "owner": owner,
                "due": due.isoformat(),
            }
            approval = await self._quorum.request(
                tx, context, zone, APPROVE_PLAN.name, payload, by=by, reason=plan[:200], signed_in=signed_in
            )
            await tx.run(
                "INSERT INTO checkpoint_plans (id, zone, checkpoint, waiver, plan, owner, due, approval, made_by,"
                " made_at) VALUES (:id, :zone, :checkpoint, :waiver, :plan, :owner, :due, :approval, :by, :now)",
                id=identifier,
                zone=zone,
                checkpoint=checkpoint,
                waiver=waiver,
                plan=plan,
                owner=owner,
                due=due,
                approval=approval.id,
                by=by,
                now=now,
            )
            await self._tell(tx, context, await self._find(tx, zone, identifier), "proposed")
            return _document(await self._find(tx, zone, identifier)), approval

    async def list(self, zone: str, checkpoint: str) -> list[dict[str, Any]]:
        """All plans for a checkpoint, newest first."""
        await self.take_approved()
        async with self._database.begin() as tx:
            rows = await tx.all(
                "SELECT * FROM checkpoint_plans WHERE zone = :zone AND checkpoint = :checkpoint"
                " ORDER BY id DESC LIMIT 500",
                zone=zone,
                checkpoint=checkpoint,
            )
        return [_document(row) for row in rows]

    async def revoke(self, context: Context, identifier: str, *, by: str) -> dict[str, Any]:
        """Let a plan count no more: one person may. Raises ``not_found``, and ``conflict`` where it was revoked."""
        async with self._database.begin() as tx:
            row = await self._find(tx, context.zone, identifier, lock=True)
            if row["revoked_at"] is not None:
                raise Conflict("The plan was revoked already.")
            await tx.run(
                "UPDATE checkpoint_plans SET revoked_at = :now, revoked_by = :by WHERE id = :id",
                id=identifier,
                now=self._clock.now(),
                by=by,
            )
            row = await self._find(tx, context.zone, identifier)
            await self._tell(tx, context, row, "revoked")
        return _document(row)

    async def take_approved(self) -> int:
        """Let count what was approved by now; how many."""
        count = 0
        async with self._database.begin() as tx:
            ready = await self._quorum.ready(tx, APPROVE_PLAN.name)
        for approval in ready:
            async with self._database.begin() as tx:
                count += await self._take(tx, approval)
        return count

    async def _take(self, tx: Transaction, approval: Approval) -> int:
        context = Context(approval.zone)
        row = await self._find(tx, approval.zone, str(approval.payload["plan"]), lock=True)
        text = hashlib.sha256(row["plan"].encode()).hexdigest()
        payload: Mapping[str, Any] = {**approval.payload, "text_sha256": text}
        try:
            await self._quorum.execute(
                tx, context, approval.zone, approval.id, APPROVE_PLAN.name, payload, approval.requested_by
            )
        except BailiwickError as error:
            if error.reason not in {"approval_required", "approval_ended"}:
                raise
            return 0
        await tx.run(
            "UPDATE checkpoint_plans SET approved_at = :now WHERE id = :id", now=self._clock.now(), id=row["id"]
        )
        await self._tell(tx, context, row, "approved")
        return 1

    async def _find(self, tx: Transaction, zone: str, identifier: str, *, lock: bool = False) -> Row:
        suffix = " FOR UPDATE" if lock else ""
        row = await tx.one(
            f"SELECT * FROM checkpoint_plans WHERE zone = :zone AND id = :id{suffix}",  # noqa: S608 - one of the two
            zone=zone,
            id=identifier,
        )
        if row is None:
            raise NotFound("There is no such plan.")
        return row

    async def _tell(self, tx: Transaction, context: Context, row: Row, state: str) -> None:
        await self._recorder.record(
            tx,
            codes.CHECKPOINT_PLAN_CHANGED,
            "success",
            context,
            subject=Subject(id=row["id"], type="plan"),
            checkpoint=row["checkpoint"],
            waiver=row["waiver"],
            state=state,
            approval=row["approval"],
        )


async def standing_plans(tx: Transaction, zone: str, checkpoint: str, at: datetime) -> Sequence[Plan]:
    """The plans that were approved, and not revoked, at ``at``."""
    rows = await tx.all(
        "SELECT id, waiver, due FROM checkpoint_plans WHERE zone = :zone AND checkpoint = :checkpoint"
        " AND approved_at <= :at AND (revoked_at IS NULL OR revoked_at > :at) ORDER BY id",
        zone=zone,
        checkpoint=checkpoint,
        at=at,
    )
    return [Plan(**row) for row in rows]


def _document(row: Row) -> dict[str, Any]:
    state = "revoked" if row["revoked_at"] else "approved" if row["approved_at"] else "proposed"
    return {
        "id": row["id"],
        "checkpoint": row["checkpoint"],
        "waiver": row["waiver"],
        "plan": row["plan"],
        "owner": row["owner"],
        "due": row["due"].isoformat(),
        "state": state,
        "approval": row["approval"],
        "made_by": row["made_by"],
        "made_at": row["made_at"],
    }
