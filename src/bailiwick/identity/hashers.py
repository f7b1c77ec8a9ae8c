"""Processes that hash passwords behind everybody else, so that whoever signs in delays no decision.

In threads of the worker, hashing would share with its event loop the interpreter's lock, its slice of the processors
and its page tables. In a process of its own at idle priority (``hasher.py``) it shares nothing of the three, and what
argon2 fills goes back to the system with the process when nobody signs in.

Who stands behind everybody waits for ever on a machine that is never idle. So a job that is not done in ``patience_s``
is given to a process that does not stand behind, and so are those that come within the next seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from time import monotonic
from types import ModuleType
from typing import Any

import argon2

import bailiwick
from bailiwick.kernel.errors import Unavailable

_BOOTSTRAP = "import sys;sys.path[:0]=sys.argv[6:];from bailiwick.identity.hasher import main;main()"
# nothing of ours. What argon2 filled stays with the process for its next job: to fetch it from the system anew takes
# half as long again as the hash
_ENVIRONMENT = {
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(128 << 20),
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
IDLE_S = 60
PATIENCE_S = 1.0
IMPATIENT_S = 10.0


@dataclass(frozen=True, slots=True)
class Cost:
    """Argon2id's parameters. ``memory_kib`` is KiB a hash."""

    memory_kib: int
    passes: int
    lanes: int


def at_once() -> int:
    """How many hash at once for one worker: one for every four processors, and two at most.

    Idle priority does not help against what two threads of one core, and all cores of a machine, share: caches and the
    way to memory, which argon2 is made to fill. Of four processors, which are two cores, one hash at a time raises the
    99th percentile of decisions by a fifth, two at a time by a third.
    """
    return max(1, min(2, len(os.sched_getaffinity(0)) // 4))


class Hashers:
    """At most ``most`` processes (:func:`at_once`), each started when it is needed."""

    def __init__(
        self,
        cost: Cost,
        *,
        most: int | None = None,
        idle_s: int = IDLE_S,
        patience_s: float = PATIENCE_S,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._cost = cost
        self._idle_s = idle_s
        self._patience_s = patience_s
        self._clock = clock
        self._slots = asyncio.Semaphore(most or at_once())
        self._free: list[_Process] = []
        self._impatient_until = 0.0

    async def hash(self, password: str) -> str:
        """The argon2id hash; raises ``Unavailable`` (``not_ready``) where no process can be had."""
        return str(await self._do(None, password))

    async def matches(self, stored: str, password: str) -> bool:
        """Whether ``password`` is the one hashed as ``stored``; raises as :meth:`hash` does."""
        return await self._do(stored, password) is True

    def close(self) -> None:
        """End the processes."""
        for process in self._free:
            process.kill()
        self._free.clear()

    async def _do(self, stored: str | None, password: str) -> Any:
        job = json.dumps([stored, password]).encode() + b"\n"
        async with self._slots:
            if self._clock() >= self._impatient_until:
                try:
                    async with asyncio.timeout(self._patience_s):
                        return await self._ask(job, behind=True)
                except TimeoutError:
                    self._impatient_until = self._clock() + IMPATIENT_S
            return await self._ask(job, behind=False)

    async def _ask(self, job: bytes, *, behind: bool) -> Any:
        # a process that is free may be about to end, or have been killed: then the next is asked, and last a fresh one
        while free := next((each for each in self._free if each.behind == behind), None):
            self._free.remove(free)
            with contextlib.suppress(_Gone):
                return await self._answer(free, job)
        try:
            return await self._answer(await self._start(behind=behind), job)
        except (_Gone, OSError):
            raise Unavailable("Passwords cannot be checked now; try again.", headers={"Retry-After": "1"}) from None

    async def _answer(self, process: _Process, job: bytes) -> Any:
        try:
            answer = await process.ask(job)
        except BaseException:
            process.kill()  # whatever it says next would be taken for the answer to another job
            raise
        self._free.append(process)
        return answer

    async def _start(self, *, behind: bool) -> _Process:
        cost = self._cost
        numbers = (cost.memory_kib, cost.passes, cost.lanes, self._idle_s, int(behind))
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-I", "-S", "-c", _BOOTSTRAP, *map(str, numbers), *_roots()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=_ENVIRONMENT,
            cwd="/",
        )
        return _Process(process, behind)


class _Gone(Exception):
    """The process ended before it answered."""


class _Process:
    """One process, asked by one at a time."""

    def __init__(self, process: asyncio.subprocess.Process, behind: bool) -> None:
        self._process = process
        self.behind = behind

    async def ask(self, job: bytes) -> Any:
        """Its answer; raises :class:`_Gone`."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(job)
            await self._process.stdin.drain()
            line = await self._process.stdout.readline()
        except (OSError, RuntimeError):  # RuntimeError: what uvloop says of a pipe that it closed already
            raise _Gone from None
        if not line.endswith(b"\n"):
            raise _Gone
        return json.loads(line)

    def kill(self) -> None:
        """End it."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()


def _roots() -> list[str]:
    """Where the process finds what it imports, since it reads no site configuration."""
    modules: tuple[ModuleType, ...] = (bailiwick, argon2)
    found = [Path(each.__file__).resolve().parent.parent for each in modules if each.__file__]
    bindings = find_spec("_cffi_backend")  # argon2's; a module of its own, wherever it is installed
    if bindings is not None and bindings.origin:
        found.append(Path(bindings.origin).resolve().parent)
    return list(dict.fromkeys(map(str, found)))
