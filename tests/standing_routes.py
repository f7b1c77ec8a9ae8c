"""The routes of identity and inventory, built once for a test run: to build them takes longer than most tests do.

Each request brings its house along, and the routes use the services of that one.
"""

from __future__ import annotations

from contextvars import Context, ContextVar
from functools import cache
from typing import Any

from fastapi import APIRouter, FastAPI, Request
from starlette.routing import Match
from starlette.types import ASGIApp, Receive, Scope, Send

from bailiwick.identity.api import routes as identity_routes
from bailiwick.identity.groups_api import routes as group_routes
from bailiwick.identity.login.factor_page_api import routes as factor_page_routes
from bailiwick.identity.login.oidc_api import routes as oidc_routes
from bailiwick.identity.login.saml_api import routes as saml_routes
from bailiwick.identity.providers_api import routes as provider_routes
from bailiwick.identity.reports_api import routes as report_routes
from bailiwick.identity.scim.api import routes as scim_routes
from bailiwick.inventory.api import routes as inventory_routes
from bailiwick.kernel import problems
from bailiwick.kernel.http import Caller

_house: ContextVar[Any] = ContextVar("house")


class _Service:
    """A service of the house whose request is answered."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, member: str) -> Any:
        return getattr(getattr(_house.get(), self._name), member)


def routers() -> list[APIRouter]:
    """The routes of both rooms, over whichever house stands behind the request."""
    at: Any = _Service
    cookies = at("cookies")
    return [
        inventory_routes(at("zones"), at("servers"), at("credentials")),
        provider_routes(at("providers"), at("testers")),
        oidc_routes(at("oidc"), cookies),
        saml_routes(at("saml"), cookies),
        factor_page_routes(at("sign_ins"), at("passkeys"), cookies),
        identity_routes(
            at("login"),
            at("ldap_login"),
            at("sign_ins"),
            at("users"),
            at("invitations"),
            at("sessions"),
            at("applications"),
            at("api_keys"),
            at("passkeys"),
            cookies,
        ),
        scim_routes(at("scim_users"), at("scim_groups"), lambda zone: _house.get().settings.zone_issuer(zone)),
        report_routes(at("reports")),
        group_routes(at("groups")),
    ]


def application(*included: APIRouter) -> FastAPI:
    """An application that knows callers as the house of the request does."""
    app = FastAPI(openapi_url=None)

    async def authenticate(request: Request) -> Caller:
        caller: Caller = await _house.get().authenticate(request)
        return caller

    async def step_up(request: Request, caller: Caller) -> None:
        await _house.get().step_up(request, caller)

    app.state.authenticate, app.state.step_up, app.state.throttle = authenticate, step_up, _Service("sign_in_throttle")
    for router in included:
        app.router.routes.extend(router.routes)  # to include it builds every route once more
    problems.install(app)
    return app


@cache
def _standing() -> FastAPI:
    # where no house is known, so that a route which takes hold of one for good fails here
    return Context().run(lambda: application(*routers()))


def behind(house: Any, own: FastAPI | None) -> ASGIApp:
    """The routes with ``house`` behind them, those of ``own`` first."""
    standing = _standing()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        _house.set(house)
        ours = own is not None and any(route.matches(scope)[0] is not Match.NONE for route in own.routes)
        await (own if own is not None and ours else standing)(scope, receive, send)

    return app
