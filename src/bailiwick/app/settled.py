"""A change that was answered holds everywhere: the answer waits until every worker has applied what was announced.

A worker that does not answer in time holds nothing up here; it is fenced only where authority ends
(:meth:`Revocations.settle`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bailiwick.kernel.errors import Unavailable
from bailiwick.kernel.feed import announced

_SAFE = frozenset({"GET", "HEAD", "OPTIONS"})


class Settled:
    """Wraps the API's app; ``applied(revision)`` waits, for a bounded time, until the workers have a revision."""

    def __init__(self, app: ASGIApp, applied: Callable[[int], Awaitable[object]]) -> None:
        self._app = app
        self._applied = applied

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] in _SAFE:
            await self._app(scope, receive, send)
            return
        revisions: list[int] = []
        token = announced.set(revisions)

        async def settled(message: Message) -> None:
            if message["type"] == "http.response.start" and revisions:
                try:
                    await self._applied(max(revisions))
                except Unavailable:
                    pass  # the change is committed; the workers take it in when the database is back
            await send(message)

        try:
            await self._app(scope, receive, settled)
        finally:
            announced.reset(token)
