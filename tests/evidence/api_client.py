"""Calls an ASGI application in this process and event loop."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode


@dataclass(frozen=True)
class Answer:
    status_code: int
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    def json(self) -> Any:
        return json.loads(self.body)


class ApiClient:
    """Sends ``headers`` with every request; those of a call win."""

    def __init__(self, app: Any, headers: Mapping[str, str]) -> None:
        self._app = app
        self.headers = dict(headers)

    async def get(self, path: str, **options: Mapping[str, str] | None) -> Answer:
        return await self._call("GET", path, **options)

    async def post(self, path: str, **options: Any) -> Answer:
        return await self._call("POST", path, **options)

    async def _call(
        self,
        method: str,
        path: str,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        body: Any = None,
    ) -> Answer:
        content = b"" if body is None else json.dumps(body).encode()
        sent: list[dict[str, Any]] = []
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": urlencode(params or {}).encode(),
            "headers": [(n.encode(), v.encode()) for n, v in {**self._headers(body), **(headers or {})}.items()],
            "client": ("192.0.2.1", 1234),
            "server": ("api", 80),
        }

        left = [{"type": "http.request", "body": content, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if not left:
                await asyncio.Event().wait()  # the caller stays
            return left.pop()

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await self._app(scope, receive, send)
        return Answer(sent[0]["status"], b"".join(message.get("body", b"") for message in sent))

    def _headers(self, body: Any) -> dict[str, str]:
        return self.headers if body is None else {**self.headers, "content-type": "application/json"}
