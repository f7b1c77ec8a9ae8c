"""Invitations and resets: a link, told once, by which a person chooses a password."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from bailiwick.evidence import codes
from bailiwick.evidence.events import Actor, Context, Recorder, Subject
from bailiwick.identity.login.lockout import forget_failures
from bailiwick.identity.passwords import Passwords
from bailiwick.identity.ports import Revoke
from bailiwick.identity.sessions import end_sessions
from bailiwick.inventory.zones import require_active
from bailiwick.kernel import feed
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import Unauthenticated
from bailiwick.kernel.ids import Ids
from bailiwick.kernel.settings import Settings

INVITATION_LIFE = timedelta(hours=72)
RESET_LIFE = timedelta(hours=24)
INVITATION_PREFIX = "bwi_"

_SELECT = """
SELECT id, username, email, is_active, invitation_expires_at FROM users
WHERE zone = :zone AND invitation_hash = :hash
"""


@dataclass(frozen=True, slots=True)
class Invitation:
    """An invitation or a reset, told once. ``token`` stands in the fragment of ``url``: servers never see or log it."""

    token: str
    url: str
    expires_at: datetime

    def document(self) -> dict[str, Any]:
        """The JSON form."""
        return {"token": self.token, "url": self.url, "expires_at": self.expires_at}


# ---------------------------------------------------------------------- store


async def invite(
    tx: Transaction, ids: Ids, settings: Settings, zone: str, identifier: str, now: datetime, *, reset: bool = False
) -> Invitation:
    """Invite the user with the id ``identifier``, whose row is locked; earlier invitations of his are void.

    ``reset``: it lets in somebody who was here before, and is good for :data:`RESET_LIFE` only.
    """
    token = INVITATION_PREFIX + ids.secret(32)
    page, life = ("password-reset", RESET_LIFE) if reset else ("invitation", INVITATION_LIFE)
    await tx.run(
        "UPDATE users SET invitation_hash = :hash, invitation_expires_at = :expires WHERE id = :id",
        hash=_digest(token),
        expires=now + life,
        id=identifier,
    )
    return Invitation(token, f"{settings.zone_issuer(zone)}/{page}#{token}", now + life)


async def _invited(tx: Transaction, zone: str, digest: bytes, now: datetime, *, lock: bool = False) -> Row:
    row = await tx.one(f"{_SELECT} FOR UPDATE" if lock else _SELECT, zone=zone, hash=digest)
    if row is None or not row["is_active"]:
        raise Unauthenticated("The invitation is unknown or was used.", reason="invalid_token")
    if row["invitation_expires_at"] <= now:
        raise Unauthenticated("The invitation has expired; ask for a new one.", reason="token_expired")
    return row


# ---------------------------------------------------------------------- service


class Invitations:
    """Takes invitations up. They are made with users and resets (``users.py``)."""

    def __init__(
        self, database: Database, clock: Clock, recorder: Recorder, passwords: Passwords, revocations: Revoke
    ) -> None:
        self._database = database
        self._clock = clock
        self._recorder = recorder
        self._passwords = passwords
        self._revocations = revocations

    async def accept(self, context: Context, token: str, password: str) -> str:
        """Set the password of the user whom ``token`` invites, or lets in again, once; answers the user name.

        Raises ``Unauthenticated`` with ``invalid_token`` or ``token_expired``, and ``InvalidRequest`` for a password
        we do not take.
        """
        digest = _digest(token)
        try:
            async with self._database.begin() as tx:
                user = await _invited(tx, context.zone, digest, self._clock.now())
        except Unauthenticated as error:
            await self._refused(context, error.reason)
            raise
        await self._passwords.check(password, username=user["username"], email=user["email"])
        hashed = await self._passwords.hash(password)
        context = _acting_as(context, user["username"])
        async with self._database.begin() as tx:
            await require_active(tx, context.zone)
            user = await _invited(tx, context.zone, digest, self._clock.now(), lock=True)
            await tx.run(
                "UPDATE users SET password_hash = :hash, must_change_password = false, invitation_hash = NULL,"
                " invitation_expires_at = NULL, version = version + 1, updated_at = :now WHERE id = :id",
                hash=hashed,
                now=self._clock.now(),
                id=user["id"],
            )
            await forget_failures(tx, context.zone, user["username"])
            ended = await end_sessions(
                tx, context.zone, user["username"], now=self._clock.now(), reason="password changed"
            )
            await self._recorder.record(
                tx,
                codes.AUTH_INVITATION_ACCEPTED,
                "success",
                context,
                subject=Subject(id=user["username"], type="user"),
            )
            revision = await feed.announce(tx, context.zone, "user", user["username"])
            if ended:  # an invitation may also replace a password that somebody else knew
                revision = await self._revocations.revoke(tx, context, "user", user["username"], "password changed")
        await self._revocations.settle(revision, context)
        return str(user["username"])

    async def _refused(self, context: Context, reason: str) -> None:
        """Record an invitation that was none; whose it would have been nobody knows."""
        async with self._database.begin() as tx:
            await self._recorder.record(
                tx, codes.AUTH_LOGIN_FAILURE, "failure", context, reasons=(reason,), method="invitation"
            )


def _acting_as(context: Context, username: str) -> Context:
    return Context(
        context.zone,
        Actor(user=username),
        context.network,
        context.request_id,
        context.client_request_id,
        context.trace_id,
    )


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "replace")).digest()
