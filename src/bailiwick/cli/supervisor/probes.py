"""Questions that tell whether a part lives and is ready, over its unix socket."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

_LONGEST_ANSWER = 64 << 10


async def http_get(socket: Path, path: str) -> tuple[int, bytes]:
    """Status and body of a GET of ``path`` over ``socket``. Raises :class:`OSError` or :class:`ValueError`."""
    reader, writer = await asyncio.open_unix_connection(socket)
    try:
        # version 1.0: the body ends with the connection and is never chunked
        writer.write(f"GET {path} HTTP/1.0\r\nhost: localhost\r\n\r\n".encode())
        version, status, *_ = (await reader.readline()).split(b" ", 2)
        if not version.startswith(b"HTTP/1."):
            raise ValueError("not an HTTP answer")
        rest = b""
        while len(rest) < _LONGEST_ANSWER and (more := await reader.read(_LONGEST_ANSWER - len(rest))):
            rest += more  # head and body may arrive apart
        return int(status), rest.partition(b"\r\n\r\n")[2]
    finally:
        writer.close()


def http_probe(socket: Path, path: str, *also_listening: Path) -> Callable[[], Awaitable[bool]]:
    """True when ``path`` answers 200 over ``socket`` and every socket of ``also_listening`` takes connections."""

    async def probe() -> bool:
        for other in also_listening:
            _, writer = await asyncio.open_unix_connection(other)
            writer.close()
        return (await http_get(socket, path))[0] == 200

    return probe


async def asked(probe: Callable[[], Awaitable[bool]], limit: float) -> bool:
    """Ask ``probe`` once; no, late, and cannot say are all False."""
    try:
        async with asyncio.timeout(limit):
            return await probe()
    except Exception:  # noqa: BLE001 - whatever went wrong, the part did not say yes
        return False
