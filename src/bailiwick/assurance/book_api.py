"""Routes of the book: what is in force and how it came to be, what a change would do, and the change itself."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import Field, StringConstraints

from bailiwick.assurance.book import BadBook, Document, read_values, schema
from bailiwick.assurance.books import Books, Plan
from bailiwick.evidence.approvals import asker_of
from bailiwick.evidence.requests import context_of
from bailiwick.kernel.db import Database
from bailiwick.kernel.errors import BailiwickError, NotFound
from bailiwick.kernel.fields import Body, NamePath
from bailiwick.kernel.http import Caller, require, zone_of
from bailiwick.kernel.permissions import Permission

_MOST_PROBLEMS = 200

Reader = Annotated[Caller, Depends(require(Permission.ASSURANCE_READ))]
Writer = Annotated[Caller, Depends(require(Permission.ASSURANCE_CONFIGURE))]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$"), Field(description="`sha256` of the plan you saw")]
_EXAMPLE = {
    "apiVersion": "bailiwick/v1",
    "kind": "Threshold",
    "metadata": {"name": "api.latency.p95"},
    "spec": {"value": 100, "unit": "ms", "comparison": "<", "meaning": "95 of 100 answers", "owner": "operations"},
}


class Proposal(Body):
    """All documents that are to be in force: one that is missing goes."""

    documents: list[Any] = Field(examples=[[_EXAMPLE]])


class Decision(Proposal):
    """The same, as it was planned."""

    sha256: Sha256


def routes(database: Database, books: Books) -> APIRouter:
    """The routes under ``/api/v1/assurance``."""
    router = APIRouter(prefix="/api/v1/assurance", tags=["assurance"])

    @router.get("", summary="The book in force")
    async def book(
        request: Request, caller: Reader, kind: Annotated[str, Query(max_length=100, pattern=r"^[A-Za-z0-9]*$")] = ""
    ) -> dict[str, Any]:
        """Every document in force in the zone, or those of one kind."""
        async with database.begin() as tx:
            found = await books.current(tx, zone_of(request))
        return {
            "zone": found.zone,
            "revision": found.revision,
            "sha256": found.sha256,
            "documents": [told(each) for each in found.documents.values() if kind in ("", each.kind)],
        }

    @router.get("/schemas", summary="The JSON Schema of every kind of document")
    async def schemas(caller: Reader) -> dict[str, Any]:
        return {"schemas": {name: schema(kind) for name, kind in sorted(books.kinds.items())}}

    @router.get("/documents/{kind}/{name}", summary="One document with its history")
    async def document(request: Request, kind: NamePath, name: NamePath, caller: Reader) -> dict[str, Any]:
        """The newest version, and every one before it; a removal is a version with an empty spec."""
        async with database.begin() as tx:
            current = await books.current(tx, zone_of(request))
            history = await books.history(tx, zone_of(request), kind, name)
        if not history:
            raise NotFound("There was never such a document.")
        return {
            **told(history[0]),
            "in_force": (kind, name) in current.documents,
            "history": [told(each) for each in history],
        }

    @router.post("/plan", summary="What a change would do")
    async def plan(request: Request, body: Proposal, caller: Writer) -> dict[str, Any]:
        """The difference between what is in force and the documents sent. Changes nothing."""
        try:
            planned = await books.plan(zone_of(request), read_values(body.documents))
        except BadBook as error:
            raise refused(error) from None
        return planned.document()

    @router.post("/apply", summary="Put documents in force", responses={202: {"description": "Waits for an approval"}})
    async def apply(request: Request, response: Response, body: Decision, caller: Writer) -> dict[str, Any]:
        """Put the documents in force, as planned. Answers 202 with the approval where a second person is needed;
        sent again once that is given, it is done."""
        context = context_of(request, caller)
        _, signed_in = asker_of(context)
        try:
            done = await books.apply(
                context, read_values(body.documents), sha256=body.sha256, by=caller.name, signed_in=signed_in
            )
        except BadBook as error:
            raise refused(error) from None
        if isinstance(done, Plan):
            return {"applied": True, "plan": done.document(), "approval": None}
        response.status_code = 202
        return {"applied": False, "plan": None, "approval": done.document()}

    return router


def refused(error: BadBook) -> BailiwickError:
    """A bad book as a refusal that names everything that is wrong with it."""
    return BailiwickError(
        f"{len(error.problems)} problems: {error.problems[0]}"[:500],
        reason="bad_book",
        problems=[line[:500] for line in error.problems[:_MOST_PROBLEMS]],
    )


def told(document: Document) -> dict[str, Any]:
    """A document as JSON."""
    return {
        "apiVersion": document.api_version,
        "kind": document.kind,
        "metadata": {"name": document.name},
        "spec": dict(document.spec),
        "version": document.version,
        "sha256": document.sha256,
        "applied_at": document.applied_at,
        "applied_by": document.applied_by,
    }
