"""The routes of checkpoints and of the go-live instants they count from."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import Field

from bailiwick.assurance.checkpoints.golive import GoLives
from bailiwick.assurance.checkpoints.plans import Plans
from bailiwick.assurance.checkpoints.service import Checkpoints
from bailiwick.evidence.evidence_records_api import Instant
from bailiwick.evidence.requests import context_of
from bailiwick.kernel.fields import Body, IdPath, Line, NamePath, Text, UserName
from bailiwick.kernel.http import Caller, require, zone_of
from bailiwick.kernel.permissions import Permission
from bailiwick.kernel.quorum import Approval

Reader = Annotated[Caller, Depends(require(Permission.ASSURANCE_READ))]
Worker = Annotated[Caller, Depends(require(Permission.RHYTHM_WORK))]
Decider = Annotated[Caller, Depends(require(Permission.CHECKPOINTS_DECIDE))]
At = Annotated[Instant | None, Query(description="As it stood then; by default now")]
_WAITS: dict[int | str, dict[str, Any]] = {
    202: {"description": "Somebody else must approve it first; the approval is answered"}
}


class EvaluateBody(Body):
    """The instant that is judged; by default now."""

    at: Instant | None = None


class GoLiveBody(Body):
    """When a platform went live, or will."""

    at: Instant
    reason: Annotated[Line, Field(min_length=1)]


class PlanBody(Body):
    """How a waiver is to be closed, by whom, by when."""

    waiver: Annotated[Line, Field(min_length=1)]
    plan: Annotated[Text, Field(min_length=10)]
    owner: UserName
    due: date


def routes(checkpoints: Checkpoints, go_lives: GoLives, plans: Plans) -> APIRouter:
    """The routes under ``/api/v1/checkpoints``."""
    router = APIRouter(prefix="/api/v1/checkpoints", tags=["checkpoints"])

    @router.get("", summary="Every checkpoint and how it stands")
    async def list_checkpoints(request: Request, caller: Reader, at: At = None) -> dict[str, Any]:
        return {"checkpoints": [each.document() for each in await checkpoints.list(zone_of(request), at)]}

    @router.get("/go-live", summary="When the platforms went live")
    async def list_go_lives(request: Request, caller: Reader) -> dict[str, Any]:
        return {"platforms": [each.document() for each in await go_lives.list(zone_of(request))]}

    @router.put("/go-live/{platform}", summary="Record when a platform went live", responses=_WAITS)
    async def record_go_live(
        request: Request, response: Response, platform: NamePath, body: GoLiveBody, caller: Decider
    ) -> dict[str, Any]:
        """One person records it once; to change it takes a second one."""
        found = await go_lives.record(
            context_of(request, caller), platform, body.at, by=caller.name, reason=body.reason
        )
        if isinstance(found, Approval):
            response.status_code = 202
            return {"approval": found.document()}
        return found.document()

    @router.get("/{name}", summary="The results of one checkpoint, newest first")
    async def get_checkpoint(request: Request, name: NamePath, caller: Reader, at: At = None) -> dict[str, Any]:
        found = await checkpoints.history(zone_of(request), name, at)
        return {"checkpoint": name, "results": [each.document() for each in found]}

    @router.post("/{name}/evaluate", summary="Judge a checkpoint, as the next version of its result")
    async def evaluate(request: Request, name: NamePath, body: EvaluateBody, caller: Worker) -> dict[str, Any]:
        """What is not due yet is NOT_DUE and not kept; an instant that has not come is `window_not_over`."""
        result = await checkpoints.evaluate(context_of(request, caller), name, by=caller.name, at=body.at)
        return result.document()

    @router.get("/{name}/plans", summary="Plans for closing waivers that are open at a checkpoint")
    async def list_plans(request: Request, name: NamePath, caller: Reader) -> dict[str, Any]:
        return {"plans": await plans.list(zone_of(request), name)}

    @router.post("/{name}/plans", summary="Ask for a plan to be approved", status_code=202)
    async def propose_plan(request: Request, name: NamePath, body: PlanBody, caller: Decider) -> dict[str, Any]:
        await checkpoints.history(zone_of(request), name)  # there must be such a checkpoint
        plan, approval = await plans.propose(
            context_of(request, caller),
            name,
            waiver=body.waiver,
            plan=body.plan,
            owner=body.owner,
            due=body.due,
            by=caller.name,
        )
        return {"plan": plan, "approval": approval.document()}

    @router.post("/plans/{plan_id}/revoke", summary="Let a plan count no more")
    async def revoke_plan(request: Request, plan_id: IdPath, caller: Decider) -> dict[str, Any]:
        return await plans.revoke(context_of(request, caller), plan_id, by=caller.name)

    return router
