"""Routes of waivers: asked for, decided, ended, listed, and looked up as a gate does."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import AfterValidator, AwareDatetime, Field, StringConstraints

from bailiwick.assurance.waivers import NewWaiver, WaiverRegister
from bailiwick.assurance.waivers_watch import read_burn_down
from bailiwick.evidence.requests import context_of
from bailiwick.kernel.answers import never_store
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database
from bailiwick.kernel.fields import Body, IdPath, Line, Name, Text, after_id
from bailiwick.kernel.http import Caller, Cursor, Limit, encode_cursor, require, zone_of
from bailiwick.kernel.permissions import Permission

SCOPE = r"^[A-Za-z0-9*][A-Za-z0-9._:/@*-]{0,199}$"
CONTROL_PATTERN = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}(/[a-z0-9-]{1,60}){0,2}$"
Control = Annotated[
    str, StringConstraints(pattern=CONTROL_PATTERN, max_length=200), Field(examples=["secret-rotation"])
]
Scope = Annotated[str, StringConstraints(pattern=SCOPE, max_length=200), Field(examples=["zone/default"])]
RecordId = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$"), Field(description="id of an evidence record")]


def _in_range(value: Any) -> Any:
    if not 1970 <= value.year <= 9000:
        raise ValueError("is out of range")
    return value


Instant = Annotated[AwareDatetime, AfterValidator(_in_range), Field(examples=["2026-01-12T09:00:00Z"])]

Reader = Annotated[Caller, Depends(require(Permission.ASSURANCE_READ))]
Requester = Annotated[Caller, Depends(require(Permission.WAIVERS_REQUEST))]
Approver = Annotated[Caller, Depends(require(Permission.WAIVERS_APPROVE))]
Closer = Annotated[Caller, Depends(require(Permission.WAIVERS_CLOSE))]
State = Literal["", "draft", "submitted", "approved", "rejected", "active", "closed", "expired", "revoked", "renewed"]


class WaiverBody(Body):
    """What is asked for. What is missing is told by name (422)."""

    control: Control | None = None
    scope: Scope | None = None
    reason: Text | None = None
    risk: Literal["LOW", "MEDIUM", "HIGH", "CRITICAL"] | None = None
    compensating: Text | None = Field(None, description="what protects meanwhile")
    owner: Name | None = Field(None, description="activity whose accountable person answers for it")
    plan: Text | None = Field(None, description="how and until when it is remedied")
    valid_until: Instant | None = None
    valid_from: Instant | None = None
    submit: bool = Field(True, description="false: a draft")


class WordBody(Body):
    """What an approver says."""

    comment: Text = ""


class EvidenceBody(Body):
    """What shows that the control holds again."""

    evidence: RecordId


class WhyBody(Body):
    """Why."""

    why: Annotated[Line, Field(min_length=1)]


class RenewalBody(Body):
    """A renewal: its own reason and end."""

    reason: Annotated[Text, Field(min_length=1)]
    valid_until: Instant
    plan: Text = ""


def routes(database: Database, clock: Clock, register: WaiverRegister) -> APIRouter:
    """The routes under ``/api/v1/waivers``."""
    router = APIRouter(prefix="/api/v1/waivers", tags=["waivers"])

    @router.post("", status_code=201, summary="Ask for a waiver")
    async def ask(request: Request, response: Response, body: WaiverBody, caller: Requester) -> dict[str, Any]:
        never_store(response)
        asked = NewWaiver(**body.model_dump(exclude={"submit"}))
        context = context_of(request, caller)
        waiver = await register.draft(context, asked, by=caller.name)
        if not body.submit:
            return waiver.document()
        waiver, approval = await register.submit(context, waiver.id, by=caller.name)
        return {**waiver.document(), "missing": approval.missing, "candidates": list(approval.candidates)}

    @router.get("", summary="Waivers, newest first")
    async def list_waivers(
        request: Request, caller: Reader, state: State = "", limit: Limit = 100, cursor: Cursor = None
    ) -> dict[str, Any]:
        async with database.begin() as tx:
            found = await register.list(tx, zone_of(request), state=state, before=after_id(cursor), limit=limit)
        following = encode_cursor(found[-1].id) if len(found) == limit else None
        return {"waivers": [waiver.document() for waiver in found], "next": following}

    @router.get("/burn-down", summary="Open waivers by risk, their age, those past due, renewed or never used")
    async def burn_down(request: Request, caller: Reader) -> dict[str, Any]:
        async with database.begin() as tx:
            return (await read_burn_down(tx, zone_of(request), clock.now())).document()

    @router.get("/check", summary="Whether a control is waived for a scope now")
    async def check(
        request: Request,
        caller: Reader,
        control: Annotated[str, Query(pattern=CONTROL_PATTERN, max_length=200)],
        scope: Annotated[str, Query(pattern=SCOPE, max_length=200)],
    ) -> dict[str, Any]:
        async with database.begin() as tx:
            found = await register.covering(tx, zone_of(request), control, scope, clock.now())
        return {"control": control, "scope": scope, "waiver": found}

    @router.get("/{waiver_id}", summary="One waiver, and where it was used")
    async def get_waiver(request: Request, waiver_id: IdPath, caller: Reader) -> dict[str, Any]:
        async with database.begin() as tx:
            waiver = await register.get(tx, zone_of(request), waiver_id)
            return {**waiver.document(), "uses": await register.uses(tx, waiver_id)}

    @router.post("/{waiver_id}/submit", summary="Have a draft decided")
    async def submit(request: Request, response: Response, waiver_id: IdPath, caller: Requester) -> dict[str, Any]:
        never_store(response)
        waiver, approval = await register.submit(context_of(request, caller), waiver_id, by=caller.name)
        return {**waiver.document(), "missing": approval.missing, "candidates": list(approval.candidates)}

    async def decide(request: Request, caller: Caller, identifier: str, body: WordBody, approves: bool) -> Any:
        waiver, approval = await register.decide(
            context_of(request, caller),
            identifier,
            person=caller.name,
            role=caller.role,
            approves=approves,
            comment=body.comment,
        )
        return {**waiver.document(), "missing": approval.missing}

    @router.post("/{waiver_id}/approve", summary="Approve what somebody else asked for")
    async def approve(
        request: Request, response: Response, waiver_id: IdPath, body: WordBody, caller: Approver
    ) -> dict[str, Any]:
        never_store(response)
        return dict(await decide(request, caller, waiver_id, body, True))

    @router.post("/{waiver_id}/reject", summary="Reject it, which ends it")
    async def reject(
        request: Request, response: Response, waiver_id: IdPath, body: WordBody, caller: Approver
    ) -> dict[str, Any]:
        never_store(response)
        return dict(await decide(request, caller, waiver_id, body, False))

    @router.post("/{waiver_id}/close", summary="Close it: an evidence record shows that the control holds again")
    async def close(
        request: Request, response: Response, waiver_id: IdPath, body: EvidenceBody, caller: Closer
    ) -> dict[str, Any]:
        never_store(response)
        return (await register.close(context_of(request, caller), waiver_id, body.evidence)).document()

    @router.post("/{waiver_id}/revoke", summary="End it before its time")
    async def revoke(
        request: Request, response: Response, waiver_id: IdPath, body: WhyBody, caller: Closer
    ) -> dict[str, Any]:
        never_store(response)
        return (await register.revoke(context_of(request, caller), waiver_id, body.why)).document()

    @router.post("/{waiver_id}/renew", status_code=201, summary="Draft the renewal of an expired one")
    async def renew(
        request: Request, response: Response, waiver_id: IdPath, body: RenewalBody, caller: Requester
    ) -> dict[str, Any]:
        never_store(response)
        renewed = await register.renew(
            context_of(request, caller),
            waiver_id,
            by=caller.name,
            reason=body.reason,
            valid_until=body.valid_until,
            plan=body.plan,
        )
        return renewed.document()

    return router
