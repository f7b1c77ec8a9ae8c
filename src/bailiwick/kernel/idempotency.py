"""``Idempotency-Key``: a POST under ``/api/v1`` that is sent twice is done once, and both senders get the same answer.

A key belongs to its caller in his zone and to one request; with another request it is refused (422), while the first
is still being worked on as well (409). The answer is kept for a day, sealed, since it may hold a secret that is shown
once. It is given again only to a caller who is still signed in: a key is no way around a revocation.

If the process dies while it works, the claim runs out after :data:`CLAIM_S` and the next sender does the request. What
the first one had committed by then stands, so the second may hear ``already_exists``: the kept answer and the change
are two transactions, and a change nobody can read the answer of is found by its name.

Not kept are answers that another try may improve: faults, refused credentials and permissions, rate limits.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

import msgspec
import structlog
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bailiwick.kernel.clock import Clock
from bailiwick.kernel.crypto import Sealer, SealError
from bailiwick.kernel.db import Database, Row
from bailiwick.kernel.errors import BailiwickError, Conflict, InvalidRequest, Unauthenticated, Unavailable
from bailiwick.kernel.http import Authenticate

log = structlog.get_logger(__name__)

KEPT = timedelta(hours=24)
CLAIM_S = 120.0
_PREFIX = "/api/v1/"
_MAX_ANSWER = 1 << 20
_TRY_AGAIN = frozenset({401, 403, 408, 425, 429})
_is_key = re.compile(r"[!-~]{1,200}\Z").match
_BOUNDARY = re.compile(r'boundary=(?:"([^"]+)"|([^\s;]+))', re.I)


class _Kept(msgspec.Struct, frozen=True, array_like=True):
    headers: list[tuple[bytes, bytes]]
    body: bytes


def answer_aad(row: Mapping[str, Any] | Row) -> bytes:
    """What a kept answer is bound to: the row's ``zone``, ``caller`` and ``key``."""
    return "\0".join(("idempotency", row["zone"], row["caller"], row["key"])).encode()


class Idempotency:
    """Wraps the API's app.

    ``authenticate`` is what the routes use; ``sealer`` answers the current sealer, so that a rotated key-encryption
    key is used.
    """

    def __init__(
        self,
        app: ASGIApp,
        database: Database,
        clock: Clock,
        sealer: Callable[[], Sealer],
        authenticate: Authenticate,
        *,
        claim_s: float = CLAIM_S,
    ) -> None:
        self._app = app
        self._database = database
        self._clock = clock
        self._sealer = sealer
        self._authenticate = authenticate
        self._claim_s = claim_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].startswith(_PREFIX):
            await self._app(scope, receive, send)
            return
        keys = Headers(scope=scope).getlist("idempotency-key")
        caller = await self._caller(scope) if keys else None
        if caller is None:
            # nobody to keep an answer for; the route refuses, or is one that takes no credential and creates nothing
            await self._app(scope, receive, send)
            return
        if len(keys) != 1 or not _is_key(keys[0]):
            raise InvalidRequest("Idempotency-Key is one header of 1 to 200 printable ASCII characters.")
        body = await _read(receive)
        claim = {"zone": scope["state"]["zone"], "caller": caller, "key": keys[0], "holder": secrets.token_hex(8)}
        known = await self._claim(claim, _fingerprint(scope, body))
        if known is not None:
            await self._replay(known, send)
            return
        await self._do(claim, scope, _again(body, receive), send)

    async def _caller(self, scope: Scope) -> str | None:
        try:
            return (await self._authenticate(Request(scope))).name
        except Unauthenticated:
            return None

    async def _claim(self, claim: dict[str, str], fingerprint: str) -> Row | None:
        """None when the request is ours to do, else the row that answers it. Raises when it is somebody else's."""
        now = self._clock.now()
        for _ in range(3):
            async with self._database.begin() as tx:
                if await tx.value(
                    _CLAIM, fingerprint=fingerprint, now=now, old=now - KEPT, seconds=self._claim_s, **claim
                ):
                    return None
                row = await tx.one(
                    "SELECT zone, caller, key, fingerprint, status, body FROM idempotency_keys"
                    " WHERE zone = :zone AND caller = :caller AND key = :key",
                    zone=claim["zone"],
                    caller=claim["caller"],
                    key=claim["key"],
                )
            if row is None:
                continue  # given back in between
            if row["fingerprint"] != fingerprint:
                raise BailiwickError(reason="idempotency_conflict")
            if row["status"] is not None:
                return row
            break
        raise Conflict("A request with this Idempotency-Key is being worked on.", headers={"Retry-After": "1"})

    async def _replay(self, row: Row, send: Send) -> None:
        try:
            kept = msgspec.msgpack.decode(self._sealer().open(row["body"], answer_aad(row)), type=_Kept)
        except SealError:
            raise Conflict("This request was done before; its answer can no longer be read.") from None
        headers = [*kept.headers, (b"idempotency-replayed", b"true")]
        await send({"type": "http.response.start", "status": row["status"], "headers": headers})
        await send({"type": "http.response.body", "body": kept.body})

    async def _do(self, claim: dict[str, str], scope: Scope, receive: Receive, send: Send) -> None:
        """Let the app answer, keep the answer, then send it: what a caller has seen is what a repeat gets."""
        answer = _Capture(send)
        try:
            await self._app(scope, receive, answer)
        except Exception:
            await self._let_go(claim)
            raise
        if answer.complete and answer.status < 500 and answer.status not in _TRY_AGAIN and not answer.passed_on:
            await self._keep(claim, answer)
        else:
            await self._let_go(claim)
        await answer.pass_on()

    async def _keep(self, claim: dict[str, str], answer: _Capture) -> None:
        kept = msgspec.msgpack.encode(_Kept(answer.headers, b"".join(answer.parts)))
        try:
            async with self._database.begin() as tx:
                await tx.run(
                    "UPDATE idempotency_keys SET status = :status, body = :body"
                    " WHERE zone = :zone AND caller = :caller AND key = :key AND holder = :holder",
                    status=answer.status,
                    body=self._sealer().seal(kept, answer_aad(claim)),
                    **claim,
                )
        except Unavailable:
            # the change is made, and its sender shall hear so; only a repeat within the day is no longer recognised
            log.warning("answer could not be kept for its idempotency key", zone=claim["zone"])

    async def _let_go(self, claim: dict[str, str]) -> None:
        try:
            async with self._database.begin() as tx:
                await tx.run(
                    "DELETE FROM idempotency_keys"
                    " WHERE zone = :zone AND caller = :caller AND key = :key AND holder = :holder",
                    **claim,
                )
        except Unavailable:
            pass  # the claim runs out by itself


# Ours when the key is new, was used more than a day ago, or was claimed for this request by a process that died.
_CLAIM = """
INSERT INTO idempotency_keys AS known (zone, caller, key, fingerprint, holder, claimed_until, created_at)
VALUES (:zone, :caller, :key, :fingerprint, :holder, clock_timestamp() + make_interval(secs => :seconds), :now)
ON CONFLICT (zone, caller, key) DO UPDATE
SET fingerprint = excluded.fingerprint, holder = excluded.holder, claimed_until = excluded.claimed_until,
    created_at = excluded.created_at, status = NULL, body = NULL
WHERE known.created_at < :old
   OR known.status IS NULL AND known.claimed_until < clock_timestamp() AND known.fingerprint = excluded.fingerprint
RETURNING holder
"""


class _Capture:
    """The ``send`` the app gets: holds the answer back until it is complete, or too large to be kept."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._start: Message | None = None
        self._held = 0
        self.parts: list[bytes] = []
        self.complete = False
        self.passed_on = False

    @property
    def status(self) -> int:
        return int(self._start["status"]) if self._start else 0

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        return [(bytes(name), bytes(value)) for name, value in (self._start or {}).get("headers", ())]

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._start = message
            return
        if self.passed_on or message["type"] != "http.response.body":
            await self._send(message)
            return
        self.parts.append(bytes(message.get("body", b"")))
        self._held += len(self.parts[-1])
        self.complete = not message.get("more_body", False)
        if self._held > _MAX_ANSWER:
            await self.pass_on()

    async def pass_on(self) -> None:
        """Send what was held back."""
        if self.passed_on or self._start is None:
            return
        self.passed_on = True
        await self._send(self._start)
        await self._send({"type": "http.response.body", "body": b"".join(self.parts), "more_body": not self.complete})


def _fingerprint(scope: Scope, body: bytes) -> str:
    """What makes two requests the same: path, query, media type and body, whatever boundary a form was sent with."""
    content_type = Headers(scope=scope).get("content-type", "")
    found = _BOUNDARY.search(content_type)
    if found is not None and content_type.lower().startswith("multipart/"):
        body = body.replace((found[1] or found[2]).encode("latin-1"), b"boundary")
        content_type = content_type.partition(";")[0]
    parts = (scope["path"].encode(), scope["query_string"], content_type.encode("latin-1"), body)
    digest = hashlib.sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "big") + part)
    return digest.hexdigest()


async def _read(receive: Receive) -> bytes:
    # bounded by the front, which stands around this
    parts = []
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        parts.append(message.get("body", b""))
        if not message.get("more_body", False):
            return b"".join(parts)


def _again(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def again() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
