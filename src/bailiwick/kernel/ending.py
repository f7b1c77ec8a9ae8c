"""Ending a task for certain."""

from __future__ import annotations

import asyncio
from typing import Any

AGAIN_S = 5.0


async def end(task: asyncio.Task[Any], *, again_s: float = AGAIN_S) -> None:
    """Cancel ``task`` until it has ended, and take note of nothing it says.

    Once is not always enough: a library that is interrupted while it tidies up may raise another error instead, which
    a loop that is made to survive errors then survives.
    """
    while not task.done():
        task.cancel()
        await asyncio.wait([task], timeout=again_s)
    if not task.cancelled():
        task.exception()  # or asyncio tells of one that nobody took
