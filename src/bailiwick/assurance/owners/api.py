"""Routes under ``/api/v1/owners``: who answers for what, and whether everything has an owner."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request

from bailiwick.assurance.owners.service import Ownership
from bailiwick.evidence.requests import context_of
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database
from bailiwick.kernel.fields import NamePath
from bailiwick.kernel.http import Caller, require, zone_of
from bailiwick.kernel.permissions import Permission

Reader = Annotated[Caller, Depends(require(Permission.ASSURANCE_READ))]


def routes(database: Database, clock: Clock, ownership: Ownership) -> APIRouter:
    """The routes."""
    router = APIRouter(prefix="/api/v1/owners", tags=["owners"])

    @router.get("", summary="Who answers for what, now")
    async def list_owners(request: Request, caller: Reader) -> dict[str, Any]:
        """Every activity of the book with its RACI and who answers for it at this moment; and who holds each plane."""
        async with database.begin() as tx:
            planes = await ownership.planes(tx, zone_of(request))
            lines = await ownership.list(tx, zone_of(request), clock.now())
        return {
            "planes": {role: [person.username for person in held] for role, held in planes.items()},
            "items": [line.document() for line in lines],
        }

    @router.get("/check", summary="Does everything have one living owner")
    async def check(request: Request, caller: Reader) -> dict[str, Any]:
        """`PASS` only when every activity, and whatever else there is, leads to an active person. Leaves an event."""
        async with database.begin() as tx:
            checked = await ownership.check(tx, context_of(request, caller), clock.now())
        return checked.document()

    @router.get("/{name}", summary="One activity")
    async def show(request: Request, name: NamePath, caller: Reader) -> dict[str, Any]:
        async with database.begin() as tx:
            return (await ownership.show(tx, zone_of(request), name, clock.now())).document()

    return router
