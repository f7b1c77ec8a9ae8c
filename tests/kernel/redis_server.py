"""A real Redis of a test's own, and a sentinel to watch it."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import redis

from ports import free_port


class RedisServer:
    def __init__(self, directory: Path, port: int | None = None, options: tuple[str, ...] = ()) -> None:
        self.port = port or free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._directory = directory
        self._options = options
        self._child: subprocess.Popen[bytes] | None = None

    async def start(self) -> RedisServer:
        self._spawn("--port", str(self.port), "--bind", "127.0.0.1", "--save", "", *self._options)
        await self._answering()
        return self

    async def start_sentinel(self, master_port: int) -> RedisServer:
        configuration = self._directory / f"sentinel-{self.port}.conf"
        configuration.write_text(
            f"port {self.port}\nbind 127.0.0.1\ndir {self._directory}\n"
            f"sentinel monitor main 127.0.0.1 {master_port} 1\n"
            "sentinel down-after-milliseconds main 300\nsentinel failover-timeout main 1000\n"
        )
        self._spawn(str(configuration), "--sentinel")
        await self._answering()
        return self

    def stop(self, *, kill: bool = True) -> None:
        if self._child is not None:
            self._child.kill() if kill else self._child.terminate()
            self._child.wait()
            self._child = None

    def freeze(self) -> None:
        assert self._child is not None
        self._child.send_signal(19)

    def thaw(self) -> None:
        assert self._child is not None
        self._child.send_signal(18)

    def _spawn(self, *arguments: str) -> None:
        self._child = subprocess.Popen(
            ["redis-server", *arguments], cwd=self._directory, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )

    async def _answering(self) -> None:
        with redis.Redis(port=self.port, socket_timeout=1) as client:
            for _ in range(500):
                try:
                    client.ping()
                    return
                except redis.ConnectionError:
                    await asyncio.sleep(0.01)
        raise TimeoutError("redis-server did not start")
