"""Routes of the kill switches: what is thrown. They are thrown and lifted as overrides."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request

from bailiwick.handover.switches import Switches
from bailiwick.kernel.db import Database
from bailiwick.kernel.http import Caller, require, zone_of
from bailiwick.kernel.modes import Switch
from bailiwick.kernel.permissions import Permission

Reader = Annotated[Caller, Depends(require(Permission.ASSURANCE_READ))]


def routes(database: Database, switches: Switches) -> APIRouter:
    """The route of ``/api/v1/switches``."""
    router = APIRouter(prefix="/api/v1/switches", tags=["incidents"])

    @router.get("", summary="What is switched off in the zone")
    async def list_switches(request: Request, caller: Reader) -> dict[str, Any]:
        """Throw one as the override `switch.throw` by broken glass; lift it as `switch.lift`, which takes two."""
        async with database.begin() as tx:
            thrown = await switches.standing(tx, zone_of(request))
        return {"thrown": [each.document() for each in thrown], "switches": [each.value for each in Switch]}

    return router
