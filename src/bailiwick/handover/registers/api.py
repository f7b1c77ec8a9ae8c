"""The routes of known issues, single-source documents and announcements. Only translates."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import Field, StringConstraints

from bailiwick.assurance.registers import KnownIssue
from bailiwick.evidence.requests import context_of
from bailiwick.handover.registers.announcements import Announcements
from bailiwick.handover.registers.documents import Documents
from bailiwick.handover.registers.known_issues import KnownIssues
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database
from bailiwick.kernel.fields import Body, IdPath, Name, NamePath, Text
from bailiwick.kernel.http import Caller, Limit, require, zone_of
from bailiwick.kernel.permissions import Permission
from bailiwick.kernel.verdicts import worst

Reader = Annotated[Caller, Depends(require(Permission.ASSURANCE_READ))]
Worker = Annotated[Caller, Depends(require(Permission.HANDOVER_WORK))]
ValueName = Annotated[str, StringConstraints(pattern=r"^[a-z][a-z0-9_]{0,40}$")]
_INCOMPLETE: dict[int | str, dict[str, Any]] = {422: {"description": "The template names values that were not given"}}
_UNSEEN: dict[int | str, dict[str, Any]] = {422: {"description": "The document cannot be seen from here"}}


class KnownIssueBody(KnownIssue):
    """A known issue, and the name it is called by."""

    name: Name


class ReviewBody(Body):
    """What whoever read a document says of it."""

    statement: Annotated[Text, Field(min_length=10)]


class AnnounceBody(Body):
    """Which template, with which values; ``preview``: only show what would be sent."""

    template: Name
    values: Annotated[dict[ValueName, Text], Field(max_length=40)] = Field(default_factory=dict)
    preview: bool = False


def routes(
    database: Database, clock: Clock, known_issues: KnownIssues, documents: Documents, announcements: Announcements
) -> APIRouter:
    """The routes under ``/api/v1/known-issues``, ``/api/v1/documents`` and ``/api/v1/announcements``. What becomes of
    known issues is with the registers (``/api/v1/registers/known-issues``)."""
    router = APIRouter(prefix="/api/v1", tags=["handover registers"])

    @router.post("/known-issues", status_code=201, summary="Put a known issue on the list")
    async def add_known_issue(request: Request, body: KnownIssueBody, caller: Worker) -> dict[str, Any]:
        issue = KnownIssue.model_validate(body.model_dump(exclude={"name"}))
        found = await known_issues.add(context_of(request, caller), body.name, issue, by=caller.name)
        return found.document(clock.now())

    @router.get("/documents", summary="Single-source documents and how each stands")
    async def list_documents(request: Request, caller: Reader) -> dict[str, Any]:
        async with database.begin() as tx:
            found = await documents.standing(tx, zone_of(request))
        return {"verdict": str(worst(each.verdict for each in found)), "items": [each.document() for each in found]}

    @router.post("/documents/check", summary="Look at every document now, and write down what was seen")
    async def check_documents(request: Request, caller: Worker) -> dict[str, Any]:
        found = await documents.check(context_of(request, caller))
        return {"verdict": str(worst(each.verdict for each in found)), "items": [each.document() for each in found]}

    @router.post("/documents/{name}/review", summary="Say that you have read a document as it is", responses=_UNSEEN)
    async def review_document(request: Request, name: NamePath, body: ReviewBody, caller: Worker) -> dict[str, Any]:
        found = await documents.review(context_of(request, caller), name, body.statement, by=caller.name)
        return found.document()

    @router.get("/announcements", summary="What was announced, and who got it")
    async def list_announcements(request: Request, caller: Reader, limit: Limit = 50) -> dict[str, Any]:
        async with database.begin() as tx:
            found = await announcements.list(tx, zone_of(request), limit=limit)
        return {"items": [each.document() for each in found]}

    @router.get("/announcements/templates", summary="What can be announced, and to whom it goes")
    async def list_templates(request: Request, caller: Reader) -> dict[str, Any]:
        async with database.begin() as tx:
            found = await announcements.templates(tx, zone_of(request))
        items = [{"name": name, **each.model_dump(mode="json"), "asks": each.asks} for name, each in found.items()]
        return {"items": items}

    @router.get("/announcements/{identifier}", summary="One announcement with its receipts")
    async def get_announcement(request: Request, identifier: IdPath, caller: Reader) -> dict[str, Any]:
        async with database.begin() as tx:
            return (await announcements.get(tx, zone_of(request), identifier)).document()

    @router.post("/announcements", summary="Send what a template says to its list", responses=_INCOMPLETE)
    async def announce(request: Request, body: AnnounceBody, caller: Worker) -> dict[str, Any]:
        if body.preview:
            async with database.begin() as tx:
                return await announcements.preview(tx, zone_of(request), body.template, body.values)
        sent = await announcements.send(context_of(request, caller), body.template, body.values)
        return sent.document()

    return router
