"""Routes of stuck work."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request, Response
from pydantic import StringConstraints

from bailiwick.assurance.stuck.detector import Detector
from bailiwick.evidence.requests import context_of
from bailiwick.kernel.fields import Body, Name, NamePath
from bailiwick.kernel.http import Caller, require, zone_of
from bailiwick.kernel.permissions import Permission

Reader = Annotated[Caller, Depends(require(Permission.ASSURANCE_READ))]
Worker = Annotated[Caller, Depends(require(Permission.STUCK_WORK))]
_ACTS: dict[int | str, dict[str, Any]] = {409: {"description": "Not safe to do without a second person"}}


class ActBody(Body):
    """What is done about which item."""

    item: Annotated[str, StringConstraints(min_length=1, max_length=300, pattern=r"^[^\x00-\x1f\x7f]*$")]
    action: Literal["recheck", "requeue", "dead-letter"]


class BeatBody(Body):
    """Which worker lives."""

    worker: Name


def routes(detector: Detector) -> APIRouter:
    """``/api/v1/stuck``."""
    router = APIRouter(prefix="/api/v1/stuck", tags=["stuck work"])

    @router.get("", summary="Every state machine, and what stands still in it")
    async def list_machines(request: Request, caller: Reader) -> dict[str, Any]:
        return {"items": await detector.standing(zone_of(request))}

    @router.post("/detect", summary="Look at every machine now")
    async def detect_all(request: Request, caller: Worker) -> dict[str, Any]:
        return {"items": [each.document() for each in await detector.detect_all(context_of(request, caller))]}

    @router.get("/{name}", summary="One machine and its items")
    async def one(request: Request, name: NamePath, caller: Reader) -> dict[str, Any]:
        return await detector.items(zone_of(request), name)

    @router.post("/{name}/detect", summary="Look at one machine now")
    async def detect(request: Request, name: NamePath, caller: Worker) -> dict[str, Any]:
        return (await detector.detect(context_of(request, caller), name)).document()

    @router.post("/{name}/actions", summary="Do what is safe about an item", responses=_ACTS)
    async def act(request: Request, name: NamePath, body: ActBody, caller: Worker) -> dict[str, Any]:
        """Look again, start again what is declared idempotent, or give up after the declared number of attempts."""
        return await detector.act(context_of(request, caller), name, body.item, body.action, caller.name)

    @router.post("/{name}/heartbeat", status_code=204, summary="Say that a worker lives")
    async def beat(request: Request, name: NamePath, body: BeatBody, caller: Worker) -> Response:
        await detector.beat(zone_of(request), name, body.worker)
        return Response(status_code=204)

    return router
