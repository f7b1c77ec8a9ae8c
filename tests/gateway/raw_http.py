"""A bare HTTP/1.1 server and client that show and send exactly the bytes there are."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import socket
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Seen:
    """A request as it arrived: header names in lower case, in order, repeated as they were repeated."""

    method: str
    target: str
    headers: list[tuple[str, str]]
    reader: asyncio.StreamReader = field(repr=False)
    body: bytes = b""

    def get(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)

    def all(self, name: str) -> list[str]:
        return [value for key, value in self.headers if key == name]

    @property
    def names(self) -> set[str]:
        return {key for key, _ in self.headers}

    def as_json(self) -> bytes:
        digest = hashlib.sha256(self.body).hexdigest()
        shown = {"method": self.method, "target": self.target, "headers": self.headers}
        return json.dumps({**shown, "size": len(self.body), "sha256": digest}).encode()


Handler = Callable[[Seen, asyncio.StreamWriter], Awaitable[bool]]


async def chunks(reader: asyncio.StreamReader):
    """The chunks of a chunked body, as they come."""
    while size := int((await reader.readline()).split(b";")[0], 16):
        data = await reader.readexactly(size)
        await reader.readexactly(2)
        yield data
    while (await reader.readline()).strip():
        pass


async def read_body(seen: Seen) -> bytes:
    if seen.get("transfer-encoding") == "chunked":
        seen.body = b"".join([chunk async for chunk in chunks(seen.reader)])
    elif length := int(seen.get("content-length") or 0):
        seen.body = await seen.reader.readexactly(length)
    return seen.body


def answer(status: int, body: bytes = b"", **headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} X", f"content-length: {len(body)}"]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


async def _serve(handler: Handler, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
        while head := await reader.readuntil(b"\r\n\r\n"):
            request_line, *lines = head.decode("latin-1").rstrip("\r\n").split("\r\n")
            method, target, _ = request_line.split(" ")
            pairs = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
            if not await handler(Seen(method, target, pairs, reader), writer):
                break
            await writer.drain()
    writer.close()


async def serve_unix(handler: Handler, path: Path) -> asyncio.Server:
    path.unlink(missing_ok=True)
    return await asyncio.start_unix_server(lambda r, w: _serve(handler, r, w), path, limit=2**20, backlog=4096)


async def serve_tcp(handler: Handler, tls: ssl.SSLContext | None = None) -> tuple[asyncio.Server, int]:
    server = await asyncio.start_server(
        lambda r, w: _serve(handler, r, w), "127.0.0.1", 0, limit=2**20, backlog=4096, ssl=tls
    )
    return server, server.sockets[0].getsockname()[1]


@dataclass
class Answer:
    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def get(self, name: str) -> str | None:
        return next((value for key, value in self.headers if key == name), None)

    def json(self):
        return json.loads(self.body)


class Raw:
    """A client connection on which anything can be sent."""

    def __init__(self, port: int, timeout: float = 10.0) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout)
        self.buffer = b""

    def __enter__(self) -> Raw:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self, data: bytes | str) -> Raw:
        self.socket.sendall(data.encode("latin-1") if isinstance(data, str) else data)
        return self

    def _more(self) -> bool:
        data = self.socket.recv(65536)
        self.buffer += data
        return bool(data)

    def until(self, mark: bytes) -> bytes:
        while mark not in self.buffer:
            if not self._more():
                raise EOFError(f"connection ended before {mark!r}: {self.buffer[:200]!r}")
        found, _, self.buffer = self.buffer.partition(mark)
        return found

    def head(self) -> Answer:
        status_line, *lines = self.until(b"\r\n\r\n").decode("latin-1").split("\r\n")
        pairs = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        return Answer(int(status_line.split(" ")[1]), pairs, b"")

    def answer(self, *, head_only: bool = False) -> Answer:
        found = self.head()
        if head_only:
            return found
        if found.get("transfer-encoding") == "chunked":
            while size := int(self.until(b"\r\n"), 16):
                found.body += self.exactly(size)
                self.until(b"\r\n")
            self.until(b"\r\n")
        elif length := int(found.get("content-length") or 0):
            found.body = self.exactly(length)
        return found

    def exactly(self, size: int) -> bytes:
        while len(self.buffer) < size:
            if not self._more():
                raise EOFError("connection ended early")
        data, self.buffer = self.buffer[:size], self.buffer[size:]
        return data

    def ended(self) -> bool:
        """Read to the end of the connection; True when it is closed before the timeout."""
        try:
            while self._more():
                pass
        except ConnectionError:
            return True
        except TimeoutError:
            return False
        return True


def ask(
    port: int, target: str = "/", *headers: str, method: str = "GET", host: str = "gateway", body: bytes = b""
) -> Answer:
    """One request on a connection of its own."""
    lines = [f"{method} {target} HTTP/1.1", f"Host: {host}", *headers]
    if body:
        lines.append(f"Content-Length: {len(body)}")
    with Raw(port) as raw:
        raw.send("\r\n".join(lines) + "\r\n\r\n").send(body)
        return raw.answer(head_only=method == "HEAD")
