"""Routes of readiness. Only translates."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Request
from pydantic import Field, StringConstraints

from bailiwick.evidence.requests import context_of
from bailiwick.handover.readiness import store
from bailiwick.handover.readiness.service import ReadinessDesk
from bailiwick.kernel.db import Database
from bailiwick.kernel.errors import Denied
from bailiwick.kernel.fields import Body, IdPath, Line, NamePath, Text
from bailiwick.kernel.http import Caller, Limit, require, zone_of
from bailiwick.kernel.permissions import Permission

Reader = Annotated[Caller, Depends(require(Permission.ASSURANCE_READ))]
Runner = Annotated[Caller, Depends(require(Permission.PROBES_RUN))]
Attester = Annotated[Caller, Depends(require(Permission.READINESS_ATTEST))]
SlugPath = Annotated[str, Path(pattern=r"^[a-z0-9]([a-z0-9-]{0,58}[a-z0-9])?$", examples=["known-issues"])]


class AttestBody(Body):
    """What is stated. ``sha256``: the hash of the document that goes with it, which ``attachment`` names."""

    statement: Annotated[Text, Field(min_length=1)]
    attachment: Line = ""
    sha256: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$")] = ""


class ReviewBody(Body):
    """What another person says to it; who refuses says why in ``note``."""

    outcome: Literal["accepted", "refused"]
    note: Text = ""


def routes(database: Database, desk: ReadinessDesk) -> APIRouter:
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

    @router.post("/{environment}/attestations/{attestation_id}/review", summary="Accept or refuse what another stated")
    async def review(
        request: Request, environment: NamePath, attestation_id: IdPath, body: ReviewBody, caller: Attester
    ) -> dict[str, Any]:
        _person(caller)
        made = await desk.review(context_of(request, caller), environment, attestation_id, body.outcome, body.note)
        return made.document()

    return router


def _person(caller: Caller) -> None:
    """A statement is a person's, who signed in; a key of his is in the hands of a program."""
    if caller.key:
        raise Denied(reason="person_needed")


__all__ = ["routes"]
