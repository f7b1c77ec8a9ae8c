"""Routes of handovers. Only translates."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import Field, StringConstraints

from bailiwick.assurance.report import html, markdown
from bailiwick.evidence.pack_requests import PackRequests
from bailiwick.evidence.requests import context_of
from bailiwick.handover.handovers.conditions import unmet
from bailiwick.handover.handovers.document import report
from bailiwick.handover.handovers.escalation import Escalation
from bailiwick.handover.handovers.packing import Packer
from bailiwick.handover.handovers.plan import Team
from bailiwick.handover.handovers.records import Handover, find, list_handovers, standing_json
from bailiwick.handover.handovers.section import selection
from bailiwick.handover.handovers.service import Handovers
from bailiwick.identity.passkeys_api import UsedCredential
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.fields import NAME_PATTERN, Body, IdPath, Line, Name, after_id
from bailiwick.kernel.http import Caller, Cursor, Limit, encode_cursor, require, zone_of
from bailiwick.kernel.permissions import Permission

Form = Literal["json", "html", "pdf", "md"]
MEDIA: dict[str, str] = {
    "json": "application/json",
    "html": "text/html; charset=utf-8",
    "pdf": "application/pdf",
    "md": "text/markdown; charset=utf-8",
}

Reader = Annotated[Caller, Depends(require(Permission.ASSURANCE_READ))]
Builder = Annotated[Caller, Depends(require(Permission.HANDOVER_BUILD))]
Signer = Annotated[Caller, Depends(require(Permission.HANDOVER_SIGN))]
Receiver = Annotated[Caller, Depends(require(Permission.HANDOVER_ACCEPT))]
Taker = Annotated[Caller, Depends(require(Permission.EVIDENCE_PACK))]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$"), Field(description="SHA-256 of the pack")]
EnvironmentName = Annotated[str, Query(pattern=NAME_PATTERN, max_length=100)]


class BuildBody(Body):
    """Which HandoverPlan."""

    plan: Name


class TeamBody(Body):
    """For whom."""

    team: Team


class SignBody(TeamBody):
    """What is signed. ``credential``: what ``navigator.credentials.get()`` made; without it by the second factor that
    was used just now."""

    sha256: Sha256
    credential: UsedCredential | None = None


class RefuseBody(TeamBody):
    """Why not."""

    reason: Annotated[Line, Field(min_length=1)]


class AcceptBody(Body):
    """What is accepted."""

    sha256: Sha256


class FileResponse(Response):
    """A pack in one of its forms."""


_FORMS: dict[int | str, dict[str, Any]] = {
    200: {"description": "The pack", "content": {media: {} for media in MEDIA.values()}}
}


def routes(
    database: Database, packer: Packer, handovers: Handovers, escalation: Escalation, packs: PackRequests
) -> APIRouter:
    """The routes under ``/api/v1/handovers``."""
    router = APIRouter(prefix="/api/v1/handovers", tags=["handovers"])

    @router.post("", status_code=201, summary="Build the pack of a handover")
    async def build(request: Request, body: BuildBody, caller: Builder) -> dict[str, Any]:
        """It takes the place of one of the same environment that is not accepted yet, and voids its signatures."""
        return (await packer.build(context_of(request, caller), body.plan, by=caller.name)).summary()

    @router.get("", summary="List handovers, newest first")
    async def list_all(request: Request, caller: Reader, limit: Limit = 100, cursor: Cursor = None) -> dict[str, Any]:
        async with database.begin() as tx:
            found = await list_handovers(tx, zone_of(request), after_id(cursor), limit)
        following = encode_cursor(found[-1].id) if len(found) == limit else None
        return {"handovers": [each.summary() for each in found], "next": following}

    @router.get("/escalation", summary="What whoever is asked for help needs to know")
    async def escalate(
        request: Request, caller: Builder, environment: EnvironmentName = "production"
    ) -> dict[str, Any]:
        return await escalation.make(context_of(request, caller), environment)

    @router.get("/{identifier}", summary="One handover: what it says, who signed")
    async def show(request: Request, identifier: IdPath, caller: Reader) -> dict[str, Any]:
        async with database.begin() as tx:
            found = await find(tx, zone_of(request), identifier)
        return {**found.summary(), "document": found.document}

    @router.get("/{identifier}/file", summary="The pack as a file", response_class=FileResponse, responses=_FORMS)
    async def file(request: Request, identifier: IdPath, caller: Reader, form: Form = "html") -> FileResponse:
        async with database.begin() as tx:
            found = await find(tx, zone_of(request), identifier)
        return FileResponse(
            written(found, form),
            media_type=MEDIA[form],
            headers={"Content-Disposition": f'attachment; filename="handover-{found.environment}-{found.id}.{form}"'},
        )

    @router.post("/{identifier}/sign/options", summary="What one's keys are asked, to sign for a team")
    async def options(request: Request, identifier: IdPath, body: TeamBody, caller: Signer) -> dict[str, Any]:
        """The challenge is the SHA-256 of the pack itself."""
        return {"publicKey": await handovers.options(caller, identifier, body.team)}

    @router.post("/{identifier}/sign", summary="Sign for a team")
    async def sign(request: Request, identifier: IdPath, body: SignBody, caller: Signer) -> dict[str, Any]:
        credential = body.credential.plain() if body.credential is not None else None
        signed = await handovers.sign(
            context_of(request, caller), caller, identifier, body.team, sha256=body.sha256, credential=credential
        )
        return signed.summary()

    @router.post("/{identifier}/refuse", summary="Refuse for a team, with a reason")
    async def refuse(request: Request, identifier: IdPath, body: RefuseBody, caller: Signer) -> dict[str, Any]:
        context = context_of(request, caller)
        return (await handovers.refuse(context, caller, identifier, body.team, body.reason)).summary()

    @router.post("/{identifier}/accept", summary="Take over, now")
    async def accept(request: Request, identifier: IdPath, body: AcceptBody, caller: Receiver) -> dict[str, Any]:
        """On-call, alert routes and RACI change hands in one transaction, and the handover statement is made."""
        return (await handovers.accept(context_of(request, caller), caller, identifier, sha256=body.sha256)).summary()

    @router.get("/{identifier}/statement", summary="The handover statement, or what it waits for")
    async def statement(request: Request, identifier: IdPath, caller: Reader) -> dict[str, Any]:
        async with database.begin() as tx:
            return await stated(tx, handovers, await find(tx, zone_of(request), identifier))

    @router.post("/{identifier}/pack", status_code=202, summary="Have the pack built that can be checked offline")
    async def pack(request: Request, identifier: IdPath, caller: Taker) -> dict[str, Any]:
        """It is an evidence pack: GET `/api/v1/evidence/packs/{id}` until it is built, then take its file."""
        async with database.begin() as tx:
            found = await find(tx, zone_of(request), identifier)
            return (await packs.ask(tx, context_of(request, caller), selection(found))).to_json()

    return router


def written(found: Handover, form: Form) -> bytes:
    """The pack as a file: what was signed, byte for byte, or for people."""
    if form == "json":
        return found.body
    shown = report(found.document, found.sha256, standing_json(found))
    if form == "pdf":
        from bailiwick.assurance.report import pdf  # its fonts are 20 MB in every process that never writes one

        return pdf.write(shown, found.built_at)
    return (markdown.write(shown) if form == "md" else html.write(shown)).encode()


async def stated(tx: Transaction, handovers: Handovers, found: Handover) -> dict[str, Any]:
    """The statement of a handover, None with what it waits for."""
    if found.acceptance is not None:
        return {"statement": dict(found.acceptance.statement), "unmet": []}
    waits = [f"{team} has not signed" for team in found.missing]
    if found.state in ("refused", "superseded"):
        waits.insert(0, f"the pack is {found.state}")
    return {"statement": None, "unmet": [*waits, *unmet(await handovers.facts(tx, found))]}


__all__ = ["routes", "stated", "written"]
