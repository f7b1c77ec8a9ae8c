"""Routes of overrides: asked for, decided, done, reviewed."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Request, Response
from pydantic import Field, StringConstraints

from bailiwick.assurance.books import Books
from bailiwick.assurance.gateway_switch import GatewaySwitch
from bailiwick.assurance.override_records import Ask
from bailiwick.assurance.overrides import PATH, Overrides
from bailiwick.evidence.requests import context_of
from bailiwick.kernel.answers import never_store
from bailiwick.kernel.db import Database
from bailiwick.kernel.fields import Body, IdPath, Line, Name, Text, UserNamePath, after_id
from bailiwick.kernel.http import Caller, Cursor, Limit, encode_cursor, require, zone_of
from bailiwick.kernel.permissions import Permission

Reader = Annotated[Caller, Depends(require(Permission.ASSURANCE_READ))]
Requester = Annotated[Caller, Depends(require(Permission.OVERRIDES_REQUEST))]
Approver = Annotated[Caller, Depends(require(Permission.OVERRIDES_APPROVE))]
Unlocker = Annotated[Caller, Depends(require(Permission.USERS_WRITE))]
Breaker = Annotated[Caller, Depends(require(Permission.OVERRIDES_BREAK_GLASS))]
Hash = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$"), Field(description="`payload_sha256` as read")]
Value = (
    bool
    | Annotated[int, Field(ge=-(2**53), le=2**53)]
    | Annotated[str, StringConstraints(max_length=2000, pattern=r"^[^\x00]*$")]
)


class AskBody(Body):
    """What is to be done, exactly, why, and by which ticket."""

    operation: Annotated[str, StringConstraints(pattern=r"^[a-z][A-Za-z0-9._-]{0,109}$", max_length=110)]
    arguments: dict[Name, Value] = Field(default_factory=dict, max_length=30)
    reason: Annotated[Text, Field(min_length=1)]
    ticket: Annotated[Line, Field(min_length=1)]
    risk: Literal["LOW", "MEDIUM", "HIGH", "CRITICAL"]

    def ask(self) -> Ask:
        """The same as the service takes it."""
        return Ask(self.operation, self.arguments, self.reason, self.ticket, self.risk)


class HashBody(Body):
    """What is done: the hash says that it was read."""

    payload_sha256: Hash


class WordBody(HashBody):
    """What a checker says of what he read."""

    comment: Text = ""


class ReviewBody(WordBody):
    """What a reviewer says of what was done by broken glass."""

    verdict: Literal["confirmed", "disputed"]


def unlock_route(overrides: Overrides) -> APIRouter:
    """``POST /api/v1/users/{username}/unlock``: an unlock widens, so that it says how two persons do it."""
    router = APIRouter(prefix="/api/v1/users", tags=["users"])

    @router.post("/{username}/unlock", summary="Refused: says how two persons lift the lock of an account")
    async def unlock_user(request: Request, response: Response, username: UserNamePath, caller: Unlocker) -> None:
        never_store(response)
        context = context_of(request, caller)
        await overrides.refuse_alone(context, caller.name, "user.unlock", {"username": username})

    return router


def routes(database: Database, books: Books, overrides: Overrides, switch: GatewaySwitch) -> APIRouter:
    """The routes under ``/api/v1/overrides``."""
    router = APIRouter(prefix=PATH, tags=["overrides"])

    @router.post("", status_code=201, summary="Ask for an operation that takes other persons")
    async def propose(request: Request, response: Response, body: AskBody, caller: Requester) -> dict[str, Any]:
        never_store(response)
        return (await overrides.propose(context_of(request, caller), caller, body.ask())).document()

    @router.post("/break-glass", status_code=201, summary="Do it at once, alone; another confirms it within a day")
    async def break_glass(request: Request, response: Response, body: AskBody, caller: Breaker) -> dict[str, Any]:
        never_store(response)
        return (await overrides.break_glass(context_of(request, caller), caller, body.ask())).document()

    @router.get("", summary="Overrides, newest first")
    async def list_overrides(
        request: Request, caller: Reader, limit: Limit = 100, cursor: Cursor = None
    ) -> dict[str, Any]:
        async with database.begin() as tx:
            found = await overrides.list(tx, zone_of(request), before=after_id(cursor), limit=limit)
        following = encode_cursor(found[-1].id) if len(found) == limit else None
        return {"overrides": [each.document() for each in found], "next": following}

    @router.get("/operations", summary="What can be asked for")
    async def operations(request: Request, caller: Reader) -> dict[str, Any]:
        async with database.begin() as tx:
            found = overrides.operations(await books.current(tx, zone_of(request)))
            closed = await switch.standing(tx, zone_of(request))
        told = [
            {
                "name": each.name,
                "title": each.title,
                "class": each.class_,
                "external": each.external,
                "arguments": each.arguments.model_json_schema(),
            }
            for _, each in sorted(found.items())
        ]
        whole, servers = closed.pop("", None), [*closed.values()]
        return {"operations": told, "gateway": {"closed": whole is not None, "closure": whole, "servers": servers}}

    @router.get("/{override_id}", summary="One of them, who said what, and what was answered")
    async def show(request: Request, override_id: IdPath, caller: Reader) -> dict[str, Any]:
        async with database.begin() as tx:
            found = await overrides.get(tx, zone_of(request), override_id)
            receipts = await tx.all(
                "SELECT attempt, at, status, body_sha256, answer FROM override_receipts WHERE override = :id"
                " ORDER BY attempt",
                id=override_id,
            )
        return {**found.document(), "receipts": [dict(row) for row in receipts]}

    async def decide(request: Request, caller: Caller, identifier: str, body: WordBody, approves: bool) -> Any:
        found = await overrides.decide(
            context_of(request, caller),
            caller,
            identifier,
            approves=approves,
            payload_sha256=body.payload_sha256,
            comment=body.comment,
        )
        return found.document()

    @router.post("/{override_id}/approve", summary="Agree to exactly what was read")
    async def approve(
        request: Request, response: Response, override_id: IdPath, body: WordBody, caller: Approver
    ) -> dict[str, Any]:
        never_store(response)
        return dict(await decide(request, caller, override_id, body, True))

    @router.post("/{override_id}/reject", summary="Reject it, which ends it")
    async def reject(
        request: Request, response: Response, override_id: IdPath, body: WordBody, caller: Approver
    ) -> dict[str, Any]:
        never_store(response)
        return dict(await decide(request, caller, override_id, body, False))

    @router.post("/{override_id}/withdraw", summary="Take it back before it is done")
    async def withdraw(request: Request, response: Response, override_id: IdPath, caller: Requester) -> dict[str, Any]:
        never_store(response)
        return (await overrides.withdraw(context_of(request, caller), caller, override_id)).document()

    @router.post("/{override_id}/execute", summary="Do what was agreed to; done already, the same answer")
    async def execute(
        request: Request, response: Response, override_id: IdPath, body: HashBody, caller: Requester
    ) -> dict[str, Any]:
        never_store(response)
        done = await overrides.execute(context_of(request, caller), caller, override_id, body.payload_sha256)
        return done.document()

    @router.post("/{override_id}/review", summary="Confirm or dispute what was done by broken glass")
    async def review(
        request: Request, response: Response, override_id: IdPath, body: ReviewBody, caller: Approver
    ) -> dict[str, Any]:
        never_store(response)
        reviewed = await overrides.review(
            context_of(request, caller),
            caller,
            override_id,
            confirms=body.verdict == "confirmed",
            payload_sha256=body.payload_sha256,
            comment=body.comment,
        )
        return reviewed.document()

    return router
