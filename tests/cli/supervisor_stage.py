"""What the supervisor's tests share: stand-in parts, and a supervisor of them that is always stopped."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bailiwick.cli.supervisor.part import Pace, Part, Worker
from bailiwick.cli.supervisor.probes import http_get, http_probe
from bailiwick.cli.supervisor.supervisor import Supervisor
from bailiwick.kernel.paths import Layout
from bailiwick.kernel.processes import Command, started_at

STANDIN = (sys.executable, "-S", "-E", str(Path(__file__).parent / "standin.py"))
QUICK = Pace(first_backoff=0.02, longest_backoff=0.2, probe_every=0.03, probe_limit=0.2, start_poll=0.01)


@dataclass
class Stage:
    """Stand-ins on one layout."""

    layout: Layout
    orders: Path
    told: list[tuple[str, ...]] = field(default_factory=list)
    alive_when_told: list[set[str]] = field(default_factory=list)
    pids: dict[str, int] = field(default_factory=dict)

    def order(self, name: str, what: str) -> None:
        (self.orders / f"{name}.{what}").touch()

    def lift(self, name: str, what: str) -> None:
        (self.orders / f"{name}.{what}").unlink()

    def part(self, name: str, *, stage: int = 30, stop_rank: int = 20, **changes: Any) -> Part:
        sockets = self.layout.slot(name)
        environment = {"STANDIN_RUN": str(self.layout.run), "STANDIN_ORDERS": str(self.orders)}

        async def clean() -> None:
            sockets.create()

        part = Part(
            name=name,
            command=lambda: Command([*STANDIN, "serve", "--slot", name], environment),
            ready=http_probe(sockets.api, "/health/ready"),
            alive=http_probe(sockets.api, "/health/live"),
            stage=stage,
            stop_rank=stop_rank,
            start_seconds=5.0,
            drain_seconds=3.0,
            hang_seconds=0.3,
            before_start=clean,
        )
        return replace(part, **changes)

    def worker(self, slot: str) -> Part:
        sockets = self.layout.slot(slot)
        return self.part(slot, worker=(sockets.api, sockets.check))

    async def on_workers_changed(self, workers: Sequence[Worker]) -> None:
        self.pids.update({worker.slot: worker.pid for worker in workers})
        self.told.append(tuple(worker.slot for worker in workers))
        self.alive_when_told.append({slot for slot, pid in self.pids.items() if started_at(pid) is not None})

    @asynccontextmanager
    async def running(self, *parts: Part, workers: int = 0, **changes: Any) -> AsyncIterator[Supervisor]:
        supervisor = self.supervisor(*parts, workers=workers, **changes)
        try:
            await supervisor.start()
            yield supervisor
        finally:
            await supervisor.stop()

    def supervisor(self, *parts: Part, workers: int = 0, **changes: Any) -> Supervisor:
        arguments: dict[str, Any] = {
            "run_id": os.urandom(8).hex(),
            "now": lambda: datetime.now(UTC),
            "make_worker": self.worker,
            "worker_count": workers,
            "on_workers_changed": self.on_workers_changed,
            "pace": QUICK,
        }
        return Supervisor(self.layout, parts, **(arguments | changes))

    async def crash(self, name: str) -> None:
        with_nothing = (OSError, ValueError)
        try:
            await http_get(self.layout.slot(name).api, "/crash")
        except with_nothing:
            return
        raise AssertionError(f"{name} answered instead of dying")


async def until(condition: Callable[[], Any | Awaitable[Any]], seconds: float = 8.0) -> None:
    """Return as soon as ``condition`` holds; fail when it does not in time."""
    async with asyncio.timeout(seconds):
        while True:
            found = condition()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return
            await asyncio.sleep(0.01)


def facts(supervisor: Supervisor, name: str) -> dict[str, Any]:
    return next(part for part in supervisor.status()["parts"] if part["name"] == name)


def gone(pid: int) -> bool:
    return started_at(pid) is None
