"""The processes a demonstration starts itself: the payments API, and a stack of its own. Neither outlives it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from bailiwick.cli.demo.payments import KEY_VARIABLE
from bailiwick.cli.supervisor.ports import free_ports
from bailiwick.kernel.paths import Layout
from bailiwick.kernel.processes import child_setup

UPSTREAM_NETWORK = "127.0.0.0/8"
_START_S = 60.0
_STOP_S = 45.0


class NotStarted(Exception):
    """One of our own processes did not start; the text says which and why."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """A running payments API: its address, the key it demands, and where it tells what reached it."""

    url: str
    key: str
    seen_url: str


@asynccontextmanager
async def payments_api(key: str) -> AsyncIterator[Upstream]:
    """A payments API that demands ``key``, for as long as the context lasts."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "bailiwick.cli.demo.payments",
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        env={**os.environ, KEY_VARIABLE: key},  # not an argument: those are everybody's to read
        start_new_session=True,
        preexec_fn=child_setup(death_signal=signal.SIGKILL),
    )
    try:
        assert process.stdout is not None
        try:
            async with asyncio.timeout(_START_S):
                ports = json.loads(await process.stdout.readline())
        except (TimeoutError, ValueError):
            raise NotStarted("the payments API did not start") from None
        here = "http://127.0.0.1"
        yield Upstream(f"{here}:{ports['port']}", key, f"{here}:{ports['seen_port']}/_seen")
    finally:
        await _stop(process, 5.0)


@asynccontextmanager
async def own_stack(workers: int, told: Callable[[str], None]) -> AsyncIterator[Layout]:
    """A whole installation in a new temporary directory on free ports; stopped and removed on leaving.

    ``told`` takes each line it prints while it starts.
    """
    directory = Path(tempfile.mkdtemp(prefix="bailiwick-demo-"))
    layout = Layout(directory / "data")
    try:
        process, announced = await _start(layout, workers)
        try:
            await _until_ready(process, announced, told)
            yield layout
        finally:
            await _stop(process, _STOP_S)
    finally:
        remove_run(Layout(layout.data_dir))
        shutil.rmtree(directory, ignore_errors=True)


def remove_run(layout: Layout) -> None:
    """Remove the run directory of a stopped installation, which stands elsewhere where its own paths are too long."""
    with contextlib.suppress(FileNotFoundError):
        if layout.run.lstat().st_uid == os.geteuid():
            shutil.rmtree(layout.run, ignore_errors=True)


@dataclass(slots=True)
class OwnInstallation:
    """An installation that is started, stopped, and started again on what it left, each time with other options."""

    layout: Layout
    workers: int
    settings: Mapping[str, str] = field(default_factory=dict)
    ports: tuple[int, int] | None = None
    _process: asyncio.subprocess.Process | None = None

    async def start(self, told: Callable[[str], None], *options: str) -> None:
        """Start it with ``options`` beside its own. Raises :class:`NotStarted`."""
        self.ports = self.ports or (lambda found: (found[0], found[1]))(free_ports(2))
        started = await _start(self.layout, self.workers, self.ports, options, self.settings)
        self._process = started[0]
        await _until_ready(*started, told)

    async def stop(self) -> None:
        """Stop it in good order; nothing where it does not run."""
        if self._process is not None:
            await _stop(self._process, _STOP_S)
            self._process = None


async def _start(
    layout: Layout,
    workers: int,
    ports: tuple[int, int] | None = None,
    options: Sequence[str] = (),
    settings: Mapping[str, str] = MappingProxyType({}),
) -> tuple[asyncio.subprocess.Process, int]:
    api_port, gateway_port = ports or free_ports(2)
    readable, writable = os.pipe()
    try:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "bailiwick.cli.main", "up", "--dev", "--data-dir", str(layout.data_dir)),
            *("--api-port", str(api_port), "--gateway-port", str(gateway_port), "--workers", str(workers)),
            *("--announce-fd", str(writable), *options),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env={**os.environ, "BAILIWICK_ALLOW_UPSTREAM_NETWORKS": UPSTREAM_NETWORK, **settings},
            pass_fds=(writable,),
            start_new_session=True,  # a Ctrl-C in the terminal is for us, who stop it in good order
            preexec_fn=child_setup(death_signal=signal.SIGTERM),
        )
    except BaseException:
        os.close(readable)
        raise
    finally:
        os.close(writable)
    return process, readable


async def _until_ready(process: asyncio.subprocess.Process, announced: int, told: Callable[[str], None]) -> None:
    """Pass on what it prints until it says that everything is ready. Raises :class:`NotStarted`."""
    assert process.stdout is not None
    last = ""
    try:
        async with asyncio.timeout(_START_S):
            # once ready it lets go of its standard output, and the pipe ends
            async for raw in process.stdout:
                line = raw.decode(errors="replace").rstrip()
                last = line or last
                told(line)
            ready = await asyncio.to_thread(os.read, announced, 1)
    except TimeoutError:
        raise NotStarted(f"the stack was not ready within {_START_S:g} s: {last}") from None
    finally:
        os.close(announced)
    if ready != b"1":
        raise NotStarted(f"the stack did not start: {last}")


async def _stop(process: asyncio.subprocess.Process, limit: float) -> None:
    """SIGTERM, and SIGKILL for what is left after ``limit`` seconds."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            process.send_signal(number)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), limit)
            return
