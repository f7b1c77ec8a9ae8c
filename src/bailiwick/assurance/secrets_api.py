"""Routes of secrets: the inventory, its gate, rotations with their proof, and what nobody uses."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request, Response
from pydantic import Field, SecretStr, StringConstraints

from bailiwick.assurance.secret_rotation import Rotations
from bailiwick.assurance.secrets import SecretInventory, state_of
from bailiwick.assurance.unused import UnusedReview
from bailiwick.evidence.requests import context_of
from bailiwick.kernel.agreement import WAITS
from bailiwick.kernel.answers import never_store
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database
from bailiwick.kernel.fields import Body, IdPath, Line
from bailiwick.kernel.http import Caller, Limit, require, zone_of
from bailiwick.kernel.permissions import Permission
from bailiwick.kernel.quorum import Approval

Reader = Annotated[Caller, Depends(require(Permission.ASSURANCE_READ))]
Writer = Annotated[Caller, Depends(require(Permission.SECRETS_WRITE))]
Rotator = Annotated[Caller, Depends(require(Permission.KEYS_ROTATE))]
Old = Annotated[SecretStr, Field(max_length=500, description="the old value, to be presented and refused")]


class RotationBody(Body):
    """What is rotated. ``overlap_hours``: how long old and new are good together, where that can be. The first four
    kinds are rotated by this; others were replaced already, and ``statement`` says how it is known that the old one is
    refused where we cannot present it."""

    kind: Literal[
        "application",
        "api-key",
        "signing-key",
        "kek",
        "setting",
        "credential",
        "provider",
        "sink",
        "channel",
        "declared",
    ]
    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$", max_length=100)]
    old: Old = SecretStr("")
    overlap_hours: int = Field(0, ge=0, le=24 * 30)
    statement: Line = ""


class ProofBody(Body):
    """The old value, now that the overlap is over."""

    old: Old


class NoteBody(Body):
    """Why."""

    note: Annotated[Line, Field(min_length=1)]


def routes(
    database: Database, clock: Clock, inventory: SecretInventory, rotations: Rotations, unused: UnusedReview
) -> APIRouter:
    """The routes under ``/api/v1/secrets``."""
    router = APIRouter(prefix="/api/v1/secrets", tags=["secrets"])

    @router.get("", summary="Every secret by reference and fingerprint")
    async def list_secrets(request: Request, caller: Reader) -> dict[str, Any]:
        async with database.begin() as tx:
            found = await inventory.found(tx, zone_of(request))
        now = clock.now()
        return {"secrets": [{**secret.document(), "state": state_of(secret, now)} for secret in found]}

    @router.post("/check", summary="The gate: no test or default key in production, nothing past its date")
    async def check(request: Request, response: Response, caller: Reader) -> dict[str, Any]:
        never_store(response)
        async with database.begin() as tx:
            verdict, judged = await inventory.check(tx, context_of(request, caller))
        waivers = sorted({each.waiver for each in judged if each.waiver})
        return {"verdict": verdict, "waivers": waivers, "secrets": [each.document() for each in judged]}

    @router.get("/rotations", summary="Rotations, newest first, each with its proof")
    async def list_rotations(request: Request, caller: Reader, limit: Limit = 100) -> dict[str, Any]:
        async with database.begin() as tx:
            return {"rotations": await rotations.list(tx, zone_of(request), limit)}

    @router.post("/rotations", status_code=201, summary="Rotate one, and prove that the old one is refused")
    async def rotate(request: Request, response: Response, body: RotationBody, caller: Rotator) -> dict[str, Any]:
        """A new value is told in this answer and never again."""
        never_store(response)
        return await rotations.rotate(
            context_of(request, caller),
            caller,
            body.kind,
            body.name,
            old=body.old.get_secret_value(),
            overlap=timedelta(hours=body.overlap_hours),
            statement=body.statement,
        )

    @router.post("/rotations/{rotation_id}/prove", summary="Present the old one after the overlap")
    async def prove(
        request: Request, response: Response, rotation_id: IdPath, body: ProofBody, caller: Rotator
    ) -> dict[str, Any]:
        never_store(response)
        return await rotations.prove(context_of(request, caller), rotation_id, body.old.get_secret_value())

    @router.get("/review", summary="Accounts and keys that nobody used")
    async def review(request: Request, caller: Reader, limit: Limit = 100) -> dict[str, Any]:
        async with database.begin() as tx:
            return {"reviews": await unused.list(tx, zone_of(request), limit)}

    @router.post("/review/{review_id}/keep", summary="Say that it is needed")
    async def keep(
        request: Request, response: Response, review_id: IdPath, body: NoteBody, caller: Writer
    ) -> dict[str, Any]:
        never_store(response)
        return await unused.keep(context_of(request, caller), review_id, caller.name, body.note)

    @router.post(
        "/review/{review_id}/restore", summary="Enable again what was disabled for not being used", responses=WAITS
    )
    async def restore(
        request: Request, response: Response, review_id: IdPath, body: NoteBody, caller: Writer
    ) -> dict[str, Any]:
        """An account takes two persons: 202 with the approval; sent again once that is given, it is done."""
        never_store(response)
        done = await unused.restore(context_of(request, caller), review_id, caller.name, body.note)
        if isinstance(done, Approval):
            response.status_code = 202
            return {"approval": done.document()}
        return done

    return router
