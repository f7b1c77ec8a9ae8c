"""Processes that are killed: a worker that appends without end, and a sequencer that dies at a chosen step."""

from __future__ import annotations

import asyncio
import fcntl
import multiprocessing
import os
import signal
from collections.abc import Callable
from contextlib import asynccontextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import psycopg
from ledger_world import SMALL_SEGMENT, World

from bailiwick.evidence.events import encode
from bailiwick.evidence.frames import Kind
from bailiwick.evidence.spool import Files, Spool

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


class Countdown:
    """Dies when the last of ``calls`` calls that change something is about to be made."""

    def __init__(self, calls: int) -> None:
        self._left = calls

    def last(self) -> bool:
        """Whether this call is the one."""
        self._left -= 1
        return self._left == 0

    def __call__(self) -> None:
        if self.last():
            os.kill(os.getpid(), signal.SIGKILL)

    def on(self, owner: Any, *names: str) -> None:
        """Count the calls of these functions of a module or class."""
        for name in names:
            setattr(owner, name, self._counted(getattr(owner, name)))

    def _counted(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def counted(*arguments: Any, **more: Any) -> Any:
            self()
            return function(*arguments, **more)

        return counted


def _on_database(countdown: Countdown) -> None:
    """Count every statement that changes something, every commit, and both ends of a COPY."""
    execute, copy = psycopg.AsyncCursor.execute, psycopg.AsyncCursor.copy

    async def counted(self: Any, query: Any, *arguments: Any, **more: Any) -> Any:
        if str(query).lstrip()[:6].upper() in {"INSERT", "DELETE", "UPDATE"}:
            countdown()
        return await execute(self, query, *arguments, **more)

    @asynccontextmanager
    async def copied(self: Any, *arguments: Any, **more: Any) -> Any:
        countdown()
        async with copy(self, *arguments, **more) as copying:
            yield copying
            countdown()

    psycopg.AsyncCursor.execute = counted  # type: ignore[assignment,method-assign]
    psycopg.AsyncCursor.copy = copied  # type: ignore[assignment,method-assign]
    countdown.on(psycopg.AsyncCursor, "executemany")
    countdown.on(psycopg.AsyncConnection, "commit")


def sequence_until_write(url: str, root: str, calls: int) -> None:
    """Sequence everything there is, but die at the ``calls``-th write of any kind (from 1)."""
    countdown = Countdown(calls)
    _on_database(countdown)
    countdown.on(os, "fsync", "replace", "rename", "unlink", "rmdir")

    async def drain() -> None:
        world = World(url, Path(root))
        await world.sequencer(batch_events=7).drain()
        await world.close()

    asyncio.run(drain())


class CutShort(Files):
    """Dies at a call, and as if the machine did: of what was not synced nothing is on disk, or half of it."""

    def __init__(self, countdown: Countdown) -> None:
        self._countdown = countdown
        self._unsynced: dict[int, list[tuple[bytes, int]]] = {}

    def create(self, path: Path) -> int:
        self._countdown()
        return super().create(path)

    def write(self, fd: int, data: bytes, offset: int) -> None:
        self._countdown()
        self._unsynced.setdefault(fd, []).append((data, offset))

    def sync(self, fd: int) -> None:
        last = self._countdown.last()
        for data, offset in self._unsynced.pop(fd, []):
            super().write(fd, data[: len(data) // 2] if last else data, offset)
        if last:
            os.kill(os.getpid(), signal.SIGKILL)
        super().sync(fd)


def append_until_write(root: str, slot: str, acknowledged: str, calls: int) -> None:
    """Append over three segments, noting what is acknowledged; die at the ``calls``-th write of any kind (from 1)."""
    countdown = Countdown(calls)
    countdown.on(os, "fsync", "replace", "rename", "mkdir")
    countdown.on(fcntl, "flock")

    async def append() -> None:
        world = World("postgresql:///", Path(root))
        spool = Spool(world.spool_root, slot, world.ids(), segment_bytes=SMALL_SEGMENT, files=CutShort(countdown))
        await spool.start()
        note = os.open(acknowledged, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        for _ in range(10):
            event = world.event()
            # an event may not be large, what it was decided on may
            await spool.append_many(
                [(Kind.INPUT, "default", os.urandom(250_000)), (Kind.EVENT, "default", encode(event))]
            )
            os.write(note, event.id.encode() + b"\n")
        await spool.close()

    asyncio.run(append())
