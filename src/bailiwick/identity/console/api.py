"""The page on which a person signs in, and the files of all pages. They are for people: the API's document has none."""

from __future__ import annotations

import re
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from fastapi.responses import RedirectResponse

from bailiwick.identity.console.frame import HOME, ROOT, SIGN_IN, PageRoute, add_files, page
from bailiwick.identity.cookie_sessions import CookieSessions, own_path
from bailiwick.identity.providers import Providers
from bailiwick.kernel.errors import REASONS, BailiwickError
from bailiwick.kernel.http import zone_of

_PAGE = re.compile(rf"{ROOT}(?:/[a-z0-9-]{{1,64}}){{0,4}}\Z")
_OVER = frozenset({"token_expired", "session_ended", "account_disabled", "invalid_token"})


def routes(sessions: CookieSessions, providers: Providers) -> APIRouter:
    """``/console``: where it begins, signing in, and the files."""
    router = APIRouter(include_in_schema=False, route_class=PageRoute)

    @router.get(ROOT)
    async def begin(request: Request) -> Response:
        return RedirectResponse(own_path(zone_of(request), HOME), 303)

    @router.get(SIGN_IN)
    async def sign_in(
        request: Request,
        to: Annotated[str, Query(max_length=500)] = "",
        why: Annotated[str, Query(max_length=60)] = "",
    ) -> Response:
        zone = zone_of(request)
        found = {kind: await providers.enabled(zone, kind) for kind in ("oidc", "saml", "ldap")}
        return page(
            request,
            "sign_in",
            csrf=_token(request, sessions),
            to=onward(zone, to),
            goes_on=why == "token_expired",
            why=REASONS[why].meaning if why in _OVER else "",
            leads=[(kind, each.name) for kind in ("oidc", "saml") for each in found[kind]],
            realms=[each.name for each in found["ldap"]],
        )

    add_files(router, f"{ROOT}/files", ("console.css", "console.js", "sign_in.js"))
    return router


def onward(zone: str, to: str) -> str:
    """Where a browser goes on to once it is signed in: ``to`` if it is a page of this zone's console, else its home."""
    prefix = own_path(zone, "")
    return to if to.startswith(prefix) and _PAGE.match(to[len(prefix) :]) else own_path(zone, HOME)


def _token(request: Request, sessions: CookieSessions) -> str:
    """The token of a session that is perhaps over: it may still be gone on with by its refresh cookie."""
    try:
        return sessions.csrf_token(request.scope) or ""
    except BailiwickError:
        return ""


__all__ = ["onward", "routes"]
