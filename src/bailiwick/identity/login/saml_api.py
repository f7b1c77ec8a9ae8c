"""Routes of signing in by a SAML provider. They only translate, and keep the cookie of a sign-in under way."""

from __future__ import annotations

from html import escape
from typing import Annotated, Any
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse

from bailiwick.evidence.requests import context_of
from bailiwick.identity.cookie_sessions import CookieSessions, Wanted
from bailiwick.identity.login.factor_page import SENT_ON_TO_THE_PAGE, FactorPage
from bailiwick.identity.login.forms import fields_of
from bailiwick.identity.login.saml import REQUEST_LIFE, SamlLogin, Sent, cookie_name
from bailiwick.identity.saml.refusals import Refused
from bailiwick.identity.saml.request import from_base64, read_query
from bailiwick.identity.saml.xml import MAX_MESSAGE
from bailiwick.kernel.answers import never_store
from bailiwick.kernel.cookies import cookie_header, cookie_of
from bailiwick.kernel.errors import InvalidRequest, Unauthenticated
from bailiwick.kernel.fields import NamePath
from bailiwick.kernel.http import Caller, signed_in

_MAX_FORM_BYTES = MAX_MESSAGE * 2
_LONGEST = {"RelayState": 1000}
_SUBMIT = "document.getElementById('saml').submit();\n"
_NOT_LET_IN: dict[int | str, dict[str, Any]] = {
    401: {"description": "What the provider says does not hold, or a second factor is due"},
    403: {"description": "There is no account, and none is made"},
}
_SENT_ON: dict[int | str, dict[str, Any]] = {
    200: {"description": "A page whose form goes to the provider, or with `Accept: application/json` what to send"},
    302: {"description": "To the provider"},
}


def _form(*required: str) -> dict[str, Any]:
    names = ("SAMLRequest", "SAMLResponse", "RelayState")
    schema = {"type": "object", "properties": {name: {"type": "string"} for name in names}, "required": [*required]}
    return {"requestBody": {"required": True, "content": {"application/x-www-form-urlencoded": {"schema": schema}}}}


SignedInCaller = Annotated[Caller, Depends(signed_in)]
ReturnTo = Annotated[
    str, Query(max_length=1000, description="Where to go afterwards: a path here, or a page the provider allows")
]

SessionAs = Annotated[Wanted, Query(description="Whether the session is put into cookies; then the browser is sent on")]


def routes(login: SamlLogin, sessions: CookieSessions) -> APIRouter:
    """The routes over their service."""
    router = APIRouter(prefix="/api/v1/auth/saml", tags=["auth"])
    page = FactorPage(sessions)

    @router.get("/submit.js", include_in_schema=False)
    async def submit() -> Response:
        return Response(_SUBMIT, media_type="text/javascript")

    @router.get("/{name}/metadata", summary="Our metadata, for the provider", response_class=Response)
    async def metadata(request: Request, name: NamePath) -> Response:
        return Response(
            await login.metadata(context_of(request, None), name), media_type="application/samlmetadata+xml"
        )

    @router.get("/{name}/login", summary="Sign in by this SAML provider", responses=_SENT_ON, response_class=Response)
    async def begin(
        request: Request, name: NamePath, return_to: ReturnTo = "", session: SessionAs = "tokens"
    ) -> Response:
        sent = await login.begin(context_of(request, None), name, return_to, as_cookie=session == "cookie")
        answer = _answer(request, sent)
        _set_cookie(answer, sent.relay_state, sent.secret, int(REQUEST_LIFE.total_seconds()))
        return answer

    @router.post(
        "/{name}/acs",
        summary="Where the provider's response comes to",
        responses={**_NOT_LET_IN, **SENT_ON_TO_THE_PAGE},
        openapi_extra=_form("SAMLResponse"),
    )
    async def consume(request: Request, name: NamePath) -> Response:
        """The answer holds the tokens, like that of any other sign-in.

        Where a second factor is due, a browser is sent on to the page that takes it.
        """
        form = await fields_of(request, most_bytes=_MAX_FORM_BYTES, longest=_LONGEST)
        if "SAMLResponse" not in form:
            raise InvalidRequest("Send one SAMLResponse.")
        relay_state = form.get("RelayState", "")
        secret = cookie_of(request.scope, f"__Host-{cookie_name(relay_state)}") or ""
        context = context_of(request, None)
        try:
            finished = await login.finish(context, name, form["SAMLResponse"], relay_state, secret)
            answer = sessions.finish(request, finished)
        except Unauthenticated as refused:
            answer = page.instead_of(request, refused)
        _set_cookie(answer, relay_state, "", 0)
        return answer

    @router.post("/logout", summary="Sign out here, and learn what to send to the provider to sign out there")
    async def sign_out(request: Request, response: Response, caller: SignedInCaller) -> dict[str, Any]:
        """Send the browser to `logout_url`, with `fields` as a form if there are any."""
        never_store(response)
        sent = await login.sign_out(context_of(request, caller), caller.name, caller.session)
        sessions.clear(request, response)
        return {"logout_url": None if sent is None else sent.url, "fields": {} if sent is None else dict(sent.fields)}

    @router.get("/{name}/slo", summary="The provider's logout messages, by redirect", response_class=Response)
    async def logout_by_redirect(request: Request, name: NamePath) -> Response:
        try:
            query = read_query(str(request.scope["query_string"], "latin-1"))
        except Refused as refused:
            raise InvalidRequest(refused.detail) from None
        context = context_of(request, None)
        return _ended(request, await login.provider_logout(context, name, query, query.relay_state))

    @router.post("/{name}/slo", summary="The provider's logout messages, by POST", openapi_extra=_form())
    async def logout_by_post(request: Request, name: NamePath) -> Response:
        """Nothing of the sessions is accepted any more once this has answered."""
        form = await fields_of(request, most_bytes=_MAX_FORM_BYTES, longest=_LONGEST)
        messages = [form[parameter] for parameter in ("SAMLRequest", "SAMLResponse") if parameter in form]
        if len(messages) != 1:
            raise InvalidRequest("Send one SAMLRequest or one SAMLResponse.")
        try:
            data = from_base64(messages[0])
        except Refused as refused:
            raise InvalidRequest(refused.detail) from None
        relay_state = form.get("RelayState", "")
        return _ended(request, await login.provider_logout(context_of(request, None), name, data, relay_state))

    return router


def _answer(request: Request, sent: Sent) -> Response:
    """The message on its way: a redirect, a page that posts, or for programs what to send."""
    answer: Response
    if "application/json" in request.headers.get("accept", ""):
        answer = JSONResponse({"url": sent.url, "fields": dict(sent.fields), "relay_state": sent.relay_state})
    elif not sent.fields:
        answer = RedirectResponse(sent.url, 302)
    else:
        parts = urlsplit(sent.url)
        # the provider may send the form's answer on to any page of its own, which browsers hold against form-action
        policy = (
            f"default-src 'none'; script-src 'self'; form-action {parts.scheme}://{parts.netloc} https:;"
            " base-uri 'none'; frame-ancestors 'none'"
        )
        answer = HTMLResponse(_page(sent), headers={"Content-Security-Policy": policy})
    never_store(answer)
    return answer


def _page(sent: Sent) -> str:
    fields = "".join(
        f'<input type="hidden" name="{escape(name)}" value="{escape(value)}">' for name, value in sent.fields.items()
    )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>One moment</title></head><body>'
        f'<form method="post" action="{escape(sent.url)}" id="saml">{fields}'
        '<button type="submit">Continue</button></form><script src="../submit.js"></script></body></html>'
    )


def _ended(request: Request, outcome: Sent | bool) -> Response:
    if isinstance(outcome, Sent):
        return _answer(request, outcome)
    answer = JSONResponse({"signed_out_everywhere": outcome})
    never_store(answer)
    return answer


def _set_cookie(answer: Response, relay_state: str, value: str, life_s: int) -> None:
    """The cookie of one sign-in: to this host alone and not for scripts.

    The response comes by a form of the provider's page, so the cookie must come along from another site. ``Secure``
    always, which browsers want of such a cookie and grant to plain HTTP on this machine.
    """
    told = cookie_header(f"__Host-{cookie_name(relay_state)}", value, life_s=life_s, secure=True, same_site="None")
    answer.headers.append("set-cookie", told)
