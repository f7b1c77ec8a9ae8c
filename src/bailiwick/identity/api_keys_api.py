"""The routes of API keys. A key holds none of them: they are a person's."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Request, Response
from pydantic import AwareDatetime, Field, StringConstraints

from bailiwick.evidence.requests import context_of
from bailiwick.identity.api_keys import ApiKey, ApiKeys, widens
from bailiwick.identity.login.sign_ins import SignIns
from bailiwick.kernel.answers import never_store, page, version_guard
from bailiwick.kernel.fields import Body, Line, after_name
from bailiwick.kernel.http import Caller, Cursor, Limit, require, set_etag, zone_of
from bailiwick.kernel.permissions import Permission

SelfCaller = Annotated[Caller, Depends(require(Permission.SELF))]
KeyIdPath = Annotated[str, Path(pattern=r"^[0-9a-z]{12}$")]
KeyName = Annotated[Line, StringConstraints(min_length=1)]
Permissions = Annotated[list[Permission], Field(min_length=1, max_length=len(Permission))]
RateLimit = Annotated[int, Field(ge=1, le=1_000_000)]
_DAY = "2027-01-05T09:00:00Z"


class ApiKeyBody(Body):
    """A new API key, with permissions of one's own. ``rate_limit``: requests per minute."""

    name: KeyName
    permissions: Permissions
    days: Annotated[int, Field(ge=1, le=366)] = 90
    rate_limit: RateLimit | None = None


class ApiKeyPatch(Body):
    """Changes to a key (JSON merge patch: a null ``rate_limit`` gives it the installation's)."""

    name: KeyName = "-"
    permissions: Permissions = Field(default_factory=list)
    rate_limit: RateLimit | None = None
    expires_at: AwareDatetime = Field(default_factory=lambda: datetime.max.replace(tzinfo=UTC), examples=[_DAY])
    is_active: bool = False

    def patch(self) -> dict[str, Any]:
        """The members that were sent."""
        return self.model_dump(exclude_unset=True)


class RotationBody(Body):
    """How long the old key stays good."""

    overlap_minutes: Annotated[int, Field(ge=0, le=7 * 24 * 60)] = 24 * 60


def add_routes(router: APIRouter, keys: ApiKeys, sign_ins: SignIns) -> None:
    """The routes of one's own keys; administrators see everybody's, and take from them."""

    def told(response: Response, key: ApiKey) -> dict[str, Any]:
        set_etag(response, key.version)
        return key.document()

    def told_once(response: Response, key: ApiKey, text: str) -> dict[str, Any]:
        never_store(response)
        return {**told(response, key), "api_key": text}

    def owner(caller: Caller) -> str | None:
        return None if caller.may(Permission.USERS_WRITE) else caller.name

    @router.get("/api-keys", tags=["api-keys"], summary="List one's API keys; administrators see everybody's")
    async def list_keys(
        request: Request, caller: SelfCaller, cursor: Cursor = None, limit: Limit = 100
    ) -> dict[str, Any]:
        found, following = await keys.list(zone_of(request), owner(caller), after_name(cursor), limit)
        return page([key.document() for key in found], following)

    @router.post("/api-keys", tags=["api-keys"], status_code=201, summary="Make an API key")
    async def create_key(request: Request, response: Response, caller: SelfCaller, body: ApiKeyBody) -> dict[str, Any]:
        """The key is told once, as `api_key`. It can do no more than its maker, whatever becomes of his role."""
        await sign_ins.require_privileged(caller, request.state.ip)
        key, text = await keys.create(
            context_of(request, caller),
            caller.role,
            body.name,
            [*dict.fromkeys(body.permissions)],
            life=timedelta(days=body.days),
            rate_limit=body.rate_limit,
        )
        return told_once(response, key, text)

    @router.get("/api-keys/{identifier}", tags=["api-keys"], summary="Show an API key")
    async def get_key(
        request: Request, response: Response, caller: SelfCaller, identifier: KeyIdPath
    ) -> dict[str, Any]:
        """Also one that has ended or expired."""
        return told(response, await keys.get(zone_of(request), identifier, owner=owner(caller)))

    @router.patch("/api-keys/{identifier}", tags=["api-keys"], summary="Change an API key (JSON merge patch)")
    async def change_key(
        request: Request, response: Response, caller: SelfCaller, identifier: KeyIdPath, body: ApiKeyPatch
    ) -> dict[str, Any]:
        """What is taken from a key is refused everywhere when this is answered. To give it more takes its owner, who
        proved himself just now as for a new key; `expires_at` is at most 366 days after the key was made.
        """
        patch = body.patch()
        key = await keys.get(zone_of(request), identifier, owner=owner(caller))
        more = widens(key, patch)
        if more and key.username == caller.name:
            await sign_ins.require_privileged(caller, request.state.ip)
        changed = await keys.change(
            context_of(request, caller),
            caller.role,
            identifier,
            patch,
            version_guard(request),
            owner=owner(caller),
            widen=more,
        )
        return told(response, changed)

    @router.post("/api-keys/{identifier}/rotate", tags=["api-keys"], status_code=201, summary="Replace an API key")
    async def rotate_key(
        request: Request, response: Response, caller: SelfCaller, identifier: KeyIdPath, body: RotationBody
    ) -> dict[str, Any]:
        """The new key is told once; the old one stays good for the overlap."""
        await sign_ins.require_privileged(caller, request.state.ip)
        overlap = timedelta(minutes=body.overlap_minutes)
        rotated = await keys.rotate(context_of(request, caller), identifier, owner=caller.name, overlap=overlap)
        return told_once(response, *rotated)

    @router.delete("/api-keys/{identifier}", tags=["api-keys"], status_code=204, summary="End an API key")
    async def end_key(request: Request, caller: SelfCaller, identifier: KeyIdPath) -> None:
        await keys.end(context_of(request, caller), identifier, owner=owner(caller))
