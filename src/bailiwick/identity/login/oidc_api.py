"""Routes of signing in by an OpenID provider. They only translate, and keep the cookie of a sign-in under way."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import JSONResponse, RedirectResponse

from bailiwick.evidence.requests import context_of
from bailiwick.identity.cookie_sessions import CookieSessions, Wanted
from bailiwick.identity.login.factor_page import SENT_ON_TO_THE_PAGE, FactorPage
from bailiwick.identity.login.forms import fields_of
from bailiwick.identity.login.oidc import SIGN_IN_LIFE, Begun, OidcLogin, Returned, cookie_name
from bailiwick.identity.login.oidc_tokens import MAX_TOKEN_BYTES
from bailiwick.kernel.answers import never_store
from bailiwick.kernel.cookies import cookie_header, cookie_of
from bailiwick.kernel.errors import InvalidRequest, Unauthenticated
from bailiwick.kernel.fields import Name, NamePath
from bailiwick.kernel.http import Caller, signed_in

_MAX_FORM_BYTES = MAX_TOKEN_BYTES + 1024
_PARAMETERS = ("state", "code", "error", "iss")
_LONGEST = {"state": 200, "code": 8192, "error": 200, "iss": 2000}
_NOT_LET_IN: dict[int | str, dict[str, Any]] = {
    401: {"description": "The provider's answer does not hold, or a second factor is due"},
    503: {"description": "The provider does not answer"},
}
_COME_BACK = {**_NOT_LET_IN, **SENT_ON_TO_THE_PAGE}
_SENT_ON: dict[int | str, dict[str, Any]] = {
    302: {"description": "To the provider; with `Accept: application/json` the address is answered instead"},
    503: {"description": "The provider does not answer"},
}
_FORM = {
    "requestBody": {
        "required": True,
        "content": {
            "application/x-www-form-urlencoded": {
                "schema": {
                    "type": "object",
                    "properties": {"logout_token": {"type": "string"}},
                    "required": ["logout_token"],
                }
            }
        },
    }
}

SignedInCaller = Annotated[Caller, Depends(signed_in)]
ReturnTo = Annotated[
    str, Query(max_length=1000, description="Where to go afterwards: a path here, or a page the provider allows")
]
SessionAs = Annotated[Wanted, Query(description="Whether the session is put into cookies; then the browser is sent on")]
Answered = Annotated[str | None, Query(max_length=8192)]


def routes(login: OidcLogin, sessions: CookieSessions) -> APIRouter:
    """The routes over their service."""
    router = APIRouter(prefix="/api/v1/auth/oidc", tags=["auth"])
    cookies, page = _Cookies(sessions), FactorPage(sessions)

    async def begin(request: Request, name: str | None, return_to: str, session: Wanted) -> Response:
        begun = await login.begin(context_of(request, None), name, return_to, as_cookie=session == "cookie")
        answer: Response
        if "application/json" in request.headers.get("accept", ""):
            answer = JSONResponse({"authorization_url": begun.url, "state": begun.state})
        else:
            answer = RedirectResponse(begun.url, 302)
        never_store(answer)
        cookies.set(answer, begun)
        return answer

    async def come_back(request: Request, name: str | None) -> Response:
        returned = _returned(request)
        secret = cookies.of(request, returned.state)
        try:
            # what a browser or a caller gets in the end: the tokens, and where it wanted to go
            finished = await login.finish(context_of(request, None), name, returned, secret)
            answer = sessions.finish(request, finished)
        except Unauthenticated as refused:
            answer = page.instead_of(request, refused)
        cookies.forget(answer, returned.state)
        return answer

    @router.get(
        "/login",
        summary="Sign in by an OpenID provider",
        responses={**_SENT_ON, 404: {"description": "There is no such provider, or no default one"}},
        response_class=Response,
    )
    async def begin_named(
        request: Request,
        provider: Annotated[Name | None, Query(description="Which one; the default one without")] = None,
        return_to: ReturnTo = "",
        session: SessionAs = "tokens",
    ) -> Response:
        return await begin(request, provider, return_to, session)

    @router.get("/callback", summary="Where a provider sends the browser back to", responses=_COME_BACK)
    async def come_back_shared(
        request: Request, state: Answered = None, code: Answered = None, error: Answered = None, iss: Answered = None
    ) -> Response:
        return await come_back(request, None)

    @router.post("/logout", summary="Sign out here, and learn where to sign out of the provider")
    async def sign_out(request: Request, response: Response, caller: SignedInCaller) -> dict[str, Any]:
        """Send the browser to `end_session_url`, if there is one, so that the provider forgets it too."""
        never_store(response)
        address = await login.sign_out(context_of(request, caller), caller.name, caller.session)
        sessions.clear(request, response)
        return {"end_session_url": address}

    @router.get("/{name}/login", summary="Sign in by this OpenID provider", responses=_SENT_ON, response_class=Response)
    async def begin_here(
        request: Request, name: NamePath, return_to: ReturnTo = "", session: SessionAs = "tokens"
    ) -> Response:
        return await begin(request, name, return_to, session)

    @router.get("/{name}/callback", summary="Where this provider sends the browser back to", responses=_COME_BACK)
    async def come_back_here(
        request: Request,
        name: NamePath,
        state: Answered = None,
        code: Answered = None,
        error: Answered = None,
        iss: Answered = None,
    ) -> Response:
        """The answer holds the tokens, like that of any other sign-in.

        Where a second factor is due, a browser is sent on to the page that takes it.
        """
        return await come_back(request, name)

    @router.post("/{name}/backchannel-logout", summary="A provider tells that somebody signed out", openapi_extra=_FORM)
    async def back_channel_logout(request: Request, response: Response, name: NamePath) -> dict[str, Any]:
        """OpenID Connect Back-Channel Logout 1.0. Nothing of the sessions is accepted once this has answered."""
        never_store(response)
        token = await _logout_token(request)
        return {"sessions_ended": await login.back_channel_logout(context_of(request, None), name, token)}

    return router


class _Cookies:
    """The cookie of one sign-in under way: to this host alone, not for scripts, and not sent along by other sites.

    ``Lax`` lets it come with the provider's redirect, which is a navigation of the whole page.
    """

    def __init__(self, sessions: CookieSessions) -> None:
        self._sessions = sessions

    def set(self, answer: Response, begun: Begun) -> None:
        self._write(answer, begun.state, begun.secret, int(SIGN_IN_LIFE.total_seconds()))

    def forget(self, answer: Response, state: str) -> None:
        self._write(answer, state, "", 0)

    def of(self, request: Request, state: str) -> str:
        return cookie_of(request.scope, self._name(state)) or ""

    def _name(self, state: str) -> str:
        return f"{'__Host-' if self._sessions.secure else ''}{cookie_name(state)}"

    def _write(self, answer: Response, state: str, value: str, life_s: int) -> None:
        told = cookie_header(self._name(state), value, life_s=life_s, secure=self._sessions.secure, same_site="Lax")
        answer.headers.append("set-cookie", told)


def _returned(request: Request) -> Returned:
    """The parameters of a provider's answer, each at most once (RFC 6749 §3.1)."""
    found: dict[str, str] = {}
    for name, value in request.query_params.multi_items():
        if name not in _PARAMETERS:
            continue  # providers add some of their own, which are to be ignored
        if name in found or len(value) > _LONGEST[name] or "\x00" in value:
            raise InvalidRequest(f"The parameter {name} is too long, or stands twice.")
        found[name] = value
    if "state" not in found:
        raise InvalidRequest("The answer has no state.")
    return Returned(found["state"], found.get("code", ""), found.get("error", ""), found.get("iss"))


async def _logout_token(request: Request) -> str:
    form = await fields_of(request, most_bytes=_MAX_FORM_BYTES)
    if "logout_token" not in form:
        raise InvalidRequest("Send one logout_token.")
    return form["logout_token"]
