"""The pages on which people read handovers and sign them. What they send goes to the routes of ``api.py``."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response

from bailiwick.handover.handovers import signing_page
from bailiwick.handover.handovers.records import Handover, find, list_handovers
from bailiwick.handover.handovers.service import Handovers
from bailiwick.identity.console.frame import HOME, PageRoute, add_files, page
from bailiwick.identity.cookie_sessions import CookieSessions
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Transaction
from bailiwick.kernel.errors import Conflict
from bailiwick.kernel.fields import IdPath, after_id
from bailiwick.kernel.http import Caller, Cursor, encode_cursor, require, zone_of
from bailiwick.kernel.permissions import Permission

_HERE = "bailiwick.handover.handovers"
_AT_ONCE = 30

Reader = Annotated[Caller, Depends(require(Permission.ASSURANCE_READ))]


def routes(database: Database, clock: Clock, handovers: Handovers, sessions: CookieSessions) -> APIRouter:
    """``/console/handovers``: all of them, one of them."""
    router = APIRouter(include_in_schema=False, route_class=PageRoute)

    async def listed(tx: Transaction, found: Handover, caller: Caller) -> signing_page.Listed:
        try:
            return signing_page.listed(found, await handovers.chances(tx, found, caller))
        except Conflict as refused:
            return signing_page.unreadable(found, refused.reason)

    @router.get(HOME)
    async def all_of_them(request: Request, caller: Reader, cursor: Cursor = None) -> Response:
        async with database.begin() as tx:
            found = await list_handovers(tx, zone_of(request), after_id(cursor), _AT_ONCE)
            told = [await listed(tx, each, caller) for each in found]
        may_sign = caller.may(Permission.HANDOVER_SIGN)
        return page(
            request,
            "handovers",
            package=_HERE,
            csrf=sessions.csrf_token(request.scope) or "",
            who=caller.name,
            yours=[each for each in told if each.yours] if may_sign else [],
            others=[each for each in told if not (each.yours and may_sign)],
            following=encode_cursor(found[-1].id) if len(found) == _AT_ONCE else "",
        )

    add_files(router, f"{HOME}/files", ("handover.js",), package=_HERE)

    @router.get(f"{HOME}/{{identifier}}")
    async def one(request: Request, identifier: IdPath, caller: Reader) -> Response:
        async with database.begin() as tx:
            found = await find(tx, zone_of(request), identifier)
            chances = await handovers.chances(tx, found, caller)
        may_sign = caller.may(Permission.HANDOVER_SIGN)
        return page(
            request,
            "handover",
            package=_HERE,
            csrf=sessions.csrf_token(request.scope) or "",
            who=caller.name,
            title=signing_page.title(found.document),
            shown=signing_page.shown(found, chances, clock.now(), may_sign=may_sign),
        )

    return router


__all__ = ["routes"]
