"""Known questions put to the gateway: a mandate is had from the issuer, and a request made as any caller makes it.

The mandate is issued by all the rules there are, of the application that the document names, and recorded with the
grant ``recovery-canary``; only the application's secret is not asked for. The request goes to the gateway's own
address and through everything that stands there: Envoy, the check, the upstream's credential, the upstream. That it
was the gateway that denied is known from the ledger, by the request's id: an upstream may say the same words.
"""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from uuid import UUID

import aiohttp
from yarl import URL

from bailiwick.evidence import codes
from bailiwick.evidence.events import decode
from bailiwick.evidence.stored import COLUMNS, body_of
from bailiwick.handover.incidents.documents import Expected
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.errors import BailiwickError
from bailiwick.kernel.settings import Settings

GRANT = "recovery-canary"
TIMEOUT_S = 5.0
_RECORDED_WITHIN_S = 5.0
_LOOK_S = 0.1
_MISCONFIGURED = frozenset({"operation_not_listed"})

Mint = Callable[[str, str, str, str], Awaitable[str]]
"""A mandate of (zone, application, server, scope), signed; raises what the issuer refuses."""


class AtGateway:
    """Asks the gateway of an installation, from a worker of its API."""

    def __init__(self, settings: Settings, mint: Mint | None) -> None:
        self._settings = settings
        self._mint = mint

    async def __call__(self, tx: Transaction, zone: str, expected: Expected) -> str:
        """``allow``, ``deny``, or what came instead. Only what succeeded was allowed; only what the ledger holds a
        refusal of was denied."""
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
            status, request = await self._request(method, url, token)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            return f"the gateway does not answer: {type(error).__name__}"
        return judged(status, await _refused(tx, zone, expected.server, request) if status >= 400 else None)

    async def _request(self, method: str, url: str, token: str) -> tuple[int, str]:
        """The status, and the id that the gateway gave the request."""
        timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
        connector = aiohttp.TCPConnector(ssl=_trust(self._settings.tls_cert), force_close=True)
        async with aiohttp.ClientSession(timeout=timeout, connector=connector, trust_env=False) as session:
            headers = {"Authorization": f"Bearer {token}", "User-Agent": f"bailiwick/{GRANT}"}
            target = URL(url, encoded=True)
            async with session.request(method, target, headers=headers, allow_redirects=False) as answer:
                return answer.status, answer.headers.get("x-request-id", "")


def judged(status: int, refused: Sequence[str] | None) -> str:
    """What an answer means. ``refused``: by which reasons the gateway denied it; None where the ledger holds nothing
    of that, so that it is the upstream's own answer, or Envoy's."""
    if status < 400:
        return "allow"
    if status != 403:
        return " ".join([f"the gateway answers {status}", ", ".join(sorted(refused or ()))]).strip()
    if refused is None:
        return "the answer is 403, and the ledger holds no refusal of the request"
    if misconfigured := sorted(_MISCONFIGURED.intersection(refused)):
        return f"the gateway answers 403 {', '.join(misconfigured)}"
    return "deny"


async def _refused(tx: Transaction, zone: str, server: str, request: str) -> Sequence[str] | None:
    """The reasons by which the gateway denied a request, once the ledger has it; None where it did not."""
    try:
        identifier = str(UUID(request))
    except ValueError:
        return None
    until = time.monotonic() + _RECORDED_WITHIN_S
    while True:
        row = await tx.one(
            f"SELECT {COLUMNS} FROM ledger.events WHERE zone = :zone AND server = :server"  # noqa: S608 - names of columns
            " AND request_id = cast(:request AS uuid) AND code IN (:allowed, :denied)",
            zone=zone,
            server=server,
            request=identifier,
            allowed=codes.GATEWAY_ALLOWED.code,
            denied=codes.GATEWAY_DENIED.code,
        )
        if row is not None:
            event = decode(body_of(row))
            return event.reasons if event.outcome == "deny" else None
        if time.monotonic() >= until:
            return None
        await asyncio.sleep(_LOOK_S)


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
