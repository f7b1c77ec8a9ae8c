"""A worker in a process of its own, to be killed: `python standin_worker.py SOCKET [PAUSE_SECONDS]`."""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import uvicorn


def app(pause_s: float) -> Any:
    async def check(scope: dict[str, Any], receive: Any, send: Any) -> None:
        if pause_s:
            await asyncio.sleep(pause_s)
        headers = [(b"content-length", b"0"), (b"x-bailiwick-credential", b"Bearer S"), (b"x-request-id", b"r")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": b""})

    return check


if __name__ == "__main__":
    uvicorn.run(
        app(float(sys.argv[2]) if len(sys.argv) > 2 else 0.0),
        uds=sys.argv[1],
        access_log=False,
        log_level="critical",
        lifespan="off",
        timeout_keep_alive=30,
    )
