"""Seals in a process of its own that ends, as if killed, at a step: ``python archive_child.py url root now step``."""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import datetime
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parent.parent / "evidence")]

from archive_world import ArchiveWorld  # noqa: E402

from bailiwick.kernel.clock import FakeClock  # noqa: E402


async def main(url: str, root: str, now: str, step: str) -> None:
    world = ArchiveWorld(url, Path(root), FakeClock(datetime.fromisoformat(now)))
    await world.archivist(fault=lambda at: os._exit(9) if at == step else None, rows=120).run("default")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
