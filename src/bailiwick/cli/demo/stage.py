"""What the steps of the story share: where everything is, what it is called, and what was handed out so far."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from bailiwick.cli.demo.children import Upstream
from bailiwick.cli.demo.exchange import NOBODY, Answer, Bearer, Exchange
from bailiwick.cli.demo.telling import Teller, check
from bailiwick.kernel.paths import Layout


@dataclass(frozen=True, slots=True)
class Installation:
    """A running installation: its API and gateway (base URLs), and how many workers it has."""

    layout: Layout
    api: str
    gateway: str
    workers: int


@dataclass(slots=True)
class Stream:
    """An open event stream, and when (``time.perf_counter``) something last came of it."""

    response: aiohttp.ClientResponse
    events: int = 0


@dataclass(slots=True)
class Stage:
    """Everything a step needs. Later steps use what earlier ones left here."""

    at: Installation
    teller: Teller
    http: Exchange
    upstream: Upstream
    suffix: str
    admin_password: str
    new_admin_password: str
    key: str
    admin: Bearer = NOBODY
    person: Bearer = NOBODY
    mandate: Bearer = NOBODY
    delegated: Bearer = NOBODY
    client_id: str = ""
    client_secret: str = ""
    password_changed: bool = False
    governed_request: str = ""
    stream: Stream | None = None
    figures: dict[str, float] = field(default_factory=dict)

    @property
    def server(self) -> str:
        """Name of the payments API in the inventory."""
        return f"payments-{self.suffix}"

    @property
    def credential(self) -> str:
        """Name of the payments API's key in the inventory."""
        return f"payments-key-{self.suffix}"

    @property
    def application(self) -> str:
        """Name of the agent."""
        return f"agent-{self.suffix}"

    @property
    def username(self) -> str:
        """Name of the person."""
        return f"vera-{self.suffix}"

    @property
    def client(self) -> dict[str, str]:
        """How the agent authenticates at the token endpoint (RFC 6749 §2.3.1)."""
        return {"client_id": self.client_id, "client_secret": self.client_secret}

    def api(self, path: str) -> str:
        """URL of an API path."""
        return f"{self.at.api}{path}"

    def governed(self, path: str) -> str:
        """URL of a payments path through the gateway."""
        return f"{self.at.gateway}/s/{self.server}{path}"

    async def seen(self) -> list[dict[str, Any]]:
        """What reached the payments API, oldest first: ``method``, ``path``, and ``headers`` by lower-case name."""
        async with self.http.session.get(self.upstream.seen_url) as response:
            requests = (await response.json())["requests"]
        for request in requests:
            request["headers"] = {name.lower(): value for name, value in request["headers"]}
        return list(requests)

    async def seen_of(self, answer: Answer) -> dict[str, Any]:
        """The request that reached the payments API under the id of ``answer``."""
        seen = await self.seen()
        found = [one for one in seen if one["headers"].get("x-request-id") == answer.request_id]
        check(len(found) == 1, "the upstream to have seen the request once", f"{len(found)} times")
        return found[0]


def claims_of(token: str) -> dict[str, Any]:
    """The claims of a JWT, unverified: the story only shows them."""
    parts = token.split(".")
    check(len(parts) == 3, "a signed JWT", "something else")
    claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=="))
    return dict(claims)
