"""A guard in a process of its own, to be killed: `python standin_guard.py SOCKET`."""

from __future__ import annotations

import asyncio
import sys
import time
from pathlib import Path

from bailiwick.gateway.guard import Guard, GuardServer


async def main() -> None:
    guard = Guard(is_live=lambda _: True, now=time.time, monotonic=time.monotonic, stale_after_s=3600)
    guard.heard()
    server = GuardServer(guard, Path(sys.argv[1]))
    await server.start()
    await asyncio.sleep(3600)
    await server.stop()


if __name__ == "__main__":
    asyncio.run(main())
