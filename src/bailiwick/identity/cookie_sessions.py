"""Sessions of browsers: the tokens of a sign-in kept in cookies that no script reads, and requests by them protected.

The session cookie holds the same signed token that a program sends as a bearer, so that it is checked, limited and
revoked as that is; the refresh cookie holds the refresh token and is sent to where it is used alone. A request that
changes something and comes by a cookie must come from our own pages, by Origin or Sec-Fetch-Site, and carry the
session's token against forgery in :data:`CSRF_HEADER`: another site can neither read it nor set a header. Whoever sends
a bearer is judged by that alone.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from typing import Any, Literal
from urllib.parse import urlsplit

from fastapi import Request, Response
from fastapi.responses import JSONResponse, RedirectResponse
from starlette.types import Scope

from bailiwick.identity.api_keys import PREFIX as API_KEY_PREFIX
from bailiwick.identity.login.outcomes import Finished, SignedIn
from bailiwick.kernel.answers import never_store
from bailiwick.kernel.cookies import cookie_header, cookie_of
from bailiwick.kernel.errors import Denied, InvalidRequest, Unauthenticated
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.settings import Settings

SESSION_COOKIE = "__Host-bailiwick_session"
REFRESH_COOKIE = "__Secure-bailiwick_refresh"
# a browser keeps neither prefix over plain HTTP, which is spoken on loopback alone
PLAIN_SESSION_COOKIE = "bailiwick_plain_session"
PLAIN_REFRESH_COOKIE = "bailiwick_plain_refresh"
CSRF_HEADER = "x-csrf-token"
WANTED_HEADER = "x-bailiwick-session"
"""``X-Bailiwick-Session: cookie`` on a sign-in asks for cookies in place of tokens."""

Wanted = Literal["tokens", "cookie"]

_SAFE = frozenset(("GET", "HEAD", "OPTIONS"))
_REFRESH_PATH = "/api/v1/auth/refresh"
_HELD = re.compile(r"([A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+)~([A-Za-z0-9_-]{16,64})")


class CookieSessions:
    """Gives, reads and takes the cookies of sessions. Without I/O."""

    def __init__(self, settings: Settings, ids: Ids) -> None:
        self._ids = ids
        self._life_s = settings.session_ttl_s
        origin = urlsplit(settings.issuer)
        self._origin = f"{origin.scheme}://{origin.netloc}"
        self.secure = origin.scheme == "https"
        self._session = SESSION_COOKIE if self.secure else PLAIN_SESSION_COOKIE
        self._refresh = REFRESH_COOKIE if self.secure else PLAIN_REFRESH_COOKIE

    # ------------------------------------------------------------------ who is calling

    def presented(self, scope: Scope) -> tuple[str, bool]:
        """The session token or API key of a request, empty without any, and whether it came by a cookie.

        It is that of ``Authorization: Bearer`` or ``X-API-Key``, never of both, and else of the cookie. Raises
        ``Unauthenticated`` for two, and what :meth:`require_own_page` and :func:`read_cookie` raise.
        """
        scheme, _, token = _header(scope, b"authorization").partition(" ")
        key = _header(scope, b"x-api-key").strip()
        bearer = token.strip() if scheme.lower() == "bearer" else ""
        if key and (bearer or not key.startswith(API_KEY_PREFIX)):
            raise Unauthenticated("Send one credential: a bearer token or an X-API-Key.", reason="invalid_token")
        if bearer or key or scheme:
            return bearer or key, False
        held = self._held(scope)
        if held is None:
            return "", False
        if scope["method"] not in _SAFE:
            self.require_own_page(scope)
        return held[0], True

    def require_own_page(self, scope: Scope) -> None:
        """Refuse (``csrf_refused``) a request that did not come from a page of ours with the session's token."""
        self.require_own_origin(scope)
        held = self._held(scope)
        given = _header(scope, CSRF_HEADER.encode())
        if held is None or not hmac.compare_digest(given.encode("latin-1"), _csrf(scope, held[1]).encode()):
            raise Denied(reason="csrf_refused")

    def require_own_origin(self, scope: Scope) -> None:
        """Refuse (``csrf_refused``) what another origin's page sends, and what does not say which page sent it."""
        origin, site = _header(scope, b"origin"), _header(scope, b"sec-fetch-site")
        if not (origin or site) or origin not in ("", self._origin) or site not in ("", "same-origin"):
            raise Denied(reason="csrf_refused")

    def csrf_token(self, scope: Scope) -> str | None:
        """The token that requests by this cookie must carry; None without a cookie."""
        held = self._held(scope)
        return None if held is None else _csrf(scope, held[1])

    # ------------------------------------------------------------------ in, on and out

    def answer(self, request: Request, response: Response, signed_in: SignedIn) -> dict[str, Any]:
        """The answer to a sign-in: the tokens, or the cookies where they were asked for or the session came by them."""
        wanted = request.headers.get(WANTED_HEADER)
        if wanted is None and not self.by_cookie(request):
            return signed_in.document()
        if wanted not in (None, "cookie"):
            raise InvalidRequest(f"{WANTED_HEADER} is cookie, or not sent.")
        self.require_own_origin(request.scope)
        return self.give(request, response, signed_in)

    def give(self, request: Request, response: Response, signed_in: SignedIn) -> dict[str, Any]:
        """Put the session into cookies; the answer without its tokens, and with the one against forgery."""
        held = self._held(request.scope) if self.by_cookie(request) else None
        seed = held[1] if held is not None else self._ids.secret(24)
        zone = request.scope["state"]["zone"]
        self._write(response, in_zone(self._session, zone), f"{signed_in.token}~{seed}", "Lax", "/")
        if signed_in.refresh_token:
            path = own_path(zone, _REFRESH_PATH)
            self._write(response, in_zone(self._refresh, zone), signed_in.refresh_token, "Strict", path)
        told = {
            name: value
            for name, value in signed_in.document().items()
            if name not in ("access_token", "token", "token_type", "refresh_token")
        }
        return {**told, "csrf_token": _csrf(request.scope, seed)}

    def finish(self, request: Request, finished: Finished) -> Response:
        """The answer to a sign-in that a provider sent the browser back from: tokens, or cookies and onwards."""
        onward = finished.onward
        if not onward.as_cookie:
            answer: Response = JSONResponse({**finished.outcome.document(), "return_to": onward.return_to or None})
        elif onward.return_to:
            answer = RedirectResponse(onward.return_to, 303)
            self.give(request, answer, finished.outcome)
        else:
            cookies = Response()
            told = self.give(request, cookies, finished.outcome)
            answer = JSONResponse({**told, "return_to": None})
            for value in cookies.headers.getlist("set-cookie"):
                answer.headers.append("set-cookie", value)
        never_store(answer)
        return answer

    def by_cookie(self, request: Request) -> bool:
        """Whether the caller of a request was found by his cookie."""
        return bool(getattr(request.state, "by_cookie", False))

    def refresh_token(self, request: Request) -> str | None:
        """The refresh token of the cookie, used by a page of ours; None without one. Raises as the cookie's caller."""
        zone = request.scope["state"]["zone"]
        token = cookie_of(request.scope, in_zone(self._refresh, zone))
        if token is not None:
            self.require_own_page(request.scope)
            request.state.by_cookie = True
        return token

    def clear(self, request: Request, response: Response) -> None:
        """Have the browser forget the session, if it came by a cookie."""
        if self.by_cookie(request):
            zone = request.scope["state"]["zone"]
            self._write(response, in_zone(self._session, zone), "", "Lax", "/")
            self._write(response, in_zone(self._refresh, zone), "", "Strict", own_path(zone, _REFRESH_PATH))

    def _held(self, scope: Scope) -> tuple[str, str] | None:
        """The token and the seed of the session cookie."""
        value = cookie_of(scope, in_zone(self._session, scope["state"]["zone"]))
        if value is None:
            return None
        match = _HELD.fullmatch(value)
        if match is None:
            raise Unauthenticated("The session cookie is not one of ours.", reason="invalid_token")
        return match[1], match[2]

    def _write(self, response: Response, name: str, value: str, same_site: str, path: str) -> None:
        told = cookie_header(name, value, life_s=self._life_s, secure=self.secure, same_site=same_site, path=path)
        response.headers.append("set-cookie", told)


def _csrf(scope: Scope, seed: str) -> str:
    zone = scope["state"]["zone"]
    digest = hmac.digest(seed.encode(), f"bailiwick csrf {zone}".encode(), hashlib.sha256)
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def in_zone(name: str, zone: str) -> str:
    """Each zone has cookies of its own, as all of them share one host."""
    return name if zone == "default" else f"{name}-{zone}"


def own_path(zone: str, path: str) -> str:
    """A path of the API as browsers ask for it in ``zone``."""
    return path if zone == "default" else f"/z/{zone}{path}"


def _header(scope: Scope, wanted: bytes) -> str:
    return next((value.decode("latin-1") for name, value in scope["headers"] if name == wanted), "")
