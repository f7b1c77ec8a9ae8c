"""Calls an ASGI application in this process, the way curl would."""

from __future__ import annotations

import json as jsonlib
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlencode

_BOUNDARY = "b0undary-b0undary"


@dataclass
class Answer:
    status_code: int = 0
    headers: dict[str, str] = field(default_factory=dict)
    content: bytes = b""

    @property
    def text(self) -> str:
        return self.content.decode()

    def json(self) -> Any:
        return jsonlib.loads(self.content)


class Client:
    def __init__(self, app: Any, token: str | None) -> None:
        self._app = app
        self._token = token

    async def __aenter__(self) -> Client:
        return self

    async def __aexit__(self, *_: object) -> None:
        return None

    async def get(self, path: str, params: dict[str, Any] | None = None) -> Answer:
        return await self.request("GET", path, query=urlencode(params or {}))

    async def post(
        self,
        path: str,
        *,
        json: Any = None,
        content: bytes = b"",
        data: dict[str, str] | None = None,
        files: dict[str, tuple[str, bytes]] | None = None,
        headers: dict[str, str] | None = None,
    ) -> Answer:
        sent = dict(headers or {})
        if json is not None:
            content = jsonlib.dumps(json).encode()
            sent["content-type"] = "application/json"
        elif files is not None:
            content = _multipart(data or {}, files)
            sent["content-type"] = f"multipart/form-data; boundary={_BOUNDARY}"
        return await self.request("POST", path, [content], list(sent.items()))

    async def request(
        self,
        method: str,
        path: str,
        chunks: list[bytes] | None = None,
        headers: list[tuple[str, str]] | None = None,
        query: str = "",
    ) -> Answer:
        pending = list(chunks or [b""])
        raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers or []]
        raw.append((b"content-length", str(sum(map(len, pending))).encode()))
        if self._token is not None:
            raw.append((b"authorization", f"Bearer {self._token}".encode()))
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": raw,
            "server": ("127.0.0.1", 80),
            "client": ("127.0.0.1", 1),
            "state": {},
        }
        answer = Answer()

        async def receive() -> dict[str, Any]:
            if pending:
                chunk = pending.pop(0)
                return {"type": "http.request", "body": chunk, "more_body": bool(pending)}
            return {"type": "http.disconnect"}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] == "http.response.start":
                assert not answer.status_code
                answer.status_code = message["status"]
                answer.headers = {name.decode(): value.decode() for name, value in message["headers"]}
            else:
                answer.content += message.get("body", b"")

        await self._app(scope, receive, send)
        return answer


def _multipart(data: dict[str, str], files: dict[str, tuple[str, bytes]]) -> bytes:
    parts = []
    for name, value in data.items():
        parts.append(f'Content-Disposition: form-data; name="{name}"\r\n\r\n{value}'.encode())
    for name, (file_name, content) in files.items():
        quoted = file_name.replace("\\", "\\\\")
        head = f'Content-Disposition: form-data; name="{name}"; filename="{quoted}"\r\n'
        parts.append(f"{head}Content-Type: application/octet-stream\r\n\r\n".encode() + content)
    dashes = f"--{_BOUNDARY}".encode()
    return b"".join(dashes + b"\r\n" + part + b"\r\n" for part in parts) + dashes + b"--\r\n"
