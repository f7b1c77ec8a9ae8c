"""Requests for approval as evidence and as routes: every one of them, every vote and every end is an event.

The two-person rule itself is the kernel's (``kernel/quorum.py``), which knows no events.
"""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from pydantic import Field, StringConstraints

from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.evidence.requests import context_of
from bailiwick.kernel.answers import never_store
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.fields import Body, IdPath, Text, after_id
from bailiwick.kernel.http import Caller, Cursor, Limit, encode_cursor, require, zone_of
from bailiwick.kernel.permissions import Permission
from bailiwick.kernel.quorum import Approval, Change, Note, Quorum

_KINDS: dict[Change, codes.EventType] = {
    "requested": codes.APPROVAL_REQUESTED,
    "voted": codes.APPROVAL_VOTED,
    "withdrawn": codes.APPROVAL_WITHDRAWN,
    "executed": codes.APPROVAL_EXECUTED,
}
Person = Annotated[Caller, Depends(require(Permission.SELF))]
Voter = Annotated[Caller, Depends(require(Permission.APPROVALS_VOTE))]
Reader = Annotated[Caller, Depends(require(Permission.APPROVALS_READ))]
Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$"), Field(description="`payload_sha256` as read")]


class VoteBody(Body):
    """What is approved or rejected: the hash says that it was read."""

    payload_sha256: Hash
    comment: Text = ""


def recorder_note(recorder: Recorder) -> Note:
    """Records what happens to requests; the context is that of the request, or None for the service itself."""

    async def note(tx: Transaction, change: Change, approval: Approval, context: Any) -> None:
        last = approval.votes[-1] if change == "voted" else None
        await recorder.record(
            tx,
            _KINDS[change],
            "failure" if last is not None and not last.approves else "success",
            context if isinstance(context, Context) else Context(approval.zone),
            subject=Subject(id=approval.id, type="approval"),
            action=approval.action,
            payload=approval.payload_sha256,
            requested_by=approval.requested_by,
            missing=approval.missing,
            state=approval.state,
        )

    return note


def asker_of(context: Context) -> tuple[str, bool]:
    """Who asks, and whether he does so signed in: a key, or the machine's own account, could be anybody's."""
    actor = context.actor
    foreign = actor.application or actor.delegation or actor.mandate or actor.session.startswith("key:")
    return actor.user or actor.application or "system", bool(actor.user and actor.session) and not foreign


def routes(quorum: Quorum) -> APIRouter:
    """The routes under ``/api/v1/approvals``. Requests are made where the thing is asked for."""
    router = APIRouter(prefix="/api/v1/approvals", tags=["approvals"])

    @router.get("", summary="Requests for approval, newest first")
    async def list_approvals(
        request: Request, caller: Reader, limit: Limit = 100, cursor: Cursor = None
    ) -> dict[str, Any]:
        found = await quorum.list(zone_of(request), after_id(cursor), limit)
        following = encode_cursor(found[-1].id) if len(found) == limit else None
        return {"approvals": [approval.document() for approval in found], "next": following}

    @router.get("/{approval_id}", summary="One request, what it is bound to and who said what")
    async def get_approval(request: Request, approval_id: IdPath, caller: Reader) -> dict[str, Any]:
        return (await quorum.get(zone_of(request), approval_id)).document()

    async def vote(request: Request, caller: Caller, approval_id: str, body: VoteBody, approves: bool) -> Approval:
        return await quorum.vote(
            context_of(request, caller),
            zone_of(request),
            approval_id,
            person=caller.name,
            role=caller.role,
            approves=approves,
            payload_sha256=body.payload_sha256,
            comment=body.comment,
        )

    @router.post("/{approval_id}/approve", summary="Approve what somebody else asked for")
    async def approve(
        request: Request, response: Response, approval_id: IdPath, body: VoteBody, caller: Voter
    ) -> dict[str, Any]:
        never_store(response)
        return (await vote(request, caller, approval_id, body, True)).document()

    @router.post("/{approval_id}/reject", summary="Reject a request, which ends it")
    async def reject(
        request: Request, response: Response, approval_id: IdPath, body: VoteBody, caller: Voter
    ) -> dict[str, Any]:
        never_store(response)
        return (await vote(request, caller, approval_id, body, False)).document()

    @router.post("/{approval_id}/withdraw", summary="Take a request back")
    async def withdraw(request: Request, response: Response, approval_id: IdPath, caller: Person) -> dict[str, Any]:
        never_store(response)
        taken = await quorum.withdraw(
            context_of(request, caller), zone_of(request), approval_id, person=caller.name, role=caller.role
        )
        return taken.document()

    return router
