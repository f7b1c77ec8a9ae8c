"""The routes of the registers."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field, StringConstraints

from bailiwick.assurance.registers import Register, Registers
from bailiwick.evidence.requests import context_of
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.fields import Body, NamePath, Text
from bailiwick.kernel.http import Caller, require, zone_of
from bailiwick.kernel.permissions import Permission

Reader = Annotated[Caller, Depends(require(Permission.ASSURANCE_READ))]
Worker = Annotated[Caller, Depends(require(Permission.RHYTHM_WORK))]
State = Literal["open", "mitigating", "closed", "planned", "started", "done", "reviewed", "fixing", "fixed"]
Record = Annotated[
    str, StringConstraints(pattern=r"^([0-9a-f]{64})?$"), Field(description="Evidence record that shows it")
]


class MoveBody(Body):
    """The state an item comes into. What is done, closed or reviewed names an evidence record."""

    state: State
    record: Record = ""
    note: Text = ""


def routes(registers: Registers, clock: Clock) -> APIRouter:
    """The routes under ``/api/v1/registers``."""
    router = APIRouter(prefix="/api/v1/registers", tags=["registers"])

    @router.get("/{register}", summary="Risks, the roadmap, documents under review, or known issues")
    async def list_items(
        request: Request,
        register: Register,
        caller: Reader,
        late: Annotated[bool, Query(description="Only those whose day is over")] = False,
    ) -> dict[str, Any]:
        now = clock.now()
        found = await registers.list(zone_of(request), register)
        return {"register": register, "items": [each.document(now) for each in found if each.late(now) or not late]}

    @router.get("/{register}/{name}", summary="One item and how it stood")
    async def get_item(request: Request, register: Register, name: NamePath, caller: Reader) -> dict[str, Any]:
        found = await registers.get(zone_of(request), register, name)
        return {**found.document(clock.now()), "history": await registers.history(zone_of(request), register, name)}

    @router.post("/{register}/{name}", summary="Bring an item into another state")
    async def move_item(
        request: Request, register: Register, name: NamePath, body: MoveBody, caller: Worker
    ) -> dict[str, Any]:
        """What it says is a document of the operating model, and is changed there."""
        moved = await registers.move(
            context_of(request, caller), register, name, body.state, by=caller.name, record=body.record, note=body.note
        )
        return moved.document(clock.now())

    return router
