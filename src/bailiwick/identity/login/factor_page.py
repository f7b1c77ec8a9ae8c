"""The page on which a browser gives the second factor that its sign-in by a provider owes.

A browser comes from its provider by a navigation and could make nothing of a problem document. It is sent here with the
``mfa_token`` in a cookie that no script reads; what the page sends back carries a token of that cookie against forgery,
comes from our own origin, and ends where the sign-in would have ended. Programs go on by the API. The page needs no
script but for passkeys, and that one is a file.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
from functools import cache
from importlib import resources
from typing import Any
from urllib.parse import urlsplit

from fastapi import Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse

from bailiwick.identity.cookie_sessions import CookieSessions, in_zone, own_path
from bailiwick.identity.login.outcomes import PENDING_LIFE, Onward
from bailiwick.kernel.answers import never_store
from bailiwick.kernel.cookies import cookie_header, cookie_of
from bailiwick.kernel.errors import Denied, Unauthenticated

PATH = "/api/v1/auth/second-factor"
COOKIE = "__Host-bailiwick_factor"
PLAIN_COOKIE = "bailiwick_plain_factor"
SENT_ON_TO_THE_PAGE: dict[int | str, dict[str, Any]] = {
    303: {"description": "A browser goes on: to where it wanted to go, or to the page that takes its second factor"}
}

_DUE = frozenset({"mfa_required", "mfa_enrolment_required"})
_FILES = {"page.css": "text/css", "passkey.js": "text/javascript"}


class FactorPage:
    """Leads browsers to the page, and writes it. Without I/O but for its own files."""

    def __init__(self, sessions: CookieSessions) -> None:
        self._sessions = sessions

    def instead_of(self, request: Request, refused: Unauthenticated) -> Response:
        """The way to the page, for a browser whose sign-in owes a second factor; else raises ``refused``."""
        if refused.reason not in _DUE or not _is_browser(request):
            raise refused
        zone = request.scope["state"]["zone"]
        answer = RedirectResponse(own_path(zone, PATH), 303)
        self._write(answer, zone, str(refused.extra["mfa_token"]), int(PENDING_LIFE.total_seconds()))
        never_store(answer)
        return answer

    def token(self, request: Request) -> str:
        """The ``mfa_token`` of the browser's sign-in; raises ``invalid_token`` without one."""
        token = cookie_of(request.scope, self._name(request.scope["state"]["zone"]))
        if token is None:
            raise Unauthenticated("No sign-in of this browser waits; start again.", reason="invalid_token")
        return token

    def require_own_page(self, request: Request, token: str, given: str) -> None:
        """Refuse (``csrf_refused``) what the page did not send itself."""
        self._sessions.require_own_origin(request.scope)
        if not hmac.compare_digest(given.encode(), forgery_token(token).encode()):
            raise Denied(reason="csrf_refused")

    def forget(self, request: Request, answer: Response) -> None:
        """Have the browser forget the sign-in."""
        self._write(answer, request.scope["state"]["zone"], "", 0)

    def page(self, name: str, onward: Onward | None = None, *, status: int = 200, **values: Any) -> HTMLResponse:
        """The page ``name`` of the templates."""
        text = _templates().get_template(f"{name}.html").render(onward=onward or Onward(), **values)
        answer = HTMLResponse(text, status, headers={"Content-Security-Policy": _policy(onward or Onward())})
        # without a referrer, browsers would not say either which page sent the form
        answer.headers["Referrer-Policy"] = "same-origin"
        never_store(answer)
        return answer

    def _name(self, zone: str) -> str:
        return in_zone(COOKIE if self._sessions.secure else PLAIN_COOKIE, zone)

    def _write(self, answer: Response, zone: str, value: str, life_s: int) -> None:
        # Lax: it must come along when the provider's page leads here, which is a navigation from another site
        secure = self._sessions.secure
        told = cookie_header(self._name(zone), value, life_s=life_s, secure=secure, same_site="Lax")
        answer.headers.append("set-cookie", told)


def file(name: str) -> Response | None:
    """A file of the page; None for what is none."""
    media_type = _FILES.get(name)
    return Response(_read(name), media_type=media_type) if media_type is not None else None


def forgery_token(token: str) -> str:
    """What a form of the page carries, which only who reads the page of this sign-in knows."""
    digest = hmac.digest(token.encode(), b"bailiwick second factor", hashlib.sha256)
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


def _is_browser(request: Request) -> bool:
    """Whether a person looks at the answer: a browser that navigates names HTML, a program names JSON or nothing."""
    accepted = request.headers.get("accept", "").lower()
    return "text/html" in accepted and "application/json" not in accepted


def _policy(onward: Onward) -> str:
    # browsers hold where a form's answer leads against form-action too
    parts = urlsplit(onward.return_to)
    there = f" {parts.scheme}://{parts.netloc}" if parts.netloc else ""
    return (
        f"default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; form-action 'self'{there};"
        " base-uri 'none'; frame-ancestors 'none'"
    )


@cache
def _templates() -> Any:
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("bailiwick.identity.login", "pages"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


@cache
def _read(name: str) -> str:
    return (resources.files("bailiwick.identity.login") / "pages" / name).read_text("utf-8")
