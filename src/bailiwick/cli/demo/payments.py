"""A small payments API that demands a key of its own, for the demonstration to govern.

``python -m bailiwick.cli.demo.payments PORT KEY``. What it was sent can be read at ``/_seen`` by whoever has the key.
"""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import Any

from aiohttp import web

_RECENT = 50


def application(key: str) -> web.Application:
    """The API: list, read and create payments, and a stream of them."""
    seen: list[dict[str, Any]] = []
    payments = [{"id": 1, "to": "ACME", "amount": 120}, {"id": 2, "to": "Globex", "amount": 75}]

    @web.middleware
    async def keyed(request: web.Request, handler: Any) -> web.StreamResponse:
        if request.path != "/_seen":
            seen.append({"method": request.method, "path": request.path, "headers": dict(request.headers)})
            del seen[:-_RECENT]
        if request.headers.get("X-Api-Key") != key:
            return web.json_response({"error": "a valid X-Api-Key is needed"}, status=401)
        answer: web.StreamResponse = await handler(request)
        return answer

    async def list_payments(request: web.Request) -> web.Response:
        return web.json_response(payments)

    async def create_payment(request: web.Request) -> web.Response:
        payments.append({"id": len(payments) + 1, **(await request.json())})
        return web.json_response(payments[-1], status=201)

    async def stream(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await answer.prepare(request)
        with contextlib.suppress(ConnectionError):  # the gateway cuts it when the authority ends
            while True:
                await answer.write(b"data: payment\n\n")
                await asyncio.sleep(0.05)
        return answer

    async def show_seen(request: web.Request) -> web.Response:
        return web.json_response(seen)

    app = web.Application(middlewares=[keyed])
    app.router.add_get("/payments", list_payments)
    app.router.add_post("/payments", create_payment)
    app.router.add_get("/payments/stream", stream)
    app.router.add_get("/_seen", show_seen)
    return app


if __name__ == "__main__":
    web.run_app(application(sys.argv[2]), host="127.0.0.1", port=int(sys.argv[1]), print=None)
