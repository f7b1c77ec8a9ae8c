"""Routes of evidence packs: ask for one, see how far it is, take it away."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Request
from fastapi.responses import FileResponse
from pydantic import AfterValidator, AwareDatetime, Field

from bailiwick.evidence import codes
from bailiwick.evidence.events import Recorder, Subject
from bailiwick.evidence.pack import MOST_REQUESTS, MOST_WINDOWS, IncidentSelector, Selection, Window, of_incident
from bailiwick.evidence.pack_requests import PackRequests
from bailiwick.evidence.requests import context_of
from bailiwick.kernel.db import Database
from bailiwick.kernel.errors import Denied
from bailiwick.kernel.fields import Body, IdPath, Line, after_id
from bailiwick.kernel.http import Caller, Cursor, Limit, encode_cursor, require, zone_of
from bailiwick.kernel.permissions import Permission


def _in_range(value: datetime) -> datetime:
    if not 1970 <= value.year <= 9000:
        raise ValueError("is out of range")
    return value


Instant = Annotated[AwareDatetime, AfterValidator(_in_range), Field(examples=["2026-01-05T09:00:00Z"])]


class WindowBody(Body):
    """From ``since``, inclusive, to ``until``, exclusive."""

    since: Instant
    until: Instant


class NewPack(Body):
    """What the pack is of. ``inputs``: with what decisions were made from."""

    name: Line = ""
    requests: Annotated[list[UUID], Field(max_length=MOST_REQUESTS)] = Field(default_factory=list)
    windows: Annotated[list[WindowBody], Field(max_length=MOST_WINDOWS)] = Field(default_factory=list)
    incident: Line = ""
    inputs: bool = False


class ZipResponse(FileResponse):
    """A pack."""

    media_type = "application/zip"


Packer = Annotated[Caller, Depends(require(Permission.EVIDENCE_PACK))]
_NOT_YET: dict[int | str, dict[str, Any]] = {409: {"description": "It is not built yet, or kept on another machine"}}


def routes(
    database: Database, packs: PackRequests, recorder: Recorder, incidents: IncidentSelector | None = None
) -> APIRouter:
    """The routes under ``/api/v1/evidence/packs``."""
    router = APIRouter(prefix="/api/v1/evidence/packs", tags=["evidence"])

    @router.post("", status_code=202, summary="Have an evidence pack built")
    async def ask(request: Request, body: NewPack, caller: Packer) -> dict[str, Any]:
        """The pack is built behind the answer; GET it until its ``state`` is ``built``, then take its ``file``."""
        if body.inputs and not caller.may(Permission.DECISIONS_READ):
            raise Denied("Decision inputs need the permission decisions:read.", permission="decisions:read")
        zone = zone_of(request)
        async with database.begin() as tx:
            wanted = Selection(
                zone,
                tuple(dict.fromkeys(body.requests)),
                tuple(Window(each.since, each.until) for each in body.windows),
                body.name,
                body.inputs,
            )
            if body.incident:
                wanted = (await of_incident(incidents, tx, zone, body.incident)).joined(wanted)
            asked = await packs.ask(tx, context_of(request, caller), wanted)
        return asked.to_json()

    @router.get("", summary="List evidence packs, newest first")
    async def list_packs(request: Request, caller: Packer, limit: Limit = 100, cursor: Cursor = None) -> dict[str, Any]:
        async with database.begin() as tx:
            found = await packs.list(tx, zone_of(request), after=after_id(cursor), limit=limit)
        following = encode_cursor(found[-1].id) if len(found) == limit else None
        return {"packs": [each.to_json() for each in found], "next": following}

    @router.get("/{identifier}", summary="One evidence pack: how far it is")
    async def get_pack(request: Request, identifier: IdPath, caller: Packer) -> dict[str, Any]:
        async with database.begin() as tx:
            return (await packs.get(tx, zone_of(request), identifier)).to_json()

    @router.get("/{identifier}/file", summary="The pack itself", response_class=ZipResponse, responses=_NOT_YET)
    async def get_file(request: Request, identifier: IdPath, caller: Packer) -> ZipResponse:
        async with database.begin() as tx:
            found = await packs.get(tx, zone_of(request), identifier)
            path = packs.file_of(found)
            await recorder.record(
                tx,
                codes.AUDIT_EXPORTED,
                "success",
                context_of(request, caller),
                subject=Subject(id=identifier, type="evidence-pack"),
                sha256=found.sha256 or "",
                events=found.events or 0,
            )
        return ZipResponse(path, filename=f"evidence-{found.zone}-{identifier}.zip")

    return router
