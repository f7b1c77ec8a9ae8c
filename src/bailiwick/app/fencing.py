"""Fencing a worker that does not confirm a revocation: killed through this machine's supervisor."""

from __future__ import annotations

import asyncio
import json
import socket
from pathlib import Path

_LIMIT_S = 5.0


class Fence:
    """Asks the supervisor. A worker of another machine is out of reach, and without a supervisor so is every other."""

    def __init__(self, control_socket: Path) -> None:
        self._control_socket = control_socket
        self._host = socket.gethostname()

    async def __call__(self, host: str, slot: str) -> bool:
        """Make sure the worker at ``slot`` of ``host`` answers nothing more; False when we could not."""
        if host != self._host:
            return False
        try:
            async with asyncio.timeout(_LIMIT_S):
                reader, writer = await asyncio.open_unix_connection(self._control_socket)
                try:
                    writer.write(json.dumps({"do": "fence", "part": slot}).encode() + b"\n")
                    await writer.drain()
                    return bool(json.loads(await reader.readline()).get("ok"))
                finally:
                    writer.close()
        except (OSError, ValueError, TimeoutError):
            return False
