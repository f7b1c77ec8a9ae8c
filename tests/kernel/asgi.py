"""Calls an ASGI application the way a server does."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass
class Answer:
    status: int = 0
    raw_headers: list[tuple[bytes, bytes]] = field(default_factory=list)
    body: bytes = b""
    complete: bool = False
    scope: dict[str, Any] = field(default_factory=dict)

    @property
    def headers(self) -> dict[str, str]:
        names = [name for name, _ in self.raw_headers]
        assert len(set(names)) == len(names), f"a header stands twice: {names}"
        return {name.decode(): value.decode() for name, value in self.raw_headers}

    @property
    def json(self) -> Any:
        return json.loads(self.body)


def scope_of(
    method: str, path: str, headers: Iterable[tuple[str, str]] = (), *, query: str = "", client: Any = None
) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode("latin-1")) for name, value in headers],
        "server": ("127.0.0.1", 80),
        "client": client,
        "state": {},
    }


async def call(
    app: Any,
    method: str,
    path: str,
    body: bytes | Sequence[bytes] = b"",
    headers: Iterable[tuple[str, str]] | dict[str, str] = (),
    *,
    chunked: bool = False,
    query: str = "",
    client: Any = None,
    disconnect_after: asyncio.Event | None = None,
) -> Answer:
    chunks = [body] if isinstance(body, bytes) else list(body)
    sent = list(headers.items()) if isinstance(headers, dict) else list(headers)
    if chunked:
        sent.append(("transfer-encoding", "chunked"))
    elif any(chunks):
        sent.append(("content-length", str(sum(map(len, chunks)))))
    scope = scope_of(method, path, sent, query=query, client=client)
    answer = Answer(scope=scope)
    pending = list(chunks)
    gone = disconnect_after or asyncio.Event()

    async def receive() -> dict[str, Any]:
        if pending:
            chunk = pending.pop(0)
            return {"type": "http.request", "body": chunk, "more_body": bool(pending)}
        await gone.wait()
        return {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        if message["type"] == "http.response.start":
            assert not answer.status, "started twice"
            answer.status = message["status"]
            answer.raw_headers = list(message["headers"])
        elif message["type"] == "http.response.body":
            assert answer.status, "body before start"
            assert not answer.complete, "body after the end"
            answer.body += message.get("body", b"")
            answer.complete = not message.get("more_body", False)

    await app(scope, receive, send)
    return answer
