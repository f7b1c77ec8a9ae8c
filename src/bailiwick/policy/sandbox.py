"""A process that may die of what it runs: no environment, nothing open but its pipes, limits of its own."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

_MIB = 1024 * 1024
_ENVIRONMENT = {"MIMALLOC_ARENA_RESERVE": "16MiB"}
"""Nothing of ours. The engine's allocator would otherwise reserve a gigabyte and crash where the limit refuses it."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What one run may use. ``memory`` is address space in bytes, times are seconds."""

    wall_seconds: float = 20.0
    cpu_seconds: int = 12
    memory: int = 768 * _MIB


class SandboxFailed(Exception):
    """The process did not answer. ``fault`` is a key of ``kernel.errors.REASONS``."""

    def __init__(self, fault: str) -> None:
        super().__init__(fault)
        self.fault = fault


class Sandbox:
    """Runs ``module.main()`` with a payload on its standard input; at most ``at_once`` at the same time.

    ``packages`` are the packages the module imports beside the standard library. The module is handed the limits as
    arguments (bytes of memory, seconds of CPU) and sets them before it reads anything.
    """

    def __init__(
        self, module: str, packages: Sequence[ModuleType], limits: Limits | None = None, *, at_once: int = 2
    ) -> None:
        self._bootstrap = f"import sys;sys.path[:0]=sys.argv[3:];from {module} import main;main()"
        self._roots = list(
            dict.fromkeys(str(Path(each.__file__).resolve().parent.parent) for each in packages if each.__file__)
        )
        self._limits = limits or Limits()
        self._slots = asyncio.Semaphore(at_once)

    async def run(self, payload: bytes) -> bytes:
        """What the process wrote. Raises :class:`SandboxFailed` for every other end."""
        async with self._slots:
            return await self._run(payload)

    async def _run(self, payload: bytes) -> bytes:
        limits = self._limits
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-I", "-S", "-c", self._bootstrap, str(limits.memory), str(limits.cpu_seconds), *self._roots),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=_ENVIRONMENT,
            cwd="/",
            start_new_session=True,
        )
        timed_out = False
        communication = asyncio.ensure_future(process.communicate(payload))
        try:
            done, _ = await asyncio.wait({communication}, timeout=limits.wall_seconds)
            timed_out = not done
        finally:
            if process.returncode is None and not communication.done():
                process.kill()
        out, err = await communication
        if timed_out or process.returncode in (-signal.SIGXCPU, -signal.SIGKILL):
            raise SandboxFailed("policy_timeout")
        if b"memory allocation of" in err or b"MemoryError" in err or b"capacity overflow" in err:
            raise SandboxFailed("policy_out_of_memory")
        if process.returncode != 0:
            raise SandboxFailed("policy_engine_crashed")
        return out
