"""What the servers of the tests share: a port, and faults that the next requests meet."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class Fault:
    """What happens to one request. ``status`` is answered in place of the real answer, ``reset`` cuts the connection
    before the request is heard, ``reset_after`` after it was done, ``held`` waits for its event first."""

    status: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    body: str = ""
    reset: bool = False
    reset_after: bool = False
    held: asyncio.Event | None = None


class HttpServer:
    """Serves ``routes`` on a port of its own; ``faults`` are met by the next requests, one each."""

    def __init__(self) -> None:
        self.faults: deque[Fault] = deque()
        self.always: Fault | None = None
        self.heard = 0
        self.port = 0
        self._runner: web.AppRunner | None = None

    def routes(self) -> list[web.RouteDef]:
        raise NotImplementedError

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def start(self) -> None:
        app = web.Application(client_max_size=64 << 20)
        app.add_routes(self.routes())
        self._runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self.port)  # 0 at first, afterwards the same again
        await site.start()
        self.port = self._runner.addresses[0][1]

    async def stop(self) -> None:
        if self._runner is not None:
            await self._runner.cleanup()
            self._runner = None

    def faulty(self, handler: Handler) -> Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            self.heard += 1
            fault = self.faults.popleft() if self.faults else self.always
            if fault is None:
                return await handler(request)
            if fault.held is not None:
                await fault.held.wait()
            if fault.reset:
                return _cut(request)
            if fault.status:
                return web.Response(status=fault.status, headers=fault.headers, text=fault.body)
            answer = await handler(request)
            return _cut(request) if fault.reset_after else answer

        return handle


def _cut(request: web.Request) -> Any:
    transport = request.transport
    assert transport is not None
    transport.abort()  # type: ignore[attr-defined]
    return web.Response()
