"""The supervisor: brings the parts up in stages, keeps them up, changes the number of workers, takes all of it down."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from pathlib import Path
from typing import Any

from bailiwick import __version__
from bailiwick.cli.supervisor.leftovers import boot_id, end_marked
from bailiwick.cli.supervisor.logsink import LogSink
from bailiwick.cli.supervisor.part import Exit, Pace, Part, State, Worker
from bailiwick.cli.supervisor.runner import Runner
from bailiwick.kernel.paths import Layout
from bailiwick.kernel.processes import started_at

_ROUTING_SECONDS = 10.0
_FENCE_ROUTING_SECONDS = 1.0

WorkersChanged = Callable[[Sequence[Worker]], Awaitable[None]]


class StartFailed(Exception):
    """A part did not come up. ``log_tail`` are the last lines it printed."""

    def __init__(self, part: str, cause: str, log_tail: Sequence[str], log: Path) -> None:
        self.part, self.cause, self.log_tail, self.log = part, cause, list(log_tail), log
        super().__init__(f"{part} did not start: {cause}")


class UnknownPart(Exception):
    """There is no part by that name, or it is not one that can do what was asked."""


@dataclass(frozen=True, slots=True)
class Progress:
    """A part reached ``state``, ``elapsed_ms`` after the supervisor began with it."""

    part: str
    title: str
    state: State
    elapsed_ms: float
    detail: str = ""


async def _nobody(_: Sequence[Worker]) -> None:
    return None


class Supervisor:
    """Runs ``parts`` and ``worker_count`` workers made by ``make_worker(slot)`` on ``layout``, which exists.

    The caller holds the layout's lock. ``on_workers_changed`` is given all workers that may take requests each time
    that set changes: after a new one is ready, and before one is stopped. ``reload`` is what the control command of
    that name does. ``run_id`` marks the processes of this life.
    """

    def __init__(
        self,
        layout: Layout,
        parts: Sequence[Part],
        *,
        run_id: str,
        now: Callable[[], datetime],
        make_worker: Callable[[str], Part] | None = None,
        worker_count: int = 0,
        on_workers_changed: WorkersChanged = _nobody,
        reload: Callable[[], Awaitable[None]] | None = None,
        addresses: Mapping[str, str] | None = None,
        pace: Pace | None = None,
        log_form: str = "json",
        observe: Callable[[Progress], None] = lambda _: None,
    ) -> None:
        self.layout = layout
        self.addresses = dict(addresses or {})
        self.log = self._new_sink_factory(now, log_form)("supervisor")
        self._new_sink = self._new_sink_factory(now, log_form)
        self._run_id = run_id
        self._now = now
        self._make_worker = make_worker
        self._on_workers_changed = on_workers_changed
        self._reload = reload
        self._pace = pace or Pace()
        self._observe = observe
        self._hasten = asyncio.Event()
        self._state = "starting"
        self._runners: dict[str, Runner] = {}
        self._told: tuple[Worker, ...] = ()
        self._telling = asyncio.Lock()
        self._tellers: set[asyncio.Task[None]] = set()
        self._resizing = asyncio.Lock()
        self._began = asyncio.get_running_loop().time()
        self.stop_asked = asyncio.Event()
        for part in parts:
            self._add(part)
        for number in range(1, worker_count + 1):
            assert make_worker is not None
            self._add(make_worker(f"w{number}"))

    # --- up and down

    async def start(self) -> None:
        """Bring every part up. Raises :class:`StartFailed`; what was started by then is still to be stopped."""
        self._publish()
        for runner in self._runners.values():
            runner.launch()
        ordered = sorted(self._runners.values(), key=lambda runner: runner.part.stage)
        for _, stage in groupby(ordered, key=lambda runner: runner.part.stage):
            await self._start_stage(list(stage))
            await self._tell_workers()  # before the gateway's stage, so that it begins with endpoints
        self._state = "ready"
        self._publish()

    async def stop(self) -> None:
        """Stop every part in order, then whatever their children left. Leaves no process."""
        self._state = "stopping"
        self._publish()
        ordered = sorted(self._runners.values(), key=lambda runner: runner.part.stop_rank)
        for _, rank in groupby(ordered, key=lambda runner: runner.part.stop_rank):
            # exceptions of one must not spare the others
            await asyncio.gather(*(runner.stop() for runner in rank), return_exceptions=True)
        for teller in self._tellers:
            teller.cancel()
        await end_marked(self._run_id)
        for runner in self._runners.values():
            if runner.part.worker:
                for socket in runner.part.worker:
                    socket.unlink(missing_ok=True)
        self._state = "stopped"
        self.log.event("stopped")
        self.log.close()

    def hasten(self) -> None:
        """Stop waiting for drains: whoever asked twice wants it gone."""
        self._hasten.set()

    def result(self, name: str) -> bytes:
        """What the one-shot ``name`` printed."""
        return self._runners[name].result

    # --- what may be asked while it runs

    @property
    def workers(self) -> tuple[Worker, ...]:
        """The workers that may take requests now."""
        found = (runner.worker for runner in self._runners.values())
        return tuple(sorted((worker for worker in found if worker), key=lambda worker: _slot_order(worker.slot)))

    def status(self) -> dict[str, Any]:
        """Everything known, as JSON values; the content of ``status.json``."""
        ordered = sorted(self._runners.values(), key=lambda runner: (runner.part.stage, _slot_order(runner.part.name)))
        parts = [runner.facts.as_json() for runner in ordered]
        steady = all(part["state"] in (State.READY, State.DONE) for part in parts)
        return {
            "version": __version__,
            "at": self._now().isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "state": "degraded" if self._state == "ready" and not steady else self._state,
            "pid": os.getpid(),
            "started_ticks": started_at(os.getpid()),
            "boot_id": boot_id(),
            "run_id": self._run_id,
            "data_dir": str(self.layout.data_dir),
            "addresses": self.addresses,
            "parts": parts,
        }

    async def set_workers(self, count: int) -> list[str]:
        """Have ``count`` workers, ending the highest slots first; the slots there are then.

        Raises :class:`StartFailed` when a new one does not come up; the ones before stay as they were.
        """
        if self._make_worker is None or not 1 <= count <= 64:
            raise UnknownPart("workers are numbered from 1 to 64")
        async with self._resizing:
            have = sorted((name for name, runner in self._runners.items() if runner.part.worker), key=_slot_order)
            leaving = [self._runners[name] for name in have[count:]]
            free = (f"w{number}" for number in range(1, 129) if f"w{number}" not in self._runners)
            joining = [self._add(self._make_worker(next(free))) for _ in range(count - len(have))]
            try:
                for runner in joining:
                    runner.launch()
                await self._start_stage(joining)
            except StartFailed:
                leaving = joining
                raise
            finally:
                await asyncio.gather(*(runner.stop() for runner in leaving))
                for runner in leaving:
                    del self._runners[runner.part.name]
                await self._tell_workers()
                self._publish()
            self.log.event(f"workers: {count}")
            return sorted((name for name, runner in self._runners.items() if runner.part.worker), key=_slot_order)

    async def restart(self, name: str) -> bool:
        """Restart one part in good order; True when it is ready again. Raises :class:`UnknownPart`."""
        runner = self._running(name)
        self.log.event(f"restart of {name} asked for")
        return await runner.restart()

    async def fence(self, name: str) -> Exit | None:
        """SIGKILL one part and return when it is gone and no longer routed to. Raises :class:`UnknownPart`."""
        runner = self._running(name)
        ended = await runner.fence()
        with contextlib.suppress(TimeoutError):
            # it is dead and takes nothing any more; a slow gateway must not hold up the answer for long
            await asyncio.wait_for(self._tell_workers(), _FENCE_ROUTING_SECONDS)
        self.log.event(f"fenced {name}", "WARNING", pid=ended.pid if ended else None)
        return ended

    async def reload(self) -> None:
        """Have the installation read again what can be read again."""
        if self._reload is not None:
            await self._reload()
        self.log.event("reloaded")

    # --- inside

    def _add(self, part: Part) -> Runner:
        runner = self._runners[part.name] = Runner(
            part,
            pace=self._pace,
            run_id=self._run_id,
            sink=self._new_sink(part.name),
            now=self._now,
            changed=self._changed,
            leave=self._tell_workers if part.worker else _nothing,
            hasten=self._hasten,
        )
        return runner

    def _running(self, name: str) -> Runner:
        runner = self._runners.get(name)
        if runner is None or runner.part.once:
            raise UnknownPart(f"there is no part {name!r}; there are {', '.join(self._names())}")
        return runner

    def _names(self) -> list[str]:
        return [name for name, runner in self._runners.items() if not runner.part.once]

    async def _start_stage(self, stage: Sequence[Runner]) -> None:
        began = asyncio.get_running_loop().time()
        for runner in stage:
            runner.go()

        async def settle(runner: Runner) -> None:
            await runner.settled.wait()
            elapsed = (asyncio.get_running_loop().time() - began) * 1000
            self._observe(
                Progress(runner.part.name, runner.part.title, runner.facts.state, elapsed, detail=runner.failure)
            )
            if runner.facts.state not in (State.READY, State.DONE):
                raise StartFailed(
                    runner.part.name, runner.failure or str(runner.facts.state), runner.sink.tail(8), runner.sink.path
                )

        tasks = [asyncio.create_task(settle(runner)) for runner in stage]
        try:
            await asyncio.gather(*tasks)
        finally:
            for task in tasks:
                task.cancel()

    def _changed(self, runner: Runner) -> None:
        self._publish()
        # a worker that died is left out, and one that came back is let in, without anybody asking
        if runner.part.worker and self._state in ("ready", "degraded") and self.workers != self._told:
            teller = asyncio.create_task(self._tell_workers())
            self._tellers.add(teller)
            teller.add_done_callback(self._tellers.discard)

    async def _tell_workers(self) -> None:
        """Tell the gateway which workers there are; returns when it has heard."""
        async with self._telling:
            current = self.workers
            if current == self._told or self._state == "stopping":
                return
            try:
                async with asyncio.timeout(_ROUTING_SECONDS):
                    await self._on_workers_changed(current)
                self._told = current
            except Exception as error:  # noqa: BLE001 - tried again at the next change; workers must not die of it
                self.log.event(f"telling the gateway about its workers failed: {error!r}", "ERROR")

    def _publish(self) -> None:
        path = self.layout.status_file
        try:
            new = path.with_suffix(".new")
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with os.fdopen(fd, "w") as file:
                json.dump(self.status(), file)
            new.replace(path)
        except OSError as error:
            self.log.event(f"status.json cannot be written: {error.strerror}", "ERROR")

    def _new_sink_factory(self, now: Callable[[], datetime], form: str) -> Callable[[str], LogSink]:
        return lambda part: LogSink(self.layout.log(part), part, now=now, form=form)


async def _nothing() -> None:
    return None


def _slot_order(slot: str) -> tuple[int, str]:
    return (len(slot), slot)
