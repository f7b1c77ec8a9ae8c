"""The caller of a soak: asks as fast as it may, and keeps a log of its own of everything that was acknowledged to it.

A line of the log is ``g CONNECTION REQUEST_ID`` for a governed request that was let through, ``d CONNECTION
DECISION_ID`` for a decision that was answered through Envoy, ``w CONNECTION DECISION_ID`` for one that a worker
answered on its own socket. Lines are made durable in batches, so that the log can be held against the ledger whatever
happens to this process. On one connection requests follow one another, and one to a worker does not outlive it: the
order of its lines is the order in which one life of that worker acknowledged them.

``python -m bench.soak_client`` reads what to do as one JSON object from standard input, works until a line follows or
its time is over, and prints what it saw as one JSON object.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import uvloop

_FLUSH_S = 0.1
_PATIENCE_S = 15.0
_MAX_BEHIND_S = 1.0


@dataclass
class Task:
    """What to do. ``rate`` is requests a second over all connections, 0 as fast as answers come.

    ``gateway`` and ``api`` are ports, ``workers`` the sockets of the workers' API. ``tokens`` is a file with the
    bearers, ``{"g": …, "d": …}``, looked at every second. ``log`` takes the lines.
    """

    gateway: int
    api: int
    workers: list[str]
    path: str
    question: dict[str, Any]
    tokens: str
    log: str
    connections: int
    seconds: float
    rate: float = 0.0


@dataclass
class Seen:
    """What came back: acknowledged answers by kind, answers by status, connections that broke."""

    acknowledged: Counter[str] = field(default_factory=Counter)
    statuses: Counter[int] = field(default_factory=Counter)
    broken: int = 0


class Log:
    """The client's own log. Lines are durable within :data:`_FLUSH_S` seconds."""

    def __init__(self, path: str) -> None:
        self._fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._lines: list[str] = []

    def note(self, kind: str, connection: str, identifier: str) -> None:
        """One acknowledged answer."""
        self._lines.append(f"{kind} {connection} {identifier}\n")

    async def run(self) -> None:
        """Flush until cancelled."""
        while True:
            await asyncio.sleep(_FLUSH_S)
            await asyncio.to_thread(self.flush)

    def flush(self) -> None:
        """Make what was noted durable."""
        lines, self._lines = self._lines, []
        if lines:
            data = memoryview("".join(lines).encode())
            while data:
                data = data[os.write(self._fd, data) :]
            os.fdatasync(self._fd)


class Client:
    """Connections, half of them to the gateway, half to the decision endpoint, of these every other past Envoy."""

    def __init__(self, task: Task) -> None:
        self._task = task
        self._log = Log(task.log)
        self._tokens: dict[str, str] = {}
        self._body = json.dumps(task.question).encode()
        self.seen = Seen()
        self._stop = asyncio.Event()

    async def run(self) -> Seen:
        """Ask until the time is over or standard input says so."""
        self._read_tokens()
        background = [asyncio.create_task(work) for work in (self._log.run(), self._watch_tokens(), self._told())]
        asking = [asyncio.create_task(self._connection(number)) for number in range(self._task.connections)]
        try:
            async with asyncio.timeout(self._task.seconds):
                await self._stop.wait()
        except TimeoutError:
            self._stop.set()
        await asyncio.gather(*asking)
        for each in background:
            each.cancel()
        await asyncio.gather(*background, return_exceptions=True)
        self._log.flush()
        return self.seen

    async def _told(self) -> None:
        reader = asyncio.StreamReader()
        await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        if await reader.readline():  # its end says nothing: whoever waits for the result closes it
            self._stop.set()

    def _read_tokens(self) -> None:
        self._tokens = json.loads(Path(self._task.tokens).read_text())

    async def _watch_tokens(self) -> None:
        while True:
            await asyncio.sleep(1.0)
            self._read_tokens()

    def _request(self, kind: str) -> bytes:
        bearer = self._tokens["g" if kind == "g" else "d"]
        if kind == "g":
            return (
                f"GET {self._task.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {bearer}\r\n\r\n".encode()
            )
        head = (
            "POST /api/v1/authz/evaluate HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
            f"Authorization: Bearer {bearer}\r\nContent-Length: {len(self._body)}\r\n\r\n"
        )
        return head.encode() + self._body

    async def _connection(self, number: int) -> None:
        kind = "gdgw"[number % 4]
        life = 0
        every = self._task.connections / self._task.rate if self._task.rate else 0.0
        due = time.monotonic() + every * number / self._task.connections
        while not self._stop.is_set():
            life += 1
            try:
                reader, writer = await self._open(kind, number)
            except OSError:
                self.seen.broken += 1
                await asyncio.sleep(0.05)
                continue
            try:
                while not self._stop.is_set():
                    if every:
                        now = time.monotonic()
                        # what was missed while nobody answered is not asked all at once afterwards
                        due = max(due + every, now - _MAX_BEHIND_S)
                        await asyncio.sleep(max(0.0, due - now))
                    writer.write(self._request(kind))
                    async with asyncio.timeout(_PATIENCE_S):
                        await self._answer(kind, f"{number}.{life}", reader)
            except (OSError, EOFError, TimeoutError, ValueError, asyncio.LimitOverrunError, RuntimeError):
                # RuntimeError: uvloop, of a connection that was closed meanwhile
                self.seen.broken += 1
                await asyncio.sleep(0.02)
            finally:
                writer.close()

    async def _open(self, kind: str, number: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        if kind == "w":
            workers = self._task.workers
            return await asyncio.open_unix_connection(workers[number // 4 % len(workers)])
        return await asyncio.open_connection("127.0.0.1", self._task.gateway if kind == "g" else self._task.api)

    async def _answer(self, kind: str, connection: str, reader: asyncio.StreamReader) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        status = int(head[9:12])
        headers = dict(line.split(b": ", 1) for line in head[:-4].split(b"\r\n")[1:])
        body = await reader.readexactly(int(headers[b"content-length"])) if b"content-length" in headers else b""
        self.seen.statuses[status] += 1
        if status == 200:
            identifier = headers[b"x-request-id"].decode() if kind == "g" else str(json.loads(body)["decision_id"])
            self.seen.acknowledged[kind] += 1
            self._log.note(kind, connection, identifier)
        elif b"content-length" not in headers:
            raise ValueError("an answer without a length")
        else:
            await asyncio.sleep(0.02)  # whoever is refused does not hammer


def main() -> None:
    """Do what standard input says."""
    client = Client(Task(**json.loads(sys.stdin.readline())))
    seen = uvloop.run(client.run())
    print(json.dumps({"acknowledged": seen.acknowledged, "statuses": seen.statuses, "broken": seen.broken}))


if __name__ == "__main__":
    main()
