"""``Idempotency-Key``: a POST that is sent twice is done once, and both get the same answer.

An answer may hold a secret that is shown once, so it is kept sealed, for a day. The key belongs to the caller (a
digest of the credential) and the zone; the same key with another request is refused. A process that dies between
doing and answering leaves the key taken but unanswered; after a minute the next sender may try again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import timedelta
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from bailiwick.kernel.clock import Clock
from bailiwick.kernel.crypto import Sealer
from bailiwick.kernel.db import Database, Row
from bailiwick.kernel.errors import BailiwickError, InvalidRequest
from bailiwick.kernel.problems import send_problem

_KEPT = timedelta(hours=24)
_ABANDONED = timedelta(minutes=1)
_MAX_BODY = 1 << 20
_REPLAYED = (b"content-type", b"etag", b"location", b"cache-control")


def answer_aad(row: Row) -> bytes:
    """What a kept answer is bound to."""
    return f"idempotency/{row['zone']}/{row['caller']}/{row['key']}".encode()


class Idempotency:
    """Wraps the API's app. ``sealer`` answers the current one, so that a rotated KEK is used."""

    def __init__(self, app: ASGIApp, database: Database, clock: Clock, sealer: Callable[[], Sealer]) -> None:
        self._app = app
        self._database = database
        self._clock = clock
        self._sealer = sealer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        key = _key(scope)
        if key is None:
            await self._app(scope, receive, send)
            return
        try:
            await self._once(key, scope, receive, send)
        except BailiwickError as error:
            await send_problem(send, error, scope["state"]["request_id"], scope["path"])

    async def _once(self, key: str, scope: Scope, receive: Receive, send: Send) -> None:
        if not 1 <= len(key) <= 200 or not key.isascii() or not key.isprintable():
            raise InvalidRequest("Idempotency-Key must be 1 to 200 printable ASCII characters.")
        body = await _read(receive)
        place = {"zone": scope["state"]["zone"], "caller": _caller(scope), "key": key}
        fingerprint = hashlib.sha256(f"{scope['path']}?{scope['query_string']!r}\n".encode() + body).hexdigest()
        known = await self._claim(place, fingerprint)
        if known is not None:
            await self._replay(known, fingerprint, send)
            return
        answer = _Captured(send)
        try:
            await self._app(scope, _again(body, receive), answer)
        finally:
            await self._settle(place, answer)

    async def _claim(self, place: dict[str, str], fingerprint: str) -> Row | None:
        """None when the request is ours to do; else the row of who has it."""
        now = self._clock.now()
        async with self._database.begin() as tx:
            await tx.run(
                "DELETE FROM idempotency_keys WHERE zone = :zone AND caller = :caller AND key = :key"
                " AND (created_at < :old OR (status IS NULL AND created_at < :abandoned))",
                old=now - _KEPT,
                abandoned=now - _ABANDONED,
                **place,
            )
            taken = await tx.run(
                "INSERT INTO idempotency_keys (zone, caller, key, fingerprint, created_at)"
                " VALUES (:zone, :caller, :key, :fingerprint, :now) ON CONFLICT DO NOTHING",
                fingerprint=fingerprint,
                now=now,
                **place,
            )
            if taken:
                return None
            return await tx.one(
                "SELECT * FROM idempotency_keys WHERE zone = :zone AND caller = :caller AND key = :key", **place
            )

    async def _replay(self, row: Row, fingerprint: str, send: Send) -> None:
        if row["fingerprint"] != fingerprint:
            raise BailiwickError(reason="idempotency_conflict")
        if row["status"] is None:
            raise BailiwickError("A request with this Idempotency-Key is being worked on.", reason="conflict")
        body = self._sealer().open(row["body"], answer_aad(row))
        headers = [(name.encode(), value.encode()) for name, value in row["headers"]]
        headers += [(b"content-length", str(len(body)).encode()), (b"idempotent-replayed", b"true")]
        await send({"type": "http.response.start", "status": row["status"], "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def _settle(self, place: dict[str, str], answer: _Captured) -> None:
        """Keep a complete answer; give the key back after a fault, so that it can be tried again."""
        async with self._database.begin() as tx:
            if not answer.complete or answer.status >= 500 or answer.status in {401, 429}:
                await tx.run(
                    "DELETE FROM idempotency_keys WHERE zone = :zone AND caller = :caller AND key = :key", **place
                )
                return
            body = bytes(answer.body)
            await tx.run(
                "UPDATE idempotency_keys SET status = :status, headers = cast(:headers AS jsonb), body = :body"
                " WHERE zone = :zone AND caller = :caller AND key = :key",
                status=answer.status,
                headers=json.dumps(answer.headers),
                body=self._sealer().seal(body, answer_aad(place)),  # type: ignore[arg-type]  # the same three names
                **place,
            )


class _Captured:
    """The ``send`` the app gets: passes everything on and keeps a copy."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self.status = 0
        self.headers: list[tuple[str, str]] = []
        self.body = bytearray()
        self.complete = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = [
                (name.decode(), value.decode()) for name, value in message.get("headers", ()) if name in _REPLAYED
            ]
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")
            self.complete = not message.get("more_body", False)
        await self._send(message)


def _key(scope: Scope) -> str | None:
    if scope["type"] != "http" or scope["method"] != "POST" or not scope["path"].startswith("/api/v1/"):
        return None
    found = [value for name, value in scope["headers"] if name == b"idempotency-key"]
    return found[0].decode("latin-1") if found else None


def _caller(scope: Scope) -> str:
    credential = next((value for name, value in scope["headers"] if name == b"authorization"), b"")
    return hashlib.sha256(credential).hexdigest()[:32]


async def _read(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise InvalidRequest("The request ended before its body did.")
        body += message.get("body", b"")
        if len(body) > _MAX_BODY:
            raise BailiwickError(reason="payload_too_large")
        if not message.get("more_body", False):
            return bytes(body)


def _again(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def replayed() -> dict[str, Any]:
        nonlocal sent
        if sent:
            return dict(await receive())
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replayed
