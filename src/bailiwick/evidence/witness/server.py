"""The witness on HTTP: one route, and a limit to everything a stranger can send."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Awaitable, Callable, MutableMapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import h11
import structlog
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from bailiwick.evidence.tlog_witness import MOST_BYTES, PATH, SIZE_TYPE
from bailiwick.evidence.witness.service import Answer, Witness

HEAD_S = 10.0
BODY_S = 10.0
_MOST_CONNECTIONS = 256
_MOST_HEAD_BYTES = 16 << 10
_MOST_READ_BYTES = 1 << 20
_TEXT = "text/plain; charset=utf-8"

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

log = structlog.get_logger(__name__)


class WitnessApp:
    """ASGI: ``POST <prefix>/add-checkpoint``; nothing else is there. ``body_s``: seconds a body may take to arrive."""

    def __init__(self, witness: Witness, *, prefix: str = "", body_s: float = BODY_S) -> None:
        self._witness = witness
        self._path = prefix.rstrip("/") + PATH
        self._body_s = body_s
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="witness")

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        answer = await self._answer(scope, receive)
        kind = SIZE_TYPE if answer.size else _TEXT
        headers = [(b"content-type", kind.encode()), (b"content-length", str(len(answer.body)).encode())]
        if answer.status in {405, 408, 413}:
            headers.append((b"connection", b"close"))  # what is left of the request is not read
        await send({"type": "http.response.start", "status": answer.status, "headers": headers})
        await send({"type": "http.response.body", "body": answer.body})

    async def _answer(self, scope: MutableMapping[str, Any], receive: Receive) -> Answer:
        if scope["path"] != self._path:
            return Answer(404, b"there is nothing here\n")
        if scope["method"] != "POST":
            return Answer(405, b"POST only\n")
        try:
            async with asyncio.timeout(self._body_s):
                body = await _body(receive)
        except TimeoutError:
            return Answer(408, b"the request took too long\n")
        if body is None:
            return Answer(413, b"the request is too large\n")
        try:
            judged = asyncio.get_running_loop().run_in_executor(self._thread, self._witness.add_checkpoint, body)
            return await asyncio.shield(judged)
        except OSError as error:
            # nothing was signed: a witness that cannot remember must not
            log.error("cannot remember a checkpoint", error=str(error))
            return Answer(500, b"the witness cannot write its memory\n")


async def _body(receive: Receive) -> bytes | None:
    """The body, None when it is larger than any request.

    What is a little too large is read to its end: closing on a client that still sends takes the answer from him.
    """
    parts = bytearray()
    while len(parts) <= _MOST_READ_BYTES:
        message = await receive()
        parts += message.get("body", b"")
        if not message.get("more_body"):
            return bytes(parts) if len(parts) <= MOST_BYTES else None
    return None


class _Patient(H11Protocol):
    """A connection that is closed when a request's head does not arrive in time (uvicorn waits for ever)."""

    _impatience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._wait_for_head()
        elif self._impatience is not None:
            self._impatience.cancel()
            self._impatience = None

    def _wait_for_head(self) -> None:
        if self._impatience is None:
            self._impatience = self.loop.call_later(HEAD_S, self._give_up)

    def _give_up(self) -> None:
        self._impatience = None
        if not self.transport.is_closing():
            self.transport.close()


class _Server(uvicorn.Server):
    @contextlib.contextmanager
    def capture_signals(self) -> Any:
        """Signals are the command's."""
        yield


async def serve(
    app: WitnessApp,
    listening: socket.socket,
    stopping: asyncio.Event,
    *,
    tls: tuple[Path, Path] | None = None,
) -> None:
    """Serve on a bound socket until ``stopping``. ``tls``: certificate chain and private key, both PEM."""
    config = uvicorn.Config(
        app,
        loop="none",
        http=_Patient,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        server_header=False,
        backlog=128,
        limit_concurrency=_MOST_CONNECTIONS,
        h11_max_incomplete_event_size=_MOST_HEAD_BYTES,
        timeout_keep_alive=30,
        timeout_graceful_shutdown=5,
        ssl_certfile=tls[0] if tls else None,
        ssl_keyfile=tls[1] if tls else None,
    )
    config.load()
    if config.ssl is not None:
        config.ssl.minimum_version = ssl.TLSVersion.TLSv1_3
    server = _Server(config)

    async def stop() -> None:
        await stopping.wait()
        server.should_exit = True

    waiting = asyncio.create_task(stop())
    try:
        await server.serve([listening])
    finally:
        waiting.cancel()
