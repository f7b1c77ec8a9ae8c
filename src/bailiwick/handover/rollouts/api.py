"""Routes of rollouts. Only translates."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Request
from pydantic import Field, StringConstraints

from bailiwick.assurance.books import Books
from bailiwick.evidence.requests import context_of
from bailiwick.handover.rollouts.plans import DIGEST_PATTERN, PLAN, Value, Variable
from bailiwick.handover.rollouts.records import attempts_of, decisions_of, find, newest, newest_answer, signatures_of
from bailiwick.handover.rollouts.service import Rollouts
from bailiwick.handover.rollouts.view import shown
from bailiwick.kernel.db import Database
from bailiwick.kernel.errors import Denied, NotFound
from bailiwick.kernel.fields import Body, Line, Name, NamePath, Text, after_id
from bailiwick.kernel.http import Caller, Cursor, Limit, encode_cursor, require, zone_of
from bailiwick.kernel.permissions import Permission, Role

Reader = Annotated[Caller, Depends(require(Permission.ASSURANCE_READ))]
Worker = Annotated[Caller, Depends(require(Permission.ROLLOUTS_WORK))]
Decider = Annotated[Caller, Depends(require(Permission.ROLLOUTS_DECIDE))]
Identifier = Annotated[
    str, Path(pattern=r"^(RO-[1-9][0-9]{0,7}|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})$")
]
Digest = Annotated[
    str, StringConstraints(pattern=DIGEST_PATTERN, max_length=71), Field(examples=["sha256:" + "0" * 64])
]
Why = Annotated[Line, Field(min_length=1)]


class PlanBody(Body):
    """Which release goes where by which plan."""

    plan: Name
    environment: Name
    digest: Digest
    variables: dict[Variable, Value] = Field(default_factory=dict, max_length=40)


class GoBody(Body):
    """In which role it is signed; without one, in the first of them that the caller has and nobody signed in."""

    role: Role | None = None
    why: Line = ""


class WhyBody(Body):
    """Why."""

    why: Why


class ConfirmBody(Body):
    """What is stated; ``failed``: that it cannot be done, or is not well.

    ``record``: of a preflight, the evidence that was read.
    """

    statement: Annotated[Text, Field(min_length=1)]
    failed: bool = False
    record: Annotated[str, StringConstraints(pattern=r"^([0-9a-f]{64})?$", max_length=64)] = ""


class DecideBody(WhyBody):
    """On, the step that failed again, or back."""

    decision: Literal["continue", "retry", "roll-back"]


def routes(database: Database, books: Books, rollouts: Rollouts) -> APIRouter:
    """The routes under ``/api/v1/rollouts``."""
    router = APIRouter(prefix="/api/v1/rollouts", tags=["rollouts"])
    _read(router, database, books)
    _go(router, rollouts)
    _work(router, rollouts)
    return router


def _read(router: APIRouter, database: Database, books: Books) -> None:
    @router.get("", summary="Rollouts, newest first")
    async def list_all(
        request: Request,
        caller: Reader,
        environment: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._-]{0,100}$")] = "",
        going: bool = False,
        limit: Limit = 100,
        cursor: Cursor = None,
    ) -> dict[str, Any]:
        async with database.begin() as tx:
            found = await newest(
                tx, zone_of(request), environment=environment, going=going, before=after_id(cursor), limit=limit
            )
        following = encode_cursor(found[-1].id) if len(found) == limit else None
        return {"rollouts": [each.document() for each in found], "next": following}

    @router.get("/plans", summary="The plans of the book in force")
    async def plans(request: Request, caller: Reader) -> dict[str, Any]:
        async with database.begin() as tx:
            book = await books.current(tx, zone_of(request))
        told = [
            {"name": name, "title": plan.title, "version": book.documents[PLAN.name, name].version,
             "steps": len(plan.steps()), "variables": plan.variables, "signatures": plan.signatures}
            for name, plan in book.of(PLAN).items()
        ]  # fmt: skip
        return {"plans": told}

    @router.get("/plans/{name}", summary="One plan")
    async def show_plan(request: Request, name: NamePath, caller: Reader) -> dict[str, Any]:
        async with database.begin() as tx:
            plan = await books.read(tx, zone_of(request), PLAN, name)
        if plan is None:
            raise NotFound(f"There is no RolloutPlan {name}.")
        return {"name": name, "spec": plan.model_dump(mode="json", exclude_none=True)}

    @router.get("/{rollout_id}", summary="One rollout, step by step")
    async def show(request: Request, rollout_id: Identifier, caller: Reader) -> dict[str, Any]:
        async with database.begin() as tx:
            rollout = await find(tx, zone_of(request), rollout_id)
            return shown(
                rollout,
                await attempts_of(tx, rollout.id),
                await decisions_of(tx, rollout.id),
                await signatures_of(tx, rollout.id, rollout.round),
                await newest_answer(tx, rollout.id),
            )


def _go(router: APIRouter, rollouts: Rollouts) -> None:
    @router.post("", status_code=201, summary="Bind a release to a plan and an environment")
    async def plan(request: Request, body: PlanBody, caller: Worker) -> dict[str, Any]:
        made = await rollouts.plan(
            context_of(request, caller), body.plan, body.environment, body.digest, body.variables
        )
        return made.document()

    @router.post("/{rollout_id}/check", summary="Compute Go or No-Go, without signing")
    async def check(request: Request, rollout_id: Identifier, caller: Worker) -> dict[str, Any]:
        return await rollouts.check(context_of(request, caller), rollout_id)

    @router.post("/{rollout_id}/go", summary="Sign GO; the answer is GO once nothing is missing")
    async def go(request: Request, rollout_id: Identifier, body: GoBody, caller: Decider) -> dict[str, Any]:
        """One role a person, and none by who planned it. The canary is a line that nothing stands in for."""
        role = str(body.role) if body.role is not None else None
        return await rollouts.go(context_of(request, caller), caller, rollout_id, role, body.why)

    @router.post("/{rollout_id}/no-go", summary="Say NO-GO: it ends, or is taken back")
    async def no_go(request: Request, rollout_id: Identifier, body: WhyBody, caller: Decider) -> dict[str, Any]:
        return (await rollouts.no_go(context_of(request, caller), rollout_id, body.why)).document()

    @router.post("/{rollout_id}/start", summary="Begin, by a GO that still holds")
    async def start(request: Request, rollout_id: Identifier, caller: Worker) -> dict[str, Any]:
        return (await rollouts.start(context_of(request, caller), rollout_id)).document()


def _work(router: APIRouter, rollouts: Rollouts) -> None:
    @router.post("/{rollout_id}/steps/{step}/confirm", summary="State that a step is done, or cannot be")
    async def confirm(
        request: Request, rollout_id: Identifier, step: NamePath, body: ConfirmBody, caller: Reader
    ) -> dict[str, Any]:
        """For whoever has the step's role. A preflight is read by somebody else than who planned it."""
        if not (caller.may(Permission.ROLLOUTS_WORK) or caller.may(Permission.ROLLOUTS_DECIDE)):
            needed = Permission.ROLLOUTS_WORK
            raise Denied(f"This needs the permission {needed}.", permission=str(needed))
        if caller.key:  # a statement is a person's, who signed in; a key of his is in the hands of a program
            raise Denied(reason="person_needed")
        done = await rollouts.confirm(
            context_of(request, caller), caller, rollout_id, step, body.statement, passed=not body.failed,
            record=body.record,
        )  # fmt: skip
        return done.document()

    @router.post("/{rollout_id}/decide", summary="Decide at a gate: on, again, or back")
    async def decide(request: Request, rollout_id: Identifier, body: DecideBody, caller: Decider) -> dict[str, Any]:
        context = context_of(request, caller)
        return (await rollouts.decide(context, caller, rollout_id, body.decision, body.why)).document()

    @router.post("/{rollout_id}/rollback", summary="Take it back from now on")
    async def roll_back(request: Request, rollout_id: Identifier, body: WhyBody, caller: Decider) -> dict[str, Any]:
        return (await rollouts.roll_back(context_of(request, caller), rollout_id, body.why)).document()

    @router.post("/{rollout_id}/abandon", summary="End it before its start, or where taking it back is stuck")
    async def abandon(request: Request, rollout_id: Identifier, body: WhyBody, caller: Decider) -> dict[str, Any]:
        return (await rollouts.abandon(context_of(request, caller), rollout_id, body.why)).document()


__all__ = ["routes"]
