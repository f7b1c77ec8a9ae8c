"""The demonstration's HTTP client: calls, prints, measures."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any

import aiohttp
from yarl import URL

from bailiwick.cli.demo.telling import Telling


@dataclass(frozen=True, slots=True)
class Got:
    """An answer. ``body`` is its JSON where it is JSON, else its text; ``ms`` how long it took."""

    status: int
    body: Any
    headers: dict[str, str]
    ms: float

    def __getitem__(self, name: str) -> Any:
        return self.body.get(name) if isinstance(self.body, dict) else None


class Caller:
    """Calls one base URL and tells of it."""

    def __init__(self, session: aiohttp.ClientSession, telling: Telling, name: str, base: str) -> None:
        self._session = session
        self._telling = telling
        self._name = name
        self.base = base
        self.token = ""

    async def __call__(
        self, method: str, path: str, *, token: str | None = None, show: tuple[str, ...] = (), **sent: Any
    ) -> Got:
        """Call and print; ``show`` names the members of the answer worth printing, ``sent`` goes to aiohttp."""
        got = await self.quiet(method, path, token=token, **sent)
        self._telling.sent(f"{method} {self._name}: {path}")
        told = {name: got[name] for name in show if got[name] is not None}
        if got.status >= 400 and isinstance(got.body, dict):
            told = {"reason": got.body.get("reason") or got.body.get("error"), **told}
        shown = " ".join(
            f"{name}={json.dumps(value) if not isinstance(value, str) else value}" for name, value in told.items()
        )
        self._telling.received(f"{got.status}  {got.ms:.1f} ms  {shown}")
        return got

    async def quiet(self, method: str, path: str, *, token: str | None = None, **sent: Any) -> Got:
        """Call without a word."""
        bearer = self.token if token is None else token
        headers = {**({"Authorization": f"Bearer {bearer}"} if bearer else {}), **sent.pop("headers", {})}
        started = time.perf_counter()
        async with self._session.request(
            method, URL(self.base + path, encoded=True), headers=headers, **sent
        ) as answer:
            text = await answer.text()
            took = (time.perf_counter() - started) * 1000
            try:
                body = json.loads(text) if text else None
            except ValueError:
                body = text
            return Got(answer.status, body, {name.lower(): value for name, value in answer.headers.items()}, took)
