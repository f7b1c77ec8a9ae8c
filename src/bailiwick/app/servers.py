"""Several ASGI apps in one process, each on a socket of its own, stopped in order."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import uvicorn


class Listener:
    """One app on one unix socket, and on loopback TCP where ``tcp_port`` is given (benchmarks)."""

    def __init__(self, app: Any, path: Path, *, tcp_port: int | None = None) -> None:
        self._path = path
        self._sockets = [_unix(path)]
        if tcp_port is not None:
            self._sockets.append(_loopback(tcp_port))
        self._server = _Server(
            uvicorn.Config(
                app,
                loop="none",
                http="httptools",
                ws="none",
                lifespan="off",
                access_log=False,
                log_config=None,
                server_header=False,
                date_header=False,
                backlog=2048,
                h11_max_incomplete_event_size=64 * 1024,
                timeout_keep_alive=3600,  # Envoy decides when its connections end
                timeout_graceful_shutdown=8,
            )
        )

    async def serve(self) -> None:
        """Serve until :meth:`stop`, then let what is in flight end."""
        try:
            await self._server.serve(self._sockets)
        finally:
            self._path.unlink(missing_ok=True)

    def stop(self) -> None:
        """Take no new requests."""
        self._server.should_exit = True


async def serve_until(listeners: Sequence[Listener], stopping: asyncio.Event) -> None:
    """Serve all listeners until ``stopping`` is set; one that ends early ends them all."""
    serving = [asyncio.create_task(listener.serve()) for listener in listeners]
    waiting = asyncio.create_task(stopping.wait())
    await asyncio.wait([*serving, waiting], return_when=asyncio.FIRST_COMPLETED)
    waiting.cancel()
    for listener in listeners:
        listener.stop()
    for outcome in await asyncio.gather(*serving, return_exceptions=True):
        if isinstance(outcome, BaseException):
            raise outcome


class _Server(uvicorn.Server):
    def install_signal_handlers(self) -> None:
        """Signals are the process's, not a server's."""

    def capture_signals(self) -> Any:
        """As above, for uvicorn's newer spelling."""
        import contextlib

        return contextlib.nullcontext()


def _unix(path: Path) -> socket.socket:
    path.unlink(missing_ok=True)
    made = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    made.bind(str(path))
    path.chmod(0o600)
    return made


def _loopback(port: int) -> socket.socket:
    made = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind(("127.0.0.1", port))
    return made
