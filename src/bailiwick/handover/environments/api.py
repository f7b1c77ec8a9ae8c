"""The routes of environments, validation and hypercare. Only translates."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from pydantic import Field, StringConstraints

from bailiwick.assurance.rhythm.occurrences import utc
from bailiwick.evidence.approvals import asker_of
from bailiwick.evidence.evidence_records_api import Instant
from bailiwick.evidence.requests import context_of
from bailiwick.handover.environments.hypercare import Hypercare
from bailiwick.handover.environments.states import DIGEST_PATTERN, EnvironmentStates, Standing, moves
from bailiwick.handover.environments.validation import Validation, reports_of
from bailiwick.handover.ports import Point
from bailiwick.handover.ports import Standing as Verdicts
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import NotFound
from bailiwick.kernel.fields import Body, Line, NamePath
from bailiwick.kernel.http import Caller, require, zone_of
from bailiwick.kernel.permissions import Permission
from bailiwick.kernel.quorum import Approval

Reader = Annotated[Caller, Depends(require(Permission.ASSURANCE_READ))]
Worker = Annotated[Caller, Depends(require(Permission.HANDOVER_WORK))]
Digest = Annotated[
    str, StringConstraints(pattern=DIGEST_PATTERN, max_length=71), Field(description="`sha256:` and 64 hex digits")
]
_WAITS: dict[int | str, dict[str, Any]] = {
    202: {"description": "Somebody else must approve it first; the approval is answered"},
    409: {"description": "Something went live there already"},
}
_EARLY: dict[int | str, dict[str, Any]] = {
    409: {"description": "Its window has not opened (`window_not_over`), or nothing went live there"}
}


class DeclareBody(Body):
    """Since when a platform that runs already is live, and with which release."""

    at: Instant
    digest: Digest = ""
    reason: Annotated[Line, Field(min_length=1)]


def routes(database: Database, states: EnvironmentStates, validation: Validation, hypercare: Hypercare) -> APIRouter:
    """The routes under ``/api/v1/environments``."""
    router = APIRouter(prefix="/api/v1/environments", tags=["environments"])

    @router.get("", summary="Every environment and how far it is in changing hands")
    async def list_environments(request: Request, caller: Reader) -> dict[str, Any]:
        async with database.begin() as tx:
            return {"items": [each.document() for each in await states.all(tx, zone_of(request))]}

    @router.get("/{name}", summary="One environment, its steps, its validation and its hypercare")
    async def get_environment(request: Request, name: NamePath, caller: Reader) -> dict[str, Any]:
        async with database.begin() as tx:
            return await whole(tx, states, validation, hypercare, zone_of(request), name)

    @router.post("/{name}/declare", summary="Say that a platform that runs already is live", responses=_WAITS)
    async def declare(
        request: Request, response: Response, name: NamePath, body: DeclareBody, caller: Worker
    ) -> dict[str, Any]:
        """Takes a second person. Validation and hypercare count from when it is approved."""
        context = context_of(request, caller)
        _, signed_in = asker_of(context)
        found = await states.declare(
            context, name, body.at, digest=body.digest, by=caller.name, reason=body.reason, signed_in=signed_in
        )
        if isinstance(found, Approval):
            response.status_code = 202
            return {"approval": found.document()}
        return found.document()

    @router.get("/{name}/validation", summary="How its validation stands, and the reports")
    async def get_validation(
        request: Request,
        name: NamePath,
        caller: Reader,
        suite: Annotated[str, Query(max_length=100, description="Reports of this suite in full; all without")] = "",
    ) -> dict[str, Any]:
        async with database.begin() as tx:
            return await validation_of(tx, states, validation, zone_of(request), name, suite)

    @router.post("/{name}/validation/{suite}", status_code=202, summary="Have a suite measured now", responses=_EARLY)
    async def ask_validation(request: Request, name: NamePath, suite: NamePath, caller: Worker) -> dict[str, Any]:
        """The work role measures it behind the answer. Nothing is measured before its window opens."""
        opens = await validation.ask(context_of(request, caller), name, suite, by=caller.name)
        return {"environment": name, "suite": suite, "opened_at": utc(opens)}

    @router.get("/{name}/hypercare", summary="Every slot of hypercare, and whether it may end")
    async def get_hypercare(request: Request, name: NamePath, caller: Reader) -> dict[str, Any]:
        async with database.begin() as tx:
            return await hypercare_of(tx, states, hypercare, zone_of(request), name)

    return router


async def whole(
    tx: Transaction, states: EnvironmentStates, validation: Validation, hypercare: Hypercare, zone: str, name: str
) -> dict[str, Any]:
    """An environment with its steps, and the verdicts of validation and hypercare. Raises ``not_found``."""
    found = await states.require(tx, zone, name)
    steps = [{**each, "at": utc(each["at"])} for each in await moves(tx, zone, name)]
    return {
        **found.document(),
        "moves": steps,
        "validation": standing_document(await validation.standing(tx, zone, name)),
        "hypercare_standing": standing_document(await hypercare.standing(tx, zone, name)),
    }


async def validation_of(
    tx: Transaction, states: EnvironmentStates, validation: Validation, zone: str, name: str, suite: str = ""
) -> dict[str, Any]:
    """How the suites of an environment stand, with the reports of its newest release; of ``suite`` in full."""
    found: Standing = await states.require(tx, zone, name)
    if suite and suite not in found.spec.suites:
        raise NotFound(f"The environment {name} has no validation suite {suite}.")
    points = await validation.points(tx, zone, name)
    reports = await reports_of(tx, zone, name, found.life.number, suite) if found.life is not None else []
    return {
        "environment": name,
        "verdict": str((await validation.standing(tx, zone, name)).verdict),
        "suites": [point_document(each) for each in points.values() if suite in ("", each.name)],
        "reports": [each.document(whole=bool(suite)) for each in reports],
    }


async def hypercare_of(
    tx: Transaction, states: EnvironmentStates, hypercare: Hypercare, zone: str, name: str
) -> dict[str, Any]:
    """Every slot, and whether hypercare may end."""
    found = await states.require(tx, zone, name)
    standing = await hypercare.standing(tx, zone, name)
    slots = await hypercare.slots(tx, zone, found)
    return {"environment": name, **standing_document(standing), "slots": [each.document() for each in slots]}


def standing_document(standing: Verdicts) -> dict[str, Any]:
    """The JSON form of a standing."""
    return {
        "verdict": str(standing.verdict),
        "passes": standing.passes,
        "at": utc(standing.at),
        "blockers": [point_document(each) for each in standing.blockers],
        "figures": dict(standing.figures),
    }


def point_document(point: Point) -> dict[str, Any]:
    """The JSON form of a point."""
    return {
        "name": point.name,
        "verdict": str(point.verdict),
        "passes": point.passes,
        "told": point.told,
        "waiver": point.waiver,
        "record": point.record,
    }
