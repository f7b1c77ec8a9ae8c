"""The routes of the page that takes a browser's second factor. They are for people, so the API's document has none."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError

from bailiwick.evidence.requests import context_of
from bailiwick.identity.cookie_sessions import CookieSessions
from bailiwick.identity.login import factor_page
from bailiwick.identity.login.factor_page import FactorPage
from bailiwick.identity.login.forms import fields_of
from bailiwick.identity.login.outcomes import Enrolment, Finished, SignedIn, Waiting
from bailiwick.identity.login.passkeys import Passkeys
from bailiwick.identity.login.sign_ins import SignIns
from bailiwick.identity.login.throttle import SignInThrottle
from bailiwick.identity.passkeys_api import NewCredential, UsedCredential
from bailiwick.kernel.errors import BailiwickError, InvalidRequest, NotFound

_MOST_BYTES = 256 * 1024
_LONGEST = {"csrf": 100, "code": 40, "step": 10}
# after these there is nothing to go on with
_OVER = frozenset({"invalid_token", "token_expired", "account_disabled", "session_ended", "zone_archived"})
_TOLD = {
    "invalid_code": "That code is not right, or it was used before.",
    "invalid_passkey": "That passkey does not prove that it is you.",
    "passkey_cloned": "That passkey was copied and is out of use. Use another way, and tell an administrator.",
    "account_locked": "There were too many wrong codes. Wait a few minutes, then try again.",
    "rate_limited": "There were too many wrong tries from your network. Wait a minute, then try again.",
    "already_exists": "That passkey is enrolled already.",
    "invalid_request": "Enter the code.",
}
_ENDED = {
    "account_disabled": "Your account is disabled. Ask an administrator.",
    "token_expired": "It took more than five minutes.",
}


def routes(sign_ins: SignIns, passkeys: Passkeys, sessions: CookieSessions) -> APIRouter:
    """The page, what it sends, and its files."""
    router = APIRouter(prefix=factor_page.PATH, include_in_schema=False)
    page = FactorPage(sessions)

    async def shown(
        request: Request,
        token: str,
        waiting: Waiting,
        *,
        status: int = 200,
        told: str = "",
        app: Enrolment | None = None,
    ) -> Response:
        options = None
        if "webauthn" in waiting.methods and app is None:
            ask = passkeys.enrolment if waiting.enrol else passkeys.challenge
            options = json.dumps(await ask(context_of(request, None), token))
        return page.page(
            "second_factor",
            waiting.onward,
            status=status,
            waiting=waiting,
            csrf=factor_page.forgery_token(token),
            options=options,
            told=told,
            app=app,
        )

    def over(request: Request, error: BailiwickError) -> Response:
        answer = page.page("over", status=error.status, told=_ENDED.get(error.reason, ""))
        page.forget(request, answer)
        return answer

    def ended_well(request: Request, outcome: SignedIn, waiting: Waiting) -> Response:
        onward = waiting.onward
        if onward.as_cookie and (outcome.recovery_codes or not onward.return_to):
            answer: Response = page.page("signed_in", onward, outcome=outcome)
            sessions.give(request, answer, outcome)
        else:
            answer = sessions.finish(request, Finished(outcome, onward))
        page.forget(request, answer)
        return answer

    async def judged(request: Request, token: str, waiting: Waiting, form: Mapping[str, str]) -> SignedIn:
        context = context_of(request, None)
        throttle: SignInThrottle = request.app.state.throttle
        with throttle.attempt(request.state.ip):
            if form.get("credential"):
                credential = _credential(form["credential"], new=waiting.enrol)
                if waiting.enrol:
                    return await passkeys.enrol(context, token, "Passkey", credential)
                return await passkeys.answer(context, token, credential)
            code = form.get("code", "").strip()
            if not code:
                raise InvalidRequest("Enter the code.")
            if waiting.enrol:
                return await sign_ins.finish_enrolment(context, token, code)
            return await sign_ins.answer(context, token, code)

    @router.get("")
    async def show(request: Request) -> Response:
        try:
            token = page.token(request)
            return await shown(request, token, await sign_ins.waiting(context_of(request, None), token))
        except BailiwickError as error:
            if error.reason in _OVER:
                return over(request, error)
            raise

    @router.post("")
    async def take(request: Request) -> Response:
        form = await fields_of(request, most_bytes=_MOST_BYTES, longest=_LONGEST)
        try:
            token = page.token(request)
            page.require_own_page(request, token, form.get("csrf", ""))
            waiting = await sign_ins.waiting(context_of(request, None), token)
            if waiting.enrol and form.get("step") == "app":
                app = await sign_ins.begin_enrolment(context_of(request, None), token)
                return await shown(request, token, waiting, app=app)
            try:
                return ended_well(request, await judged(request, token, waiting, form), waiting)
            except BailiwickError as error:
                if error.reason not in _TOLD:
                    raise
                # it may be over by now, this having been the last try
                waiting = await sign_ins.waiting(context_of(request, None), token)
                return await shown(request, token, waiting, status=error.status, told=_TOLD[error.reason])
        except BailiwickError as error:
            if error.reason in _OVER:
                return over(request, error)
            raise

    @router.get("/{name}")
    async def file(name: str) -> Response:
        found = factor_page.file(name)
        if found is None:
            raise NotFound("There is no such file.")
        return found

    return router


def _credential(text: str, *, new: bool) -> Mapping[str, Any]:
    kind = NewCredential if new else UsedCredential
    try:
        return kind.model_validate_json(text).plain()
    except ValidationError:
        raise BailiwickError(reason="invalid_passkey") from None
