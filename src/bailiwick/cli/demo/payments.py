"""A small payments API to put behind the gateway. It demands a key of its own and knows nothing of Bailiwick.

Run as ``python -m bailiwick.cli.demo.payments`` with the key in ``BAILIWICK_DEMO_UPSTREAM_KEY``. It prints one line of
JSON with its two ports on loopback: ``port`` serves the API, ``seen_port`` answers ``GET /_seen`` with every request
that reached the API and all headers it came with.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import os
from typing import Any

from aiohttp import web

KEY_VARIABLE = "BAILIWICK_DEMO_UPSTREAM_KEY"
KEY_HEADER = "X-Api-Key"
TICK_S = 0.05


class Payments:
    """The payments, who asked for them, and what happens next."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._made: list[dict[str, Any]] = [
            {"id": "pay_1", "amount": 1250, "currency": "EUR", "to": "Hauser & Söhne"},
            {"id": "pay_2", "amount": 990, "currency": "EUR", "to": "Nordlicht Energie"},
        ]
        self._seen: list[dict[str, Any]] = []

    def application(self) -> web.Application:
        """The API, guarded by its key."""
        app = web.Application(middlewares=[self._guard])
        app.router.add_get("/payments", self._list)
        app.router.add_post("/payments", self._create)
        app.router.add_get("/payments/stream", self._stream)
        app.router.add_get("/payments/{id}", self._show)
        return app

    def witness(self) -> web.Application:
        """What reached the API; on a port of its own, which the gateway does not know."""
        app = web.Application()
        app.router.add_get("/_seen", self._tell_seen)
        return app

    @web.middleware
    async def _guard(self, request: web.Request, handler: Any) -> web.StreamResponse:
        headers = [[name, value] for name, value in request.headers.items()]
        self._seen.append({"method": request.method, "path": request.path_qs, "headers": headers})
        if not hmac.compare_digest(request.headers.get(KEY_HEADER, "").encode(), self._key.encode()):
            return web.json_response({"error": "key_required", "header": KEY_HEADER}, status=401)
        answer: web.StreamResponse = await handler(request)
        return answer

    async def _list(self, request: web.Request) -> web.Response:
        return web.json_response({"payments": self._made})

    async def _create(self, request: web.Request) -> web.Response:
        payment = {**await request.json(), "id": f"pay_{len(self._made) + 1}"}
        self._made.append(payment)
        return web.json_response(payment, status=201)

    async def _show(self, request: web.Request) -> web.Response:
        for payment in self._made:
            if payment["id"] == request.match_info["id"]:
                return web.json_response(payment)
        return web.json_response({"error": "not_found"}, status=404)

    async def _stream(self, request: web.Request) -> web.StreamResponse:
        """Server-sent events until the reader is gone."""
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await answer.prepare(request)
        number = 0
        try:
            while True:
                number += 1
                await answer.write(f"id: {number}\nevent: balance\ndata: {100_000 - number}\n\n".encode())
                await asyncio.sleep(TICK_S)
        except ConnectionError:
            return answer

    async def _tell_seen(self, request: web.Request) -> web.Response:
        return web.json_response({"requests": self._seen})


async def serve(key: str) -> None:
    """Serve until cancelled."""
    payments = Payments(key)
    ports = []
    runners = [web.AppRunner(app, access_log=None) for app in (payments.application(), payments.witness())]
    try:
        for runner in runners:
            await runner.setup()
            await web.TCPSite(runner, "127.0.0.1", 0, shutdown_timeout=0.1).start()
            ports.append(runner.addresses[0][1])
        print(json.dumps({"port": ports[0], "seen_port": ports[1]}), flush=True)
        await asyncio.Event().wait()
    finally:
        for runner in runners:
            await runner.cleanup()


if __name__ == "__main__":
    asyncio.run(serve(os.environ[KEY_VARIABLE]))
