"""Routes of runbooks. Only translates."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from pydantic import Field, StringConstraints

from bailiwick.evidence.requests import context_of
from bailiwick.handover.incidents.api import Argument, Number
from bailiwick.handover.incidents.records import find, may_read
from bailiwick.handover.incidents.runbooks import Given, Run, Runbooks
from bailiwick.kernel.db import Database
from bailiwick.kernel.errors import NotFound
from bailiwick.kernel.fields import Body, IdPath, Line, Name, NamePath, Text
from bailiwick.kernel.http import Caller, require, zone_of
from bailiwick.kernel.permissions import Permission

Reader = Annotated[Caller, Depends(require(Permission.ASSURANCE_READ))]
Worker = Annotated[Caller, Depends(require(Permission.ALERTS_WORK))]


IncidentName = Annotated[
    str, StringConstraints(pattern=r"^(INC-[1-9][0-9]{0,7}|[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12})$")
]


class RunBody(Body):
    """Of which incident; or dry."""

    incident: IncidentName | None = None
    dry: bool = False


class StepBody(Body):
    """What the step needs: of an action its arguments, the digest of its preview and why; else a statement."""

    arguments: dict[Name, Argument] = Field(default_factory=dict, max_length=5)
    why: Line = ""
    sha256: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")] = ""
    statement: Text = ""


def routes(database: Database, runbooks: Runbooks) -> APIRouter:
    """The routes under ``/api/v1/runbooks``."""
    router = APIRouter(prefix="/api/v1/runbooks", tags=["incidents"])

    async def readable(request: Request, identifier: str, caller: Caller) -> Run:
        async with database.begin() as tx:
            run = await runbooks.get(tx, zone_of(request), identifier)
            if run.incident is not None and not may_read(await find(tx, zone_of(request), run.incident), caller):
                raise NotFound("There is no run by that id.")
        return run

    @router.get("", summary="Runbooks, and how lately each was executed")
    async def list_all(request: Request, caller: Reader) -> dict[str, Any]:
        async with database.begin() as tx:
            return {"runbooks": await runbooks.list(tx, zone_of(request))}

    @router.post("/{name}/runs", status_code=201, summary="Begin to execute a runbook")
    async def start(request: Request, name: NamePath, body: RunBody, caller: Worker) -> dict[str, Any]:
        if body.incident is not None:
            async with database.begin() as tx:
                if not may_read(await find(tx, zone_of(request), body.incident), caller):
                    raise NotFound("There is no such incident.")
        run = await runbooks.start(context_of(request, caller), name, body.incident, dry=body.dry)
        return run.document()

    @router.get("/runs/{run_id}", summary="One execution, step by step")
    async def show(request: Request, run_id: IdPath, caller: Reader) -> dict[str, Any]:
        return (await readable(request, run_id, caller)).document()

    @router.post("/runs/{run_id}/steps/{number}", summary="Do the next step")
    async def step(request: Request, run_id: IdPath, number: Number, body: StepBody, caller: Worker) -> dict[str, Any]:
        """What is measured and not as it should be is not done: `done` is false, and it is tried again."""
        run = await readable(request, run_id, caller)
        if run.next == number and run.steps[number - 1].action is not None and not run.dry:
            # containment, whichever way it is come to, takes who has just proved himself
            await require(Permission.OVERRIDES_BREAK_GLASS)(request, caller)
        given = Given(body.arguments, body.why, body.sha256, body.statement)
        run, result = await runbooks.step(context_of(request, caller), caller, run_id, number, given)
        return {"done": result.done, "verdict": result.verdict.value, "told": result.told, "run": run.document()}

    @router.post("/runs/{run_id}/abandon", summary="End an execution before its end")
    async def abandon(request: Request, run_id: IdPath, caller: Worker) -> dict[str, Any]:
        await readable(request, run_id, caller)
        return (await runbooks.abandon(context_of(request, caller), run_id)).document()

    return router


__all__ = ["routes"]
