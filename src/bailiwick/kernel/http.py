"""What every room's routes share: the caller, permissions, versions, cursors.

Routes are written for one zone and find it in ``request.state.zone``: the front strips ``/z/<zone>`` before routing.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Annotated, Any, Protocol

from fastapi import Depends, Query, Request, Response
from fastapi.security import HTTPBearer

from bailiwick.kernel.errors import BailiwickError, Denied, InvalidRequest
from bailiwick.kernel.permissions import STEP_UP, Permission, allowed

_bearer = HTTPBearer(auto_error=False, description="The token of a sign-in, or an API key")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is calling the API: a signed-in person, or a key of his.

    ``name`` is the user name, ``session`` the id of the session the token belongs to. ``amr``: by what he proved
    himself (RFC 8176), last at ``auth_time`` (epoch seconds). A key has an id in ``key``, no session, and no more than
    its ``permissions``. ``owns``: the owner roles he has beside ``role``, by groups of his.
    """

    zone: str
    name: str
    role: str
    session: str
    must_change_password: bool = False
    amr: tuple[str, ...] = ()
    auth_time: int = 0
    key: str = ""
    permissions: frozenset[str] | None = None
    owns: frozenset[str] = frozenset()

    @property
    def roles(self) -> frozenset[str]:
        """Every role by which he may something."""
        return self.owns | {self.role}

    def may(self, permission: Permission) -> bool:
        """Whether a role of his holds the permission, and the key, if it is one, was given it."""
        holds = any(allowed(role, permission) for role in self.roles)
        return holds and (self.permissions is None or permission in self.permissions)


class Authenticate(Protocol):
    """Finds the caller of a request; the composition root puts one at ``app.state.authenticate``."""

    async def __call__(self, request: Request) -> Caller:
        """The caller; raises ``Unauthenticated`` for anything that is not a live token of this zone."""
        ...


class RequireStepUp(Protocol):
    """Judges how lately, and how well, a caller proved himself; the root puts one at ``app.state.step_up``."""

    async def __call__(self, request: Request, caller: Caller) -> None:
        """Raises ``insufficient_user_authentication`` with the challenge of RFC 9470 where it is not enough."""
        ...


async def current_caller(request: Request, _documented: Annotated[Any, Depends(_bearer)] = None) -> Caller:
    """The caller, who must have changed a one-time password unless this is the route that changes it."""
    authenticate: Authenticate = request.app.state.authenticate
    caller = await authenticate(request)
    request.state.caller = caller
    return caller


async def signed_in(caller: Annotated[Caller, Depends(current_caller)]) -> Caller:
    """The caller, who must be a person in a session and not a key."""
    if caller.key:
        raise Denied(reason="session_needed")
    return caller


def require(permission: Permission) -> Callable[..., Awaitable[Caller]]:
    """A dependency that answers the caller if his role holds ``permission``, else refuses with 403.

    A permission of :data:`~bailiwick.kernel.permissions.STEP_UP` takes a person, not a key, who proved himself lately.
    """

    async def dependency(request: Request, caller: Annotated[Caller, Depends(current_caller)]) -> Caller:
        if caller.must_change_password:
            raise Denied(reason="password_change_required")
        if not caller.may(permission):
            raise Denied(f"This needs the permission {permission}.", permission=str(permission))
        if permission in STEP_UP:
            if caller.key:
                raise Denied(reason="session_needed")
            step_up: RequireStepUp = request.app.state.step_up
            await step_up(request, caller)
        return caller

    dependency.permission = permission  # type: ignore[attr-defined]  # the route walk of the tests reads it
    return dependency


def zone_of(request: Request) -> str:
    """The zone the request's URL is in."""
    zone: str = request.state.zone
    return zone


def check_if_match(request: Request, version: int) -> None:
    """Honour If-Match when it is sent; raises ``version_mismatch`` (412) when it names another version."""
    header = request.headers.get("if-match")
    if header is None or header.strip() == "*":
        return
    wanted = {part.strip().removeprefix("W/").strip('"') for part in header.split(",")}
    if str(version) not in wanted:
        raise BailiwickError(reason="version_mismatch", current_version=version)


def set_etag(response: Response, version: int) -> None:
    """Tell the version of what is answered."""
    response.headers["ETag"] = f'"{version}"'


MAX_PAGE = 500
Limit = Annotated[int, Query(ge=1, le=MAX_PAGE, description="Most entries answered at once")]
Cursor = Annotated[str | None, Query(max_length=500, description="`next` of the page before")]


def encode_cursor(*position: str | int) -> str:
    """An opaque cursor for a keyset position."""
    return base64.urlsafe_b64encode(json.dumps(position).encode()).decode().rstrip("=")


def decode_cursor(cursor: str, types: tuple[type, ...]) -> tuple[Any, ...]:
    """The keyset position of a cursor; raises ``invalid_request`` when it is not one of ours."""
    try:
        position = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (binascii.Error, ValueError):
        position = None
    if not isinstance(position, list) or [type(part) for part in position] != list(types):
        raise InvalidRequest("The cursor is not one this endpoint gave.")
    return tuple(position)
