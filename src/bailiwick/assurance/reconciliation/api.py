"""Routes of reconciliations and their findings."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import PlainTextResponse
from pydantic import AfterValidator, AwareDatetime, Field, StringConstraints

from bailiwick.assurance.reconciliation.findings import Findings
from bailiwick.assurance.reconciliation.periods import PERIOD_PATTERN
from bailiwick.assurance.reconciliation.service import Reconciliations
from bailiwick.evidence.requests import context_of
from bailiwick.kernel.answers import page
from bailiwick.kernel.fields import Body, IdPath, Line, NamePath, after_id
from bailiwick.kernel.http import Caller, Cursor, Limit, require, zone_of
from bailiwick.kernel.permissions import Permission

Reader = Annotated[Caller, Depends(require(Permission.ASSURANCE_READ))]
Worker = Annotated[Caller, Depends(require(Permission.RECONCILIATION_WORK))]
Period = Annotated[str, StringConstraints(pattern=PERIOD_PATTERN), Field(examples=["2026-01-31"])]
_MOVES: dict[int | str, dict[str, Any]] = {409: {"description": "Its state does not allow this"}}
_RESOLVES: dict[int | str, dict[str, Any]] = {**_MOVES, 422: {"description": "No change is named"}}


def _in_range(value: datetime) -> datetime:
    if not 1970 <= value.year <= 9000:
        raise ValueError("is out of range")
    return value


class RunBody(Body):
    """Which period; the newest that is over where none is named."""

    period: Period | None = None
    full: bool = False


class NoteBody(Body):
    """What there is to say."""

    note: Line = ""


class ResolveBody(NoteBody):
    """The change that made it right."""

    change_id: Line = ""


class AcceptBody(Body):
    """The waiver under which it stays."""

    waiver_id: Line


class SnoozeBody(Body):
    """Until when it fires no alert."""

    until: Annotated[AwareDatetime, AfterValidator(_in_range), Field(examples=["2026-01-05T09:00:00Z"])]


def reconciliation_routes(reconciliations: Reconciliations) -> APIRouter:
    """``/api/v1/reconciliations``."""
    router = APIRouter(prefix="/api/v1/reconciliations", tags=["reconciliation"])

    @router.get("", summary="Every reconciliation, and how it stands")
    async def list_reconciliations(request: Request, caller: Reader) -> dict[str, Any]:
        return {"items": await reconciliations.standing(zone_of(request))}

    @router.post("/{name}/runs", status_code=201, summary="Reconcile a period now")
    async def run(request: Request, name: NamePath, body: RunBody, caller: Worker) -> dict[str, Any]:
        mode: Literal["full", "manual"] = "full" if body.full else "manual"
        done = await reconciliations.run(context_of(request, caller), name, mode=mode, period=body.period)
        return done.document()

    @router.get("/{name}/runs", summary="The runs of one, newest first")
    async def runs(
        request: Request, name: NamePath, caller: Reader, limit: Limit = 100, cursor: Cursor = None
    ) -> dict[str, Any]:
        found = await reconciliations.runs(zone_of(request), name, after_id(cursor), limit)
        return page([each.document() for each in found], found[-1].id if len(found) == limit else None)

    @router.get("/{name}/report", summary="The report of the newest run")
    async def newest(request: Request, name: NamePath, caller: Reader) -> dict[str, Any]:
        found, report, _ = await reconciliations.report(zone_of(request), name)
        return {"run": found.document(), "report": report}

    @router.get("/{name}/runs/{run_id}", summary="One run and its report")
    async def one(request: Request, name: NamePath, run_id: IdPath, caller: Reader) -> dict[str, Any]:
        found, report, _ = await reconciliations.report(zone_of(request), name, run_id)
        return {"run": found.document(), "report": report}

    @router.get("/{name}/runs/{run_id}/markdown", summary="The report for people", response_class=PlainTextResponse)
    async def markdown(request: Request, name: NamePath, run_id: IdPath, caller: Reader) -> PlainTextResponse:
        _, _, told = await reconciliations.report(zone_of(request), name, run_id)
        return PlainTextResponse(told, media_type="text/markdown; charset=utf-8")

    return router


def finding_routes(findings: Findings) -> APIRouter:
    """``/api/v1/findings``."""
    router = APIRouter(prefix="/api/v1/findings", tags=["reconciliation"])

    @router.get("", summary="Findings, newest first")
    async def list_findings(
        request: Request,
        caller: Reader,
        reconciliation: Annotated[str, Query(pattern=r"^[A-Za-z0-9._-]{0,100}$")] = "",
        state: Annotated[Literal["", "unsettled", "open", "acknowledged", "resolved", "accepted"], Query()] = "",
        period: Annotated[str, Query(pattern=r"^((full-)?[0-9]{4}-[0-9]{2}-[0-9]{2})?$")] = "",
        limit: Limit = 100,
        cursor: Cursor = None,
    ) -> dict[str, Any]:
        found = await findings.list(
            zone_of(request),
            reconciliation=reconciliation,
            state=state,
            period=period,
            after=after_id(cursor),
            limit=limit,
        )
        return page([each.document() for each in found], found[-1].id if len(found) == limit else None)

    @router.get("/{finding_id}", summary="One finding, and who moved it")
    async def one(request: Request, finding_id: IdPath, caller: Reader) -> dict[str, Any]:
        found, moves = await findings.get(zone_of(request), finding_id)
        return {**found.document(), "moves": list(moves)}

    @router.post("/{finding_id}/acknowledge", summary="Say that you look into it", responses=_MOVES)
    async def acknowledge(request: Request, finding_id: IdPath, body: NoteBody, caller: Worker) -> dict[str, Any]:
        moved = await findings.acknowledge(context_of(request, caller), finding_id, caller.name, body.note)
        return moved.document()

    @router.post("/{finding_id}/resolve", summary="Name the change that made it right", responses=_RESOLVES)
    async def resolve(request: Request, finding_id: IdPath, body: ResolveBody, caller: Worker) -> dict[str, Any]:
        """The next run over its period confirms it, or opens it again."""
        context = context_of(request, caller)
        return (await findings.resolve(context, finding_id, caller.name, body.change_id, body.note)).document()

    @router.post("/{finding_id}/accept", summary="Let it stand under a waiver", responses=_MOVES)
    async def accept(request: Request, finding_id: IdPath, body: AcceptBody, caller: Worker) -> dict[str, Any]:
        moved = await findings.accept(context_of(request, caller), finding_id, caller.name, body.waiver_id)
        return moved.document()

    @router.post("/{finding_id}/snooze", summary="Mute its alert for a while", responses=_MOVES)
    async def snooze(request: Request, finding_id: IdPath, body: SnoozeBody, caller: Worker) -> dict[str, Any]:
        moved = await findings.snooze(context_of(request, caller), finding_id, caller.name, body.until)
        return moved.document()

    return router
