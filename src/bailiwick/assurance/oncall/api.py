"""Routes under ``/api/v1/oncall``: who is called now and next, stand-ins, swaps, and the calendar."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import AfterValidator, AwareDatetime, Field

from bailiwick.assurance.oncall.service import OnCallBook, override_document, shift_document
from bailiwick.assurance.ports import Level
from bailiwick.evidence.requests import context_of
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database
from bailiwick.kernel.fields import Body, IdPath, Line, Name, UserName
from bailiwick.kernel.http import Caller, require, zone_of
from bailiwick.kernel.permissions import Permission
from bailiwick.kernel.rfc5545 import MEDIA_TYPE

_NO_SUCH: dict[int | str, dict[str, Any]] = {404: {"description": "There is no rota by that name"}}


def _in_range(value: datetime) -> datetime:
    if not 2000 <= value.year <= 2999:
        raise ValueError("is out of range")
    return value


Instant = Annotated[AwareDatetime, AfterValidator(_in_range), Field(examples=["2026-01-05T09:00:00Z"])]
Reader = Annotated[Caller, Depends(require(Permission.ASSURANCE_READ))]
Writer = Annotated[Caller, Depends(require(Permission.ONCALL_WRITE))]
RotaName = Annotated[str, Query(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", max_length=100)]
Levels = Annotated[list[Level], Query(description="Only these levels; all without it", max_length=5)]
At = Annotated[Instant | None, Query(description="Another moment than now")]
Since = Annotated[Instant | None, Query(description="From when on; from now on without it")]
Until = Annotated[Instant | None, Query(description="Until when; eight weeks without it")]
_AHEAD = timedelta(weeks=8)


class CalendarResponse(Response):
    """A calendar."""

    media_type = MEDIA_TYPE


class OverrideBody(Body):
    """Somebody stands in. Without ``from`` he does from now on."""

    rota: Name = "default"
    level: Level = "primary"
    username: UserName
    begins: Instant | None = Field(None, alias="from")
    until: Instant
    reason: Annotated[Line, Field(min_length=1)]


class SwapBody(Body):
    """Two shifts change hands: those that hold at these instants."""

    rota: Name = "default"
    level: Level = "primary"
    one: Instant
    other: Instant
    reason: Line = ""


def routes(database: Database, clock: Clock, oncall: OnCallBook) -> APIRouter:
    """The routes."""
    router = APIRouter(prefix="/api/v1/oncall", tags=["on call"])

    def window(since: datetime | None, until: datetime | None) -> tuple[datetime, datetime]:
        begins = since or clock.now().replace(microsecond=0)
        return begins, until or begins + _AHEAD

    @router.get("", summary="Who is on call, now and next")
    async def now(request: Request, caller: Reader, at: At = None) -> dict[str, Any]:
        moment = at or clock.now()
        async with database.begin() as tx:
            called = await oncall.called(tx, zone_of(request), moment)
        return {"at": moment, "items": [each.document() for each in called]}

    @router.get("/shifts", summary="Who is on call when", responses=_NO_SUCH)
    async def shifts(
        request: Request,
        caller: Reader,
        rota: RotaName = "default",
        level: Levels = [],  # noqa: B006 - FastAPI copies it
        since: Since = None,
        until: Until = None,
    ) -> dict[str, Any]:
        """A shift of nobody's has no `username`; `why` says whether that is meant so."""
        async with database.begin() as tx:
            found = await oncall.shifts(tx, zone_of(request), rota, level, *window(since, until))
        return {"rota": rota, "items": [shift_document(each) for each in found]}

    @router.get(
        "/shifts.ics",
        summary="The same as a calendar (RFC 5545)",
        response_class=CalendarResponse,
        responses=_NO_SUCH,
    )
    async def calendar(
        request: Request,
        caller: Reader,
        rota: RotaName = "default",
        level: Levels = [],  # noqa: B006 - FastAPI copies it
        since: Since = None,
        until: Until = None,
    ) -> Response:
        async with database.begin() as tx:
            text, _ = await oncall.calendar(tx, zone_of(request), rota, level, *window(since, until))
        return CalendarResponse(text, headers={"Content-Disposition": f'inline; filename="{rota}.ics"'})

    @router.get("/overrides", summary="Who stands in, now and later")
    async def list_overrides(request: Request, caller: Reader) -> dict[str, Any]:
        async with database.begin() as tx:
            found = await oncall.overrides(tx, zone_of(request), clock.now())
        return {"items": [override_document(each) for each in found]}

    @router.post("/overrides", status_code=201, summary="Have somebody stand in")
    async def override(request: Request, body: OverrideBody, caller: Writer) -> dict[str, Any]:
        """Of two that overlap, the one made later holds."""
        begins = body.begins or clock.now()
        async with database.begin() as tx:
            made = await oncall.override(
                tx,
                context_of(request, caller),
                body.rota,
                body.level,
                body.username,
                begins,
                body.until,
                body.reason,
                by=caller.name,
            )
        return override_document(made)

    @router.delete("/overrides/{override_id}", summary="Take a stand-in back, or end it")
    async def withdraw(request: Request, override_id: IdPath, caller: Writer) -> dict[str, Any]:
        async with database.begin() as tx:
            gone = await oncall.withdraw(tx, context_of(request, caller), override_id, by=caller.name)
        return override_document(gone)

    @router.post("/swaps", status_code=201, summary="Have two shifts change hands")
    async def swap(request: Request, body: SwapBody, caller: Writer) -> dict[str, Any]:
        async with database.begin() as tx:
            made = await oncall.swap(
                tx,
                context_of(request, caller),
                body.rota,
                body.level,
                body.one,
                body.other,
                body.reason,
                by=caller.name,
            )
        return {"items": [override_document(each) for each in made]}

    return router
