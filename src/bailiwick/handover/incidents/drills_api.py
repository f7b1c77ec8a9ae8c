"""Routes of incident drills. Only translates."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import Field

from bailiwick.evidence.requests import context_of
from bailiwick.handover.incidents.drills import IncidentDrills
from bailiwick.kernel.db import Database
from bailiwick.kernel.fields import Body, Name
from bailiwick.kernel.http import Caller, require, zone_of
from bailiwick.kernel.permissions import Permission

Reader = Annotated[Caller, Depends(require(Permission.ASSURANCE_READ))]
Container = Annotated[Caller, Depends(require(Permission.OVERRIDES_BREAK_GLASS))]


class DrillBody(Body):
    """Which trigger is injected, and within how many minutes it must be contained."""

    trigger: Name
    within_minutes: int = Field(30, ge=1, le=240)


def routes(database: Database, drills: IncidentDrills) -> APIRouter:
    """The routes under ``/api/v1/incidents/drills``; included before those of single incidents."""
    router = APIRouter(prefix="/api/v1/incidents/drills", tags=["incidents"])

    @router.get("", summary="Drills, newest first, with how soon each was answered")
    async def list_all(request: Request, caller: Reader) -> dict[str, Any]:
        async with database.begin() as tx:
            return {"drills": [each.document() for each in await drills.list(tx, zone_of(request))]}

    @router.post("", status_code=201, summary="Inject a trigger in a sandbox zone")
    async def start(request: Request, body: DrillBody, caller: Container) -> dict[str, Any]:
        within = timedelta(minutes=body.within_minutes)
        return (await drills.start(context_of(request, caller), body.trigger, within)).document()

    return router
