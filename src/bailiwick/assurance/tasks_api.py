"""Routes under ``/api/v1/tasks``: the one list of what is to be done."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field

from bailiwick.assurance.tasks import TaskList
from bailiwick.evidence.requests import context_of
from bailiwick.kernel.answers import page
from bailiwick.kernel.db import Database
from bailiwick.kernel.errors import InvalidRequest
from bailiwick.kernel.fields import UUID_PATTERN, Body, IdPath, Line, Text, matches
from bailiwick.kernel.http import Caller, Cursor, Limit, decode_cursor, require, zone_of
from bailiwick.kernel.permissions import Permission

Reader = Annotated[Caller, Depends(require(Permission.ASSURANCE_READ))]
Worker = Annotated[Caller, Depends(require(Permission.RHYTHM_WORK))]
Owner = Annotated[Line, Field(min_length=1, examples=["role:ops_owner"])]


class DoneBody(Body):
    """What came of it."""

    outcome: Annotated[Text, Field(min_length=1)]


class ReassignBody(Body):
    """Whose it is from now on: an activity, ``role:…`` or ``person:…`` that leads to somebody."""

    owner: Owner


def routes(database: Database, tasks: TaskList) -> APIRouter:
    """The routes."""
    router = APIRouter(prefix="/api/v1/tasks", tags=["tasks"])

    @router.get("", summary="What is to be done, in the order it was opened")
    async def list_tasks(
        request: Request,
        caller: Reader,
        over: Annotated[bool, Query(description="Those that are done or closed instead")] = False,
        owner: Annotated[str, Query(max_length=200, pattern=r"^[^\x00-\x1f\x7f]*$")] = "",
        limit: Limit = 100,
        cursor: Cursor = None,
    ) -> dict[str, Any]:
        async with database.begin() as tx:
            found = await tasks.list(
                tx, zone_of(request), over=over, owner=owner, after=_after(cursor), limit=limit + 1
            )
        following = found[limit - 1].id if len(found) > limit else None
        return page([each.document() for each in found[:limit]], following)

    @router.get("/{task_id}", summary="One task")
    async def get_task(request: Request, task_id: IdPath, caller: Reader) -> dict[str, Any]:
        async with database.begin() as tx:
            return (await tasks.get(tx, zone_of(request), task_id)).document()

    @router.post("/{task_id}/done", summary="Say that a task is done")
    async def done(request: Request, task_id: IdPath, body: DoneBody, caller: Worker) -> dict[str, Any]:
        """What a machine opened is opened again while its cause goes on."""
        async with database.begin() as tx:
            item = await tasks.done(tx, context_of(request, caller), task_id, body.outcome, by=caller.name)
        return item.document()

    @router.post("/{task_id}/reassign", summary="Give a task to another owner")
    async def reassign(request: Request, task_id: IdPath, body: ReassignBody, caller: Worker) -> dict[str, Any]:
        async with database.begin() as tx:
            item = await tasks.reassign(tx, context_of(request, caller), task_id, body.owner)
        return item.document()

    return router


def _after(cursor: str | None) -> str:
    if cursor is None:
        return ""
    (identifier,) = decode_cursor(cursor, (str,))
    if not matches(UUID_PATTERN, identifier):
        raise InvalidRequest("The cursor is not one this endpoint gave.")
    return str(identifier)
