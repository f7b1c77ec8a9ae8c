"""The routes of groups."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import Field, StringConstraints

from bailiwick.evidence.requests import context_of
from bailiwick.identity.groups import Group, Groups, Members
from bailiwick.identity.standing import RoleName
from bailiwick.kernel.answers import page, version_guard
from bailiwick.kernel.errors import InvalidRequest
from bailiwick.kernel.fields import Body, Line, Text, UserName, UserNamePath, after_user_name
from bailiwick.kernel.http import Caller, Cursor, Limit, decode_cursor, require, set_etag, zone_of
from bailiwick.kernel.permissions import Permission

# directories name groups with spaces and more; only what a URL path cannot carry is refused
_NAME = r"^[^\x00-\x20/\x7f-\x9f][^\x00-\x1f/\x7f-\x9f\u2028\u2029]{0,199}$"
GroupName = Annotated[str, StringConstraints(pattern=_NAME, max_length=200), Field(examples=["release-managers"])]
GroupPath = Annotated[str, Path(pattern=_NAME, max_length=200)]
Reader = Annotated[Caller, Depends(require(Permission.USERS_READ))]
Writer = Annotated[Caller, Depends(require(Permission.USERS_WRITE))]


class GroupBody(Body):
    """A new group. ``role`` is what it gives its members; a ``team`` signs off."""

    name: GroupName
    description: Text = ""
    kind: Literal["group", "team"] = "group"
    role: RoleName | None = None
    owner: UserName | None = None
    external_id: Line | None = None
    members: Annotated[list[UserName], Field(max_length=10_000)] = Field(default_factory=list)


class GroupPatch(Body):
    """Changes to a group (JSON merge patch)."""

    name: GroupName = ""
    description: Text | None = None
    kind: Literal["group", "team"] = "group"
    role: RoleName | None = None
    owner: UserName | None = None
    external_id: Line | None = None

    def patch(self) -> dict[str, Any]:
        """The members that were sent; a null description is an empty one."""
        sent = self.model_dump(exclude_unset=True)
        if "description" in sent:
            sent["description"] = sent["description"] or ""
        return sent


def routes(groups: Groups) -> APIRouter:
    """The routes of groups over their service."""
    router = APIRouter(prefix="/api/v1", tags=["groups"])

    def answer(response: Response, group: Group) -> dict[str, Any]:
        set_etag(response, group.version)
        return group.document()

    @router.get("/groups", summary="List groups")
    async def list_groups(
        request: Request, caller: Reader, cursor: Cursor = None, limit: Limit = 100
    ) -> dict[str, Any]:
        found, following = await groups.list(zone_of(request), _after(cursor), limit)
        return page([group.document() for group in found], following)

    @router.post("/groups", status_code=201, summary="Create a group")
    async def create_group(request: Request, response: Response, caller: Writer, body: GroupBody) -> dict[str, Any]:
        return answer(response, await groups.create(context_of(request, caller), **body.model_dump()))

    @router.get("/groups/{group}", summary="Show a group")
    async def get_group(request: Request, response: Response, caller: Reader, group: GroupPath) -> dict[str, Any]:
        return answer(response, await groups.get(zone_of(request), group))

    @router.patch("/groups/{group}", summary="Change a group (JSON merge patch)")
    async def change_group(
        request: Request, response: Response, caller: Writer, group: GroupPath, body: GroupPatch
    ) -> dict[str, Any]:
        """A changed role holds for the sessions its members have open, everywhere, when this is answered."""
        context, guard = context_of(request, caller), version_guard(request)
        return answer(response, await groups.change(context, group, body.patch(), guard=guard))

    @router.delete("/groups/{group}", status_code=204, summary="Delete a group")
    async def delete_group(request: Request, caller: Writer, group: GroupPath) -> None:
        await groups.delete(context_of(request, caller), group, version_guard(request))

    @router.get("/groups/{group}/members", summary="List who is in a group")
    async def list_members(
        request: Request, caller: Reader, group: GroupPath, cursor: Cursor = None, limit: Limit = 100
    ) -> dict[str, Any]:
        found, following = await groups.members(zone_of(request), group, after_user_name(cursor), limit)
        return page([*found], following)

    @router.put("/groups/{group}/members/{username}", status_code=204, summary="Put somebody into a group")
    async def add_member(request: Request, caller: Writer, group: GroupPath, username: UserNamePath) -> None:
        await groups.change(context_of(request, caller), group, {}, Members().adding([username]))

    @router.delete("/groups/{group}/members/{username}", status_code=204, summary="Take somebody out of a group")
    async def remove_member(request: Request, caller: Writer, group: GroupPath, username: UserNamePath) -> None:
        await groups.change(context_of(request, caller), group, {}, Members().removing([username]))

    return router


def _after(cursor: str | None) -> str:
    if cursor is None:
        return ""
    (name,) = decode_cursor(cursor, (str,))
    if len(name) > 200 or not name.isprintable():
        raise InvalidRequest("The cursor is not one this endpoint gave.")
    return str(name)
