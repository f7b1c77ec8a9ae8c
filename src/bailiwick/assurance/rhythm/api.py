"""The routes of the rhythm."""

from __future__ import annotations

from datetime import date
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Query, Request, Response
from fastapi.responses import HTMLResponse, PlainTextResponse
from pydantic import Field, StringConstraints

from bailiwick.assurance.rhythm import packs
from bailiwick.assurance.rhythm.actions import Action, Actions
from bailiwick.assurance.rhythm.clockwork import Clockwork
from bailiwick.assurance.rhythm.desk import RhythmDesk, pack_document
from bailiwick.assurance.rhythm.minutes import Minutes, Said, SaidAction
from bailiwick.assurance.standing_evidence import RECORD_PATTERN
from bailiwick.evidence.requests import context_of
from bailiwick.kernel.answers import page
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.fields import NAME_PATTERN, UUID_PATTERN, Body, IdPath, Line, NamePath, UserName, after_id
from bailiwick.kernel.http import Caller, Cursor, Limit, require, zone_of
from bailiwick.kernel.permissions import Permission
from bailiwick.kernel.rfc5545 import MEDIA_TYPE
from bailiwick.kernel.severity import Severity

Reader = Annotated[Caller, Depends(require(Permission.ASSURANCE_READ))]
Worker = Annotated[Caller, Depends(require(Permission.RHYTHM_WORK))]
Signer = Annotated[Caller, Depends(require(Permission.REPORTS_SIGN))]
OccurrencePath = Annotated[str, Path(pattern=UUID_PATTERN, description="Id of a dated occurrence")]
RecordId = Annotated[str, StringConstraints(pattern=RECORD_PATTERN), Field(description="Id of an evidence record")]
StateName = Literal["", "scheduled", "pack_built", "held", "done", "signed", "overdue", "missed", "cancelled"]
CeremonyQuery = Annotated[str, Query(max_length=100, pattern=rf"^$|{NAME_PATTERN}")]


class ActionBody(Body):
    """What somebody does by a day. Without a day it is refused with 422."""

    title: Annotated[Line, Field(min_length=1)]
    owner: UserName
    due: date | None = None
    severity: Severity = Severity.P3


class MinutesBody(Body):
    """Who was there and what came of it."""

    attendees: Annotated[list[UserName], Field(min_length=1, max_length=100)]
    decisions: Annotated[list[Line], Field(max_length=100)] = Field(default_factory=list)
    actions: Annotated[list[ActionBody], Field(max_length=100)] = Field(default_factory=list)


class DoneBody(Body):
    """What shows that it is done."""

    record: RecordId


class ActionChangeBody(Body):
    """Another owner, another day, or both."""

    owner: UserName | None = None
    due: date | None = None


def said(body: MinutesBody) -> Said:
    """The minutes that a body has."""
    taken = [SaidAction(each.title, each.owner, each.due, each.severity) for each in body.actions]
    return Said(body.attendees, body.decisions, taken)


def routes(desk: RhythmDesk, clockwork: Clockwork, minutes: Minutes, actions: Actions, clock: Clock) -> APIRouter:
    """The routes under ``/api/v1/rhythm``."""
    router = APIRouter(prefix="/api/v1/rhythm", tags=["rhythm"])

    @router.get("/ceremonies", summary="What recurs, and when it is next")
    async def list_ceremonies(request: Request, caller: Reader) -> dict[str, Any]:
        return {"ceremonies": await desk.ceremonies(zone_of(request))}

    @router.get("/ceremonies/{name}", summary="One ceremony")
    async def get_ceremony(request: Request, name: NamePath, caller: Reader) -> dict[str, Any]:
        return await desk.ceremony(zone_of(request), name)

    @router.get(
        "/calendar.ics",
        summary="The dates as iCalendar (RFC 5545), from a month ago on",
        response_class=Response,
        responses={
            200: {"content": {MEDIA_TYPE: {"schema": {"type": "string"}}}},
            304: {"description": "It is the calendar that If-None-Match names"},
        },
    )
    async def get_calendar(
        request: Request, caller: Reader, days: Annotated[int, Query(ge=1, le=366, description="How far ahead")] = 60
    ) -> Response:
        body, digest = await desk.calendar(zone_of(request), days)
        headers = {"ETag": f'"{digest}"', "Cache-Control": "private, no-cache"}
        known = {part.strip().removeprefix("W/") for part in request.headers.get("if-none-match", "").split(",")}
        if headers["ETag"] in known or "*" in known:
            return Response(status_code=304, headers=headers)
        return Response(body, media_type=MEDIA_TYPE, headers=headers)

    @router.get("/occurrences", summary="Dated occurrences, newest first")
    async def list_occurrences(
        request: Request,
        caller: Reader,
        ceremony: CeremonyQuery = "",
        state: StateName = "",
        limit: Limit = 100,
        cursor: Cursor = None,
    ) -> dict[str, Any]:
        found = await desk.list(zone_of(request), ceremony=ceremony, state=state, before=after_id(cursor), limit=limit)
        return page([each.document() for each in found], found[-1].id if len(found) == limit else None)

    @router.get("/occurrences/{occurrence_id}", summary="One occurrence, its minutes and who signed")
    async def get_occurrence(request: Request, occurrence_id: OccurrencePath, caller: Reader) -> dict[str, Any]:
        return await desk.show(zone_of(request), occurrence_id)

    @router.post("/occurrences/{occurrence_id}/pack", summary="Build the pack now, unless it is built")
    async def build_pack(request: Request, occurrence_id: OccurrencePath, caller: Worker) -> dict[str, Any]:
        """Refused with `window_not_over` before the pack is due."""
        built = await clockwork.build_pack(context_of(request, caller), occurrence_id, by=caller.name)
        return pack_document(built)

    @router.get(
        "/occurrences/{occurrence_id}/pack",
        summary="What is put before the meeting",
        response_model=None,
        responses={
            200: {
                "content": {
                    "application/json": {"schema": {"type": "object"}},
                    "text/markdown": {"schema": {"type": "string"}},
                    "text/html": {"schema": {"type": "string"}},
                }
            }
        },
    )
    async def get_pack(
        request: Request,
        occurrence_id: OccurrencePath,
        caller: Reader,
        format: Annotated[Literal["json", "markdown", "html"], Query(description="json, markdown or html")] = "json",
    ) -> Response | dict[str, Any]:
        pack = await desk.pack(zone_of(request), occurrence_id)
        if format == "markdown":
            text = packs.markdown(pack.document, pack.sha256)
            return PlainTextResponse(text, media_type="text/markdown; charset=utf-8")
        if format == "html":
            return HTMLResponse(packs.html(pack.document, pack.sha256))
        return pack_document(pack)

    @router.get("/occurrences/{occurrence_id}/pack/verify", summary="Build the pack again and compare the digests")
    async def verify_pack(request: Request, occurrence_id: OccurrencePath, caller: Reader) -> dict[str, Any]:
        return await desk.verify(zone_of(request), occurrence_id)

    @router.put("/occurrences/{occurrence_id}/minutes", summary="Take minutes, as the next version")
    async def write_minutes(
        request: Request, occurrence_id: OccurrencePath, body: MinutesBody, caller: Worker
    ) -> dict[str, Any]:
        written = await minutes.write(context_of(request, caller), occurrence_id, said(body), by=caller.name)
        return written.to_json()

    @router.post("/occurrences/{occurrence_id}/hold", summary="Close the meeting: its minutes stand")
    async def hold(request: Request, occurrence_id: OccurrencePath, caller: Worker) -> dict[str, Any]:
        """Refused with `quorum_missing` while nobody was there for a required role."""
        return (await minutes.hold(context_of(request, caller), occurrence_id, by=caller.name)).document()

    @router.post("/occurrences/{occurrence_id}/sign", summary="Vouch for minutes and pack by their digests")
    async def sign(request: Request, occurrence_id: OccurrencePath, caller: Signer) -> dict[str, Any]:
        """Whoever built the pack or wrote minutes does not sign them."""
        return (await minutes.sign(context_of(request, caller), occurrence_id, by=caller.name)).to_json()

    def shown(found: Action) -> dict[str, Any]:
        return found.document(clock.now())

    @router.get("/actions", summary="Action items, by their day")
    async def list_actions(
        request: Request,
        caller: Reader,
        ceremony: CeremonyQuery = "",
        unfinished: Annotated[bool, Query(alias="open", description="Only those that are not done")] = True,
        limit: Limit = 100,
    ) -> dict[str, Any]:
        found = await actions.list(zone_of(request), ceremony=ceremony, unfinished=unfinished, limit=limit)
        return {"actions": [shown(each) for each in found]}

    @router.patch("/actions/{action_id}", summary="Give an action item to another, or another day")
    async def change_action(
        request: Request, action_id: IdPath, body: ActionChangeBody, caller: Worker
    ) -> dict[str, Any]:
        changed = await actions.change(
            context_of(request, caller), action_id, by=caller.name, owner=body.owner or "", due=body.due
        )
        return shown(changed)

    @router.post("/actions/{action_id}/done", summary="It is done, as an evidence record shows")
    async def finish_action(request: Request, action_id: IdPath, body: DoneBody, caller: Worker) -> dict[str, Any]:
        return shown(await actions.done(context_of(request, caller), action_id, body.record, by=caller.name))

    return router
