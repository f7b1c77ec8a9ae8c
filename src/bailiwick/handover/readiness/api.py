"""Routes of readiness. Only translates."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import Field, StringConstraints

from bailiwick.evidence.requests import context_of
from bailiwick.handover.readiness import store
from bailiwick.handover.readiness.attachments import MOST_BYTES, UNKNOWN_TYPE, Attachments, media_type_of
from bailiwick.handover.readiness.service import ReadinessDesk
from bailiwick.kernel.db import Database
from bailiwick.kernel.errors import BailiwickError, Denied
from bailiwick.kernel.fields import Body, IdPath, Line, NamePath, Text
from bailiwick.kernel.http import Caller, Limit, require, zone_of
from bailiwick.kernel.permissions import Permission

Reader = Annotated[Caller, Depends(require(Permission.ASSURANCE_READ))]
Runner = Annotated[Caller, Depends(require(Permission.PROBES_RUN))]
Attester = Annotated[Caller, Depends(require(Permission.READINESS_ATTEST))]
Holder = Annotated[Caller, Depends(require(Permission.EVIDENCE_READ))]
HashPath = Annotated[str, Path(pattern=r"^[0-9a-f]{64}$", examples=["ab" * 32])]
SlugPath = Annotated[str, Path(pattern=r"^[a-z0-9]([a-z0-9-]{0,58}[a-z0-9])?$", examples=["known-issues"])]


_BYTES: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {UNKNOWN_TYPE: {"schema": {"type": "string", "format": "binary", "maxLength": MOST_BYTES}}},
    },
    "responses": {"200": {"description": "It is kept already"}},
}
_ALTERED: dict[int | str, dict[str, Any]] = {409: {"description": "What is kept is not what its hash names"}}


LARGE_BODIES = (("PUT", re.compile(r"/api/v1/readiness/attachments/[0-9a-f]{64}"), MOST_BYTES),)
"""What is longer than other bodies may be."""


class AttestBody(Body):
    """What is stated. ``sha256``: the hash of the document that goes with it, which was handed in before;
    ``attachment`` is what it is called."""

    statement: Annotated[Text, Field(min_length=1)]
    attachment: Line = ""
    sha256: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")] = ""


class ReviewBody(Body):
    """What another person says to it; who refuses says why in ``note``."""

    outcome: Literal["accepted", "refused"]
    note: Text = ""


class DocumentResponse(Response):
    """A document as it was handed in: nothing that a browser shows or runs."""

    media_type = UNKNOWN_TYPE


def routes(database: Database, desk: ReadinessDesk, attachments: Attachments) -> APIRouter:
    """The routes under ``/api/v1/readiness``."""
    router = APIRouter(prefix="/api/v1/readiness", tags=["readiness"])

    @router.get("", summary="Environments, and whether each is ready")
    async def environments(request: Request, caller: Reader) -> dict[str, Any]:
        zone = zone_of(request)
        async with database.begin() as tx:
            found = []
            for name, profile in (await desk.environments(tx, zone)).items():
                stands = await desk.standing(tx, zone, name)
                found.append(
                    {
                        "environment": name,
                        "profile": profile.profile,
                        "verdict": str(stands.verdict),
                        "until": stands.until,
                        "blockers": len(stands.blockers),
                        "score": dict(stands.figures),
                    }
                )
        return {"environments": found}

    @router.get("/{environment}", summary="Why it is not ready: score, blockers, trend and every item")
    async def show(request: Request, environment: NamePath, caller: Reader) -> dict[str, Any]:
        """Computed at this moment: evidence that is too old by now does not count. Only PASS is green."""
        async with database.begin() as tx:
            return (await desk.view(tx, zone_of(request), environment)).document()

    @router.get("/{environment}/items/{checklist}/{item}", summary="One item: what is asked, found, stated, to be done")
    async def explain(
        request: Request, environment: NamePath, checklist: SlugPath, item: SlugPath, caller: Reader
    ) -> dict[str, Any]:
        async with database.begin() as tx:
            return await desk.explain(tx, zone_of(request), environment, f"{checklist}/{item}")

    @router.get("/{environment}/runs", summary="The runs, newest first")
    async def list_runs(request: Request, environment: NamePath, caller: Reader, limit: Limit = 30) -> dict[str, Any]:
        async with database.begin() as tx:
            await desk.held(tx, zone_of(request), environment)
            found = await store.runs(tx, zone_of(request), environment, limit=limit)
        return {"runs": [each.document() for each in found]}

    @router.post("/{environment}/runs", status_code=202, summary="Have everything looked at now")
    async def run(request: Request, environment: NamePath, caller: Runner) -> dict[str, Any]:
        """The work role does; what it found stands in the list of runs soon."""
        async with database.begin() as tx:
            due = await desk.ask(tx, context_of(request, caller), environment)
        return {"environment": environment, "due_at": due}

    @router.post(
        "/{environment}/items/{checklist}/{item}/attestations",
        status_code=201,
        summary="State that an item is so, where no probe can look",
    )
    async def attest(
        request: Request, environment: NamePath, checklist: SlugPath, item: SlugPath, body: AttestBody, caller: Attester
    ) -> dict[str, Any]:
        """It counts once another person has accepted it, and for as long as the item's evidence lives."""
        _person(caller)
        made = await desk.attest(
            context_of(request, caller),
            environment,
            f"{checklist}/{item}",
            body.statement,
            body.attachment,
            body.sha256,
        )
        return made.document()

    @router.put(
        "/attachments/{sha256}", status_code=201, summary="Hand in a document for an attestation", openapi_extra=_BYTES
    )
    async def attach(request: Request, response: Response, sha256: HashPath, caller: Attester) -> dict[str, Any]:
        """The body is the document, at most 10 MiB, the path its SHA-256; the same again answers 200."""
        _person(caller)
        media_type = media_type_of(request.headers.get("content-type", ""))
        made, new = await attachments.keep(context_of(request, caller), sha256, media_type, await _read(request))
        if not new:
            response.status_code = 200
        return made.document()

    @router.get(
        "/attachments/{sha256}", summary="A document that was handed in", response_class=DocumentResponse,
        responses=_ALTERED,
    )  # fmt: skip
    async def attachment(request: Request, sha256: HashPath, caller: Holder) -> Response:
        """The bytes as they were, held against their hash; always to be saved, never to be shown."""
        found, data = await attachments.read(context_of(request, caller), sha256)
        return Response(
            data,
            media_type=found.media_type,
            headers={
                "Content-Disposition": f'attachment; filename="{sha256}"',
                "X-Content-Type-Options": "nosniff",
                "Content-Security-Policy": "default-src 'none'; sandbox",
                "Cache-Control": "private, no-store",
            },
        )

    @router.post("/{environment}/attestations/{attestation_id}/review", summary="Accept or refuse what another stated")
    async def review(
        request: Request, environment: NamePath, attestation_id: IdPath, body: ReviewBody, caller: Attester
    ) -> dict[str, Any]:
        _person(caller)
        made = await desk.review(context_of(request, caller), environment, attestation_id, body.outcome, body.note)
        return made.document()

    return router


async def _read(request: Request) -> bytes:
    """The body, as far as it may be long. Raises ``payload_too_large``."""
    found = bytearray()
    async for part in request.stream():
        found += part
        if len(found) > MOST_BYTES:
            raise BailiwickError(f"A document is at most {MOST_BYTES} bytes.", reason="payload_too_large")
    return bytes(found)


def _person(caller: Caller) -> None:
    """A statement is a person's, who signed in; a key of his is in the hands of a program."""
    if caller.key:
        raise Denied(reason="person_needed")


__all__ = ["LARGE_BODIES", "routes"]
