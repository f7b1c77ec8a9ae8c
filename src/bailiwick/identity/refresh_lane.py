"""``POST /api/v1/auth/refresh`` as programs send it: a lane of its own, without a web framework.

Every session comes by here each few minutes, so it is most of what signing in costs. The lane takes one form only: a
JSON body that holds a refresh token and nothing else, without a cookie and without a wish for one. Whatever else comes
to the path is the route's (``api.py``), which describes it too. Limits, idempotency and settling lie around both.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import msgspec
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bailiwick.evidence.events import Actor, Context, Network
from bailiwick.evidence.requests import LONGEST_USER_AGENT
from bailiwick.identity.login.sign_ins import SignIns
from bailiwick.kernel.errors import BailiwickError
from bailiwick.kernel.problems import send_problem

PATH = "/api/v1/auth/refresh"

_PLAIN = re.compile(rb'\s*\{\s*"refresh_token"\s*:\s*"([A-Za-z0-9_-]{1,200})"\s*\}\s*')
_JSON = frozenset((b"application/json", b"application/json; charset=utf-8", b"application/json;charset=utf-8"))
# what makes the answer another: cookies (``cookie_sessions.py``)
_NOT_PLAIN = frozenset((b"cookie", b"x-bailiwick-session", b"content-encoding"))
_ROUTE = SimpleNamespace(path=PATH)  # what the front labels the request by
_encode = msgspec.json.Encoder().encode


class RefreshLane:
    """Wraps the API's app. The front leaves ``zone``, ``request_id``, … in ``scope["state"]``."""

    def __init__(self, app: ASGIApp, sign_ins: SignIns) -> None:
        self._app = app
        self._sign_ins = sign_ins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != PATH or scope["method"] != "POST" or scope.get("root_path"):
            await self._app(scope, receive, send)
            return
        user_agent = _user_agent(scope)
        if user_agent is None:
            await self._app(scope, receive, send)
            return
        message = await receive()
        whole = message["type"] == "http.request" and not message.get("more_body", False)
        plain = _PLAIN.fullmatch(message.get("body", b"")) if whole else None
        if plain is None:
            await self._app(scope, _again(message, receive), send)
            return
        scope["route"] = _ROUTE
        state = scope["state"]
        try:
            signed_in = await self._sign_ins.refresh(_context(state, user_agent), plain[1].decode())
        except BailiwickError as error:
            await send_problem(send, error, state["request_id"], state.get("path", PATH))
            return
        body = _encode(signed_in.document())
        headers = [
            (b"content-type", b"application/json"),
            (b"cache-control", b"no-store"),
            (b"content-length", b"%d" % len(body)),
        ]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})


def _user_agent(scope: Scope) -> str | None:
    """The user agent of a request whose headers are plain; None for others."""
    user_agent, media_type = b"", b""
    for name, value in scope["headers"]:
        if name in _NOT_PLAIN:
            return None
        if name == b"content-type":
            media_type = value
        elif name == b"user-agent" and not user_agent:
            user_agent = value
    return user_agent.decode("latin-1")[:LONGEST_USER_AGENT] if media_type.lower() in _JSON else None


def _context(state: Mapping[str, Any], user_agent: str) -> Context:
    return Context(
        state["zone"],
        Actor(),
        Network(state.get("ip", ""), user_agent),
        state["request_id"],
        state.get("client_request_id", ""),
        state.get("trace_id", ""),
    )


def _again(first: Message, receive: Receive) -> Receive:
    """``receive`` that tells ``first`` once more."""
    told = False

    async def again() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return first

    return again
