"""Requests of the story: each one told, timed, and checked against what it must be answered with."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import aiohttp
from yarl import URL

from bailiwick.cli.demo.telling import Deviation, Teller, check

_ANSWER_WITHIN_S = 10.0
_PAUSE_S = 0.02
_LONG_PAUSE_S = 0.2


@dataclass(frozen=True, slots=True)
class Bearer:
    """A token and whose it is."""

    token: str
    label: str

    @property
    def headers(self) -> dict[str, str]:
        """As it is presented."""
        return {"Authorization": f"Bearer {self.token}"}

    def __str__(self) -> str:
        return f"{self.token} ({self.label})"


NOBODY = Bearer("", "")


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back. ``body`` is the decoded JSON object, else ``{}``; ``ms`` from sending to the last byte."""

    status: int
    headers: Mapping[str, str]
    text: str
    ms: float
    body: dict[str, Any] = field(default_factory=dict)

    def __getitem__(self, name: str) -> Any:
        """A member of the body, which must be there."""
        check(name in self.body, f"an answer with {name}", self.text[:300])
        return self.body[name]

    @property
    def request_id(self) -> str:
        """The id the request is known by in the evidence."""
        return self.headers.get("x-request-id", "") or str(self.body.get("request_id", ""))


class Exchange:
    """Sends requests over ``session`` and has ``teller`` tell them."""

    def __init__(self, session: aiohttp.ClientSession, teller: Teller) -> None:
        self.session = session
        self._teller = teller

    async def call(
        self,
        method: str,
        url: str,
        status: int | Sequence[int],
        *,
        reason: str = "",
        bearer: Bearer | None = None,
        headers: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        form: Mapping[str, str] | None = None,
        upload: Callable[[], aiohttp.FormData] | None = None,
        sent: Mapping[str, Any] | None = None,
        show: Sequence[str] = (),
        until: Callable[[Answer], bool] | None = None,
        within: float = 5.0,
        quiet: bool = False,
    ) -> Answer:
        """Send a request and check the answer's ``status`` and ``reason``.

        The body is JSON (``body``), a form, or what ``upload`` makes. Told are the fields ``sent`` (default: all of
        the body) and, of the answer, ``show``. With ``until`` it is repeated for up to ``within`` seconds until that
        holds, and only the last time is told; ``quiet``: not even that. Raises :class:`Deviation`.
        """
        deadline = time.monotonic() + within
        while True:
            answer = await self._send(method, url, bearer, headers, body, form, upload)
            if until is None or until(answer) or time.monotonic() > deadline:
                break
            await asyncio.sleep(_PAUSE_S if within <= 5.0 else _LONG_PAUSE_S)
        if not quiet:
            told = sent if sent is not None else body or form or {}
            self._teller.sent(method, url, {**(headers or {}), **told}, str(bearer) if bearer else "")
            names = ("reason",) if reason and not show else show
            self._teller.received(answer.status, {name: answer.body.get(name) for name in names}, answer.ms)
        wanted = (status,) if isinstance(status, int) else tuple(status)
        expected = " or ".join(map(str, wanted)) + (f" {reason}" if reason else "")
        given = answer.body.get("reason") or answer.text[:300]
        check(answer.status in wanted, f"{expected} from {method} {url}", f"{answer.status} {given}")
        if reason:
            check(answer.body.get("reason") == reason, f"{expected} from {method} {url}", f"{answer.status} {given}")
        if until is not None:
            check(until(answer), f"a complete answer from {method} {url} within {within:g} s", answer.text[:300])
        return answer

    async def _send(
        self,
        method: str,
        url: str,
        bearer: Bearer | None,
        headers: Mapping[str, str] | None,
        body: Mapping[str, Any] | None,
        form: Mapping[str, str] | None,
        upload: Callable[[], aiohttp.FormData] | None,
    ) -> Answer:
        arguments: dict[str, Any] = {"headers": {**(headers or {}), **(bearer.headers if bearer else {})}}
        if body is not None:
            arguments["json"] = body
        elif form is not None or upload is not None:
            arguments["data"] = form if upload is None else upload()
        started = time.perf_counter()
        try:
            async with (
                asyncio.timeout(_ANSWER_WITHIN_S),
                self.session.request(method, URL(url, encoded=True), **arguments) as response,
            ):
                text = await response.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Deviation(f"an answer from {method} {url}", f"{type(error).__name__} {error}") from None
        ms = (time.perf_counter() - started) * 1000
        return Answer(response.status, response.headers, text, ms, _decoded(text))


def _decoded(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}
