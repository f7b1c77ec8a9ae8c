"""The payments API in three instances, good and bad, and callers who ask it through the gateway all the time."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import aiohttp
from aiohttp import web

CALLERS = 4
_PAUSE_S = 0.012


@dataclass(slots=True)
class Arm:
    """One instance. ``fails``: of how many requests one is answered with 500; 0 for none."""

    url: str
    fails: int = 0
    seen: int = 0
    last: float = 0.0


@dataclass(slots=True)
class Arms:
    """The instances by their names; ``key`` is what each demands."""

    key: str
    header: str
    arms: dict[str, Arm] = field(default_factory=dict)
    _runners: list[web.AppRunner] = field(default_factory=list)

    async def open(self, name: str, *, fails: int = 0) -> Arm:
        """Start an instance."""
        arm = Arm("", fails)

        async def answer(request: web.Request) -> web.Response:
            if not hmac.compare_digest(request.headers.get(self.header, "").encode(), self.key.encode()):
                return web.json_response({"error": "key_required"}, status=401)
            arm.seen += 1
            arm.last = time.monotonic()
            if arm.fails and arm.seen % arm.fails == 0:
                return web.json_response({"error": "broken"}, status=500)
            return web.json_response({"by": name})

        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, shutdown_timeout=0.1).start()
        self._runners.append(runner)
        arm.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self.arms[name] = arm
        return arm

    async def close(self) -> None:
        """Stop all of them."""
        for runner in self._runners:
            await runner.cleanup()


@dataclass(slots=True)
class Hook:
    """A chat that takes messages by webhook. ``told``: what arrived, oldest first."""

    url: str = ""
    told: list[str] = field(default_factory=list)
    _runner: web.AppRunner | None = None

    async def open(self) -> Hook:
        """Listen."""

        async def take(request: web.Request) -> web.Response:
            self.told.append(await request.text())
            return web.Response(text="ok")

        app = web.Application()
        app.router.add_post("/hook", take)
        self._runner = web.AppRunner(app, access_log=None)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0, shutdown_timeout=0.1).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}/hook"
        return self

    async def close(self) -> None:
        """Listen no more."""
        if self._runner is not None:
            await self._runner.cleanup()


@asynccontextmanager
async def load(
    session: aiohttp.ClientSession, url: str, token: Callable[[], str]
) -> AsyncIterator[Counter[tuple[int, str]]]:
    """Callers who ask ``url`` without pause; counts each status with who answered."""
    answers: Counter[tuple[int, str]] = Counter()

    async def ask() -> None:
        while True:
            async with session.get(url, headers={"Authorization": f"Bearer {token()}"}) as answer:
                told = await answer.json()
                answers[answer.status, str(told.get("by") or told.get("reason") or told.get("error"))] += 1
            await asyncio.sleep(_PAUSE_S)

    tasks = [asyncio.create_task(ask()) for _ in range(CALLERS)]
    try:
        yield answers
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
