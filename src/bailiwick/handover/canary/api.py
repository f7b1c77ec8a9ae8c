"""Routes of canaries. Only translates."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field, StringConstraints

from bailiwick.evidence.events import rfc3339
from bailiwick.evidence.requests import context_of
from bailiwick.handover.canary.loop import AccessLoop
from bailiwick.handover.canary.records import (
    DIGEST_PATTERN,
    Canary,
    find,
    judgements_of,
    list_canaries,
    points_of,
    results_of,
)
from bailiwick.handover.canary.service import CanaryDesk, Start
from bailiwick.handover.ports import Standing
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.fields import Body, IdPath, Line, Name, after_id
from bailiwick.kernel.http import Caller, Cursor, Limit, encode_cursor, require, zone_of
from bailiwick.kernel.permissions import Permission

Reader = Annotated[Caller, Depends(require(Permission.ASSURANCE_READ))]
Worker = Annotated[Caller, Depends(require(Permission.CANARY_WORK))]
Digest = Annotated[str, StringConstraints(pattern=DIGEST_PATTERN), Field(examples=["sha256:" + "0" * 64])]
Url = Annotated[str, StringConstraints(min_length=1, max_length=2000), Field(examples=["http://10.0.0.8:8080"])]
OfDigest = Annotated[str, Query(pattern=r"^(sha256:[0-9a-f]{64})?$", max_length=71)]

_REFUSED: dict[int | str, dict[str, Any]] = {
    403: {"description": "The candidate was not shown to be fit for it, or the caller may not"},
    404: {"description": "There is no such canary, server or plan"},
    409: {"description": "Another canary goes on, this one is over, or the release failed within a day"},
    422: {"description": "The upstreams cannot be held against each other, or may not be reached"},
    503: {"description": "Changes are frozen, or a name does not resolve"},
}


class StartBody(Body):
    """The release, the plan, and where its instances answer. ``automatic``: whether it goes on by itself; as the plan
    says where this is not said."""

    server: Name
    digest: Digest
    plan: Name = "standard"
    baseline_url: Url
    candidate_url: Url
    automatic: bool | None = None


class LoopBody(Body):
    """What the verdict is about, the active policy set where this is not said; an upstream that answers GET with 200,
    where the loop's own on loopback may not be one."""

    digest: Digest | None = None
    upstream_url: Url | None = None


class WhyBody(Body):
    """Why."""

    why: Annotated[Line, Field(min_length=1)]


def standing_document(standing: Standing) -> dict[str, Any]:
    """The JSON form of what is so of a release. ``go``: whether the gate opens; nothing else opens it."""
    return {
        "verdict": standing.verdict.value,
        "go": standing.passes,
        "at": rfc3339(standing.at),
        "until": rfc3339(standing.until) if standing.until is not None else None,
        "blockers": [
            {"name": each.name, "verdict": each.verdict.value, "told": each.told} for each in standing.blockers
        ],
    }


async def canary_document(tx: Transaction, canary: Canary) -> dict[str, Any]:
    """One canary with its judgements and how many points the phase has."""
    points = await points_of(tx, canary.id, canary.phase)
    return {
        **canary.document(),
        "points": {arm: sum(1 for each in found if each.requests) for arm, found in points.items()},
        "judgements": await judgements_of(tx, canary.id),
    }


def routes(database: Database, desk: CanaryDesk, loop: AccessLoop) -> APIRouter:
    """The routes under ``/api/v1/canaries``."""
    router = APIRouter(prefix="/api/v1/canaries", tags=["canaries"])

    @router.get("", summary="Canaries, newest first")
    async def list_all(
        request: Request, caller: Reader, digest: OfDigest = "", limit: Limit = 100, cursor: Cursor = None
    ) -> dict[str, Any]:
        async with database.begin() as tx:
            found = await list_canaries(tx, zone_of(request), digest=digest, before=after_id(cursor), limit=limit)
        following = encode_cursor(found[-1].id) if len(found) == limit else None
        return {"canaries": [each.document() for each in found], "next": following}

    @router.get("/standing", summary="Whether a release may go live as far as its canary goes")
    async def standing(request: Request, caller: Reader, digest: Annotated[Digest, Query()]) -> dict[str, Any]:
        """The newest canary on traffic and the newest access loop both count, for a day; only PASS is GO.

        A loop alone is enough for the release that runs here and for a policy set.
        """
        async with database.begin() as tx:
            return standing_document(await desk.standing(tx, zone_of(request), digest))

    @router.get("/results", summary="What was found of releases, newest first")
    async def results(request: Request, caller: Reader, digest: OfDigest = "", limit: Limit = 100) -> dict[str, Any]:
        async with database.begin() as tx:
            found = await results_of(tx, zone_of(request), digest=digest, limit=limit)
        return {"results": [each.document() for each in found]}

    @router.post(
        "/loops",
        status_code=201,
        summary="Walk the loop of access against this installation",
        responses={
            404: {"description": "No release is named, and no policy set is active"},
            409: {"description": "What is named neither runs here nor is active"},
            503: {"description": "Changes are frozen, or provisioning is switched off"},
        },
    )
    async def walk(request: Request, body: LoopBody, caller: Worker) -> dict[str, Any]:
        """Asked for, decided, used, revoked, refused, recorded: what was expected and what came, step by step."""
        found = await loop.run(context_of(request, caller), body.digest or "", body.upstream_url or "")
        return found.document()

    @router.get("/{canary_id}", summary="One canary with its judgements", responses=_only(404))
    async def show(request: Request, canary_id: IdPath, caller: Reader) -> dict[str, Any]:
        async with database.begin() as tx:
            return await canary_document(tx, await find(tx, zone_of(request), canary_id))

    @router.post("", status_code=201, summary="Give a candidate the first part of the traffic", responses=_REFUSED)
    async def start(request: Request, body: StartBody, caller: Worker) -> dict[str, Any]:
        """The server's own upstream stays the stable arm; a fresh instance of its version is the baseline."""
        return (await desk.start(context_of(request, caller), Start(**body.model_dump()))).document()

    @router.post(
        "/{canary_id}/promote", summary="Let a canary whose step passed go on", responses=_only(403, 404, 409, 503)
    )
    async def promote(request: Request, canary_id: IdPath, caller: Worker) -> dict[str, Any]:
        """Refused to everybody before the step passed."""
        return (await desk.promote(context_of(request, caller), canary_id)).document()

    @router.post("/{canary_id}/withdraw", summary="Take the candidate's traffic away", responses=_only(404, 409))
    async def withdraw(request: Request, canary_id: IdPath, body: WhyBody, caller: Worker) -> dict[str, Any]:
        return (await desk.withdraw(context_of(request, caller), canary_id, body.why)).document()

    return router


def _only(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: _REFUSED[status] for status in statuses}
