"""Serves the check over a unix socket: one protocol object per connection of Envoy's, no task per request.

A general ASGI server spends as much on a request as the check itself does; Envoy is the only client, speaks HTTP/1.1
and sends no bodies, so the parser (httptools) and the transport are all that is needed.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from pathlib import Path
from typing import Any

import httptools

from bailiwick.gateway.check import Answer, Check
from bailiwick.gateway.request import PREFIX

_MAX_HEADER_BYTES = 64 * 1024
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode() for status in HTTPStatus} | {
    status: f"HTTP/1.1 {status} Refused\r\n".encode() for status in (470, 472)
}
_ALIVE = b"HTTP/1.1 204 No Content\r\n\r\n"


class CheckServer:
    """Listens on ``path`` (mode 0600) and answers with ``check``."""

    def __init__(self, check: Check, path: Path) -> None:
        self._check = check
        self._path = path
        self._server: asyncio.AbstractServer | None = None
        self.connections: set[CheckProtocol] = set()

    async def start(self) -> None:
        """Bind the socket."""
        self._path.unlink(missing_ok=True)
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(lambda: CheckProtocol(self._check, self), str(self._path))
        self._path.chmod(0o600)

    async def stop(self, grace_s: float = 5.0) -> None:
        """Take no new connections, let what is being judged end, close."""
        if self._server is not None:
            self._server.close()
        deadline = asyncio.get_running_loop().time() + grace_s
        while any(connection.busy for connection in self.connections):
            if asyncio.get_running_loop().time() > deadline:
                break
            await asyncio.sleep(0.005)
        for connection in list(self.connections):
            connection.close()
        self._path.unlink(missing_ok=True)


class CheckProtocol(asyncio.Protocol):
    """One connection: requests come one after the other, each is answered before the next is read."""

    def __init__(self, check: Check, server: CheckServer) -> None:
        self._check = check
        self._server = server
        self._parser: Any = None
        self._transport: asyncio.Transport | None = None
        self._target = b""
        self._headers: list[tuple[bytes, bytes]] = []
        self._size = 0
        self.busy = False

    # --- the transport's side

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]
        self._parser = httptools.HttpRequestParser(self)
        self._server.connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self._transport = None

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self.close()  # not Envoy's HTTP: nobody else is meant to speak here

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.close()

    # --- the parser's side

    def on_message_begin(self) -> None:
        self._target, self._headers, self._size = b"", [], 0

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._size += len(name) + len(value)
        if self._size > _MAX_HEADER_BYTES:
            self.close()
            return
        self._headers.append((name.lower(), value))

    def on_message_complete(self) -> None:
        if self.busy or self._transport is None:
            self.close()  # a second request before the first was answered: Envoy does not pipeline
            return
        path, _, query = self._target.partition(b"?")
        if not path.startswith(PREFIX):
            self._transport.write(_ALIVE)
            return
        self.busy = True
        scope = {
            "method": self._parser.get_method().decode("latin-1"),
            "raw_path": path,
            "query_string": query,
            "headers": self._headers,
        }
        self._check.judge(scope, self._answer)

    def _answer(self, answer: Answer) -> None:
        self.busy = False
        if self._transport is None:
            return
        head = b"".join([b"%b: %b\r\n" % header for header in answer.headers])
        self._transport.write(_STATUS_LINES[answer.status] + head + b"\r\n" + answer.body)
