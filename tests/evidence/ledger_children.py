"""Processes that are killed: a worker that appends without end, and a sequencer that dies at a chosen step."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
from collections.abc import Callable
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from ledger_world import World

from bailiwick.evidence.events import encode
from bailiwick.evidence.frames import Kind

_context = multiprocessing.get_context("forkserver")
# the fork server does not have our sys.path: what is installed is what it can have ready
_context.set_forkserver_preload(["bailiwick.evidence.sequencer", "bailiwick.kernel.migrate", "joserfc.jwk", "pytest"])


def start(target: Callable[..., None], *arguments: Any) -> ForkServerProcess:
    """A process that runs ``target``, forked from one that has everything imported and no threads."""
    process = _context.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def write_forever(url: str, root: str, slot: str, acknowledged: str) -> None:
    """Append events and note the id of each once it is acknowledged."""
    asyncio.run(_write_forever(url, Path(root), slot, acknowledged))


async def _write_forever(url: str, root: Path, slot: str, acknowledged: str) -> None:
    world = World(url, root)
    spool = await world.spool(slot)
    note = os.open(acknowledged, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    async def client() -> None:
        while True:
            event = world.event(path="x" * 4000)
            await spool.append(Kind.EVENT, "default", encode(event))
            os.write(note, event.id.encode() + b"\n")

    await asyncio.gather(*[client() for _ in range(8)])


def sequence_until(url: str, root: str, step: str, countdown: int) -> None:
    """Sequence everything there is, but die when ``step`` is reached for the ``countdown``-th time (from 0)."""
    left = countdown

    def fault(reached: str) -> None:
        nonlocal left
        if reached == step:
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)

    async def drain() -> None:
        world = World(url, Path(root))
        await world.sequencer(fault=fault, batch_events=7).drain()
        await world.close()

    asyncio.run(drain())
