"""Keeps one part running: spawn, wait until ready, watch, and start again with back-off when it dies or hangs."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import os
import signal
import subprocess
from collections.abc import Awaitable, Callable
from datetime import datetime

from bailiwick.cli.supervisor.logsink import LogSink, Pump
from bailiwick.cli.supervisor.part import (
    Backoff,
    Exit,
    Facts,
    Pace,
    Part,
    Pulse,
    State,
    Worker,
    describe_exit,
)
from bailiwick.cli.supervisor.probes import asked
from bailiwick.kernel.processes import Child

RUN_ID = "BAILIWICK_RUN_ID"
"""Environment variable that marks every process of one life of the supervisor, so that leftovers can be told."""

_HASTENED_RUNG = 2.0
_LONGEST_RESULT = 64 << 10
_FENCE_SECONDS = 5.0


class Runner:
    """The life of one part.

    ``changed`` is called after every change of :attr:`facts`; ``leave`` takes it out of use before it is stopped.
    """

    def __init__(
        self,
        part: Part,
        *,
        pace: Pace,
        run_id: str,
        sink: LogSink,
        now: Callable[[], datetime],
        changed: Callable[[Runner], None],
        leave: Callable[[], Awaitable[None]],
        hasten: asyncio.Event,
    ) -> None:
        self.part = part
        self.facts = Facts(part.name)
        self.sink = sink
        self.result = b""  # what a one-shot printed
        self.failure = ""
        self.child: Child | None = None
        self.settled = asyncio.Event()  # ready, done, failed or stopped
        self._pace = pace
        self._run_id = run_id
        self._now = now
        self._changed = changed
        self._leave = leave
        self._hasten = hasten
        self._go = asyncio.Event()
        self._stopping = False
        self._restarting = False
        self._came_up = False
        self._cause: str | None = None  # why we ended the running process
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def worker(self) -> Worker | None:
        """What Envoy may send requests to, while the part is ready."""
        if self.part.worker is None or self.facts.state is not State.READY:
            return None
        if self.child is None or self.child.returncode is not None:
            return None
        return Worker(self.part.name, self.child.pid, *self.part.worker)

    def launch(self) -> None:
        """Begin; a part that holds is spawned now, any other when :meth:`go` is called."""
        self._task = asyncio.create_task(self._live(), name=f"part {self.part.name}")

    def go(self) -> None:
        """The parts before this one are ready."""
        self._go.set()

    async def stop(self) -> None:
        """Drain and stop for good."""
        self._stopping = True
        self._wake.set()
        if self.child is not None:
            await self._end(self.child, "stopped")
        elif self._task is not None:
            self._task.cancel()
        if self._task is not None:
            await asyncio.wait([self._task])
        if self.facts.state not in (State.DONE, State.FAILED):
            self._become(State.STOPPED)
        self.sink.close()

    async def restart(self) -> bool:
        """Drain, stop, start again at once, and wait; True when it is ready again."""
        self._restarting = True
        self.settled.clear()
        self._wake.set()
        if self.child is not None:
            await self._end(self.child, "restart asked for")
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.settled.wait(), self.part.start_seconds)
        return self.facts.state is State.READY

    async def fence(self) -> Exit | None:
        """SIGKILL it now, stopped or not, and return once it is gone; None when there was no process.

        Raises :class:`TimeoutError` when the kernel does not end it in time.
        """
        child = self.child
        if child is None or child.returncode is not None:
            return None
        self._cause = "fenced"
        child.send(signal.SIGKILL)
        if not await child.gone_within(_FENCE_SECONDS):
            raise TimeoutError
        return Exit(self.part.name, child.pid, await child.wait(), True, "fenced")

    # --- the life of a part

    async def _live(self) -> None:
        backoff = Backoff(self._pace)
        attempts = 0
        try:
            while not self._stopping:
                if not self.part.hold or self._came_up:
                    await self._go.wait()
                lived, code = await self._one_life()
                if self._stopping or self.part.once:
                    return
                if self._restarting:
                    self._restarting = False
                    continue
                if not self._came_up:
                    attempts += 1
                    # a part that exits 2 says that its configuration is wrong: trying again cannot help
                    if code == 2 or attempts >= self._pace.start_attempts:
                        self._become(State.FAILED)
                        return
                else:
                    self.facts.restarts += 1
                self._become(State.BACKING_OFF)
                self._wake.clear()
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._wake.wait(), backoff.next_delay(lived))
                self._restarting = False
        except Exception as error:  # noqa: BLE001 - one part's fault must not take the others along unsaid
            self.failure = f"{type(error).__name__}: {error}"
            self.sink.event(self.failure, "ERROR")
            self._become(State.FAILED)

    async def _one_life(self) -> tuple[float, int]:
        """Start it once and stay until it is gone; seconds it was ready, and its return code."""
        self._cause = None
        self._become(State.WAITING if not self._go.is_set() else State.STARTING)
        loop = asyncio.get_running_loop()
        pumps: list[Pump] = []
        try:
            if self.part.before_start is not None:
                await self.part.before_start()
            child = self._spawn(pumps)
        except Exception as error:  # noqa: BLE001 - reported as the reason of the failed start
            self.failure = str(error) or type(error).__name__
            self.sink.event(self.failure, "ERROR")
            if self.part.once:
                self._become(State.FAILED)
            return 0.0, 1
        ready_at: float | None = None
        try:
            self._became_running(child)
            await self._release(child)
            if self.part.once:
                await self._wait_at_most(child, self.part.start_seconds)
            elif await self._until_ready(child):
                ready_at = loop.time()
                self._came_up = True
                self._become(State.READY)
                await self._watch(child)
            code = await child.wait()
        except asyncio.CancelledError:
            child.send(signal.SIGKILL)
            await child.wait()
            raise
        finally:
            for pump in pumps:
                pump.close()
            if child.stdin is not None:
                child.stdin.close()
        await self._ended(child, code)
        return (loop.time() - ready_at if ready_at else 0.0), code

    def _spawn(self, pumps: list[Pump]) -> Child:
        command = self.part.command()
        held = self.part.hold is not None and not self._go.is_set()
        argv = [*command.argv, self.part.hold] if held and self.part.hold else command.argv
        command = dataclasses.replace(command, argv=argv, env={**command.env, RUN_ID: self._run_id})
        stdin = self.part.stdin() if self.part.stdin else None
        try:
            child = self.part.spawn(
                command,
                stdin=subprocess.PIPE if held else stdin,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE if self.part.once else subprocess.STDOUT,
            )
        finally:
            if stdin is not None:
                os.close(stdin)
        assert child.stdout is not None
        pumps.append(Pump(child.stdout, self._keep_result if self.part.once else self.sink.write))
        if child.stderr is not None:
            pumps.append(Pump(child.stderr, self.sink.write))
        return child

    def _became_running(self, child: Child) -> None:
        self.child = child
        self.facts.pid, self.facts.started_ticks = child.pid, child.started
        self.facts.since = self._now().isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self._changed(self)

    async def _release(self, child: Child) -> None:
        """Let a held child go on once its turn has come; return early when it dies waiting."""
        if child.stdin is None:
            return
        gone, turn = asyncio.ensure_future(child.wait()), asyncio.ensure_future(self._go.wait())
        try:
            await asyncio.wait([gone, turn], return_when=asyncio.FIRST_COMPLETED)
        finally:
            gone.cancel()
            turn.cancel()
        if child.returncode is None:
            self._become(State.STARTING)
            with contextlib.suppress(BrokenPipeError):
                child.stdin.write(b"go\n")
                child.stdin.close()

    async def _until_ready(self, child: Child) -> bool:
        deadline = asyncio.get_running_loop().time() + self.part.start_seconds
        while asyncio.get_running_loop().time() < deadline:
            if await asked(self.part.ready, self._pace.probe_limit) and child.returncode is None:
                return True
            if await child.gone_within(self._pace.start_poll):
                return False
        self._kill(child, f"not ready after {self.part.start_seconds:.0f} s")
        return False

    async def _watch(self, child: Child) -> None:
        pulse = Pulse(self.part.hang_seconds)
        while not await child.gone_within(self._pace.probe_every):
            if self._cause is not None:
                continue  # being stopped: it may well have closed its socket
            answered = await asked(self.part.alive, self._pace.probe_limit)
            if pulse.beat(answered, asyncio.get_running_loop().time()) and self._cause is None:
                self._kill(child, f"hung: no answer for {self.part.hang_seconds:.0f} s")
                return

    async def _wait_at_most(self, child: Child, seconds: float) -> None:
        if not await child.gone_within(seconds):
            self._kill(child, f"not done after {seconds:.0f} s")

    async def _ended(self, child: Child, code: int) -> None:
        expected = self._cause is not None
        cause = self._cause or describe_exit(code)
        self.child = None
        self.facts.pid = self.facts.started_ticks = self.facts.since = None
        self.facts.last_exit = cause
        if not self._stopping or not expected:
            self.sink.event(f"{self.part.name} ended: {cause}", "INFO" if code == 0 else "ERROR", pid=child.pid)
        if self.part.once:
            self.failure = "" if code == 0 else cause
            self._become(State.DONE if code == 0 else State.FAILED)
        else:
            if not self._came_up:
                self.failure = cause
            self._become(State.BACKING_OFF)
        if self.part.on_exit is not None:
            await self.part.on_exit(Exit(self.part.name, child.pid, code, expected, cause))

    async def _end(self, child: Child, cause: str) -> None:
        """Take it out of use, then climb its ladder of signals."""
        was_ready = self.facts.state is State.READY
        self._cause = cause
        self._become(State.DRAINING)
        if was_ready:
            await self._leave()
            if self.part.before_stop is not None:
                await self._unless_hastened(self.part.before_stop(), self.part.drain_seconds)
        for number, seconds in self.part.ladder:
            child.send(number)
            child.send(signal.SIGCONT)  # a stopped process could not heed it
            limit = min(seconds, _HASTENED_RUNG) if self._hasten.is_set() else seconds
            await self._unless_hastened(child.wait(), limit)
            if child.returncode is not None:
                return
        child.send(signal.SIGKILL)
        await child.wait()

    async def _unless_hastened(self, awaitable: Awaitable[object], seconds: float) -> None:
        """Wait for ``awaitable``, at most ``seconds``, and no longer than until somebody is in a hurry."""
        work = asyncio.ensure_future(awaitable)
        waits: set[asyncio.Future[object]] = {work}
        if not self._hasten.is_set():
            waits.add(asyncio.ensure_future(self._hasten.wait()))
        done, pending = await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        for future in pending:
            future.cancel()
        if work in done and not work.cancelled() and (error := work.exception()) is not None:
            self.sink.event(f"{self.part.name}: draining failed: {error}", "ERROR")

    def _kill(self, child: Child, cause: str) -> None:
        self._cause = self.failure = cause
        self.sink.event(f"{self.part.name} is killed: {cause}", "ERROR", pid=child.pid)
        child.send(signal.SIGKILL)

    def _keep_result(self, line: bytes) -> None:
        if len(self.result) + len(line) < _LONGEST_RESULT:
            self.result += line + b"\n"

    def _become(self, state: State) -> None:
        self.facts.state = state
        if state in (State.READY, State.DONE, State.FAILED, State.STOPPED):
            self.settled.set()
        self._changed(self)
