"""Known questions put to the gateway: a mandate is had from the issuer, and a request made as any caller makes it.

The mandate is issued by all the rules there are, of the application that the document names, and recorded with the
grant ``recovery-canary``; only the application's secret is not asked for. The request goes to the gateway's own
address and through everything that stands there: Envoy, the check, the upstream's credential, the upstream.
"""

from __future__ import annotations

import json
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path

import aiohttp
from yarl import URL

from bailiwick.handover.incidents.documents import Expected
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.errors import REASONS, BailiwickError
from bailiwick.kernel.settings import Settings

GRANT = "recovery-canary"
TIMEOUT_S = 5.0
_MOST = 64 << 10
_MISCONFIGURED = frozenset({"operation_not_listed"})

Mint = Callable[[str, str, str, str], Awaitable[str]]
"""A mandate of (zone, application, server, scope), signed; raises what the issuer refuses."""


class AtGateway:
    """Asks the gateway of an installation, from a worker of its API."""

    def __init__(self, settings: Settings, mint: Mint | None) -> None:
        self._settings = settings
        self._mint = mint

    async def __call__(self, tx: Transaction, zone: str, expected: Expected) -> str:
        """``allow``, ``deny``, or what came instead. Only what succeeded was allowed; only a refusal that says by
        which rule was denied."""
        if self._mint is None:
            return "the gateway is asked by the API's workers, and this is none"
        found = await _operation(tx, zone, expected)
        try:
            token = await self._mint(zone, expected.application, expected.server, expected.scope)
        except BailiwickError as error:
            refused = error.reason in ("policy_denied", "grant_exceeded") or error.status == 403
            return "deny" if refused else f"no mandate: {error.reason}"
        if found is None:
            return f"a mandate was issued, and {expected.server} has no GET of {expected.scope} to try it on: name one"
        method, path = found
        url = f"{self._settings.audience(zone, expected.server)}{path}"
        try:
            status, body = await self._request(method, url, token)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return f"the gateway does not answer: {type(error).__name__}"
        return judged(status, body)

    async def _request(self, method: str, url: str, token: str) -> tuple[int, bytes]:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        connector = aiohttp.TCPConnector(ssl=_trust(self._settings.tls_cert), force_close=True)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector, trust_env=False) as session:
            headers = {"Authorization": f"Bearer {token}", "User-Agent": f"bailiwick/{GRANT}"}
            target = URL(url, encoded=True)
            async with session.request(method, target, headers=headers, allow_redirects=False) as answer:
                return answer.status, await answer.content.read(_MOST)


def judged(status: int, body: bytes) -> str:
    """What an answer of the gateway means."""
    if status < 400:
        return "allow"
    try:
        reason = str(json.loads(body)["reason"])
    except (ValueError, TypeError, KeyError):
        reason = ""
    if status == 403 and reason in REASONS and reason not in _MISCONFIGURED:
        return "deny"
    return f"the gateway answers {status} {reason if reason in REASONS else ''}".strip()


async def _operation(tx: Transaction, zone: str, expected: Expected) -> tuple[str, str] | None:
    """What is asked for: as the document says, or else the first operation of that scope that only reads."""
    if expected.path:
        return expected.method, expected.path
    row = await tx.one(
        "SELECT o ->> 'method' AS method, o ->> 'path' AS path FROM servers s,"
        " jsonb_array_elements(coalesce(s.binding -> 'operations', '[]')) AS o WHERE s.zone = :zone"
        " AND s.name = :name AND o ->> 'scope' = :scope AND o ->> 'method' IN ('GET', 'HEAD')"
        " AND o ->> 'path' NOT LIKE '%{%' AND NOT coalesce((o ->> 'long_lived')::boolean, false)"
        " ORDER BY 1, 2 LIMIT 1",
        zone=zone,
        name=expected.server,
        scope=expected.scope,
    )
    return (row["method"], row["path"]) if row is not None else None


def _trust(certificate: Path | None) -> ssl.SSLContext:
    """The system's authorities, and what our own listener shows: it may have signed itself."""
    context = ssl.create_default_context()
    if certificate is not None:
        context.load_verify_locations(certificate)
    return context
