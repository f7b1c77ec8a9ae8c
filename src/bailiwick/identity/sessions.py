"""Sessions: a signed-in person's stay, from sign-in to sign-out, expiry or being ended."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Event, Recorder, Subject, encode
from bailiwick.identity.ports import Revoke
from bailiwick.kernel import outbox
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import NotFound


@dataclass(frozen=True, slots=True)
class Session:
    """One session. It lives while ``ended_at`` is None, and ``idle_until`` and ``expires_at`` are to come."""

    id: str
    zone: str
    username: str
    method: str
    ip: str
    user_agent: str
    amr: tuple[str, ...]
    created_at: datetime
    last_seen_at: datetime
    idle_until: datetime
    expires_at: datetime
    ended_at: datetime | None
    end_reason: str | None

    def document(self, current: str) -> dict[str, Any]:
        """The JSON form, as seen from the session with the id ``current``."""
        return {
            "id": self.id,
            "username": self.username,
            "method": self.method,
            "ip": self.ip,
            "user_agent": self.user_agent,
            "amr": list(self.amr),
            "created_at": self.created_at,
            "last_seen_at": self.last_seen_at,
            "idle_until": self.idle_until,
            "expires_at": self.expires_at,
            "ended_at": self.ended_at,
            "end_reason": self.end_reason,
            "current": self.id == current,
        }


_OPEN = f"""
WITH told AS ({outbox.PUT}),
forgotten AS (DELETE FROM login_failures WHERE zone = :zone AND username = :username),
seen AS (UPDATE users SET last_login_at = :now WHERE zone = :zone AND username = :username),
oldest AS (
  SELECT id FROM sessions WHERE zone = :zone AND username = :username AND ended_at IS NULL AND expires_at > :now
  ORDER BY id DESC OFFSET :others
), ended AS (
  UPDATE sessions SET ended_at = :now, end_reason = 'too many sessions' WHERE id IN (SELECT id FROM oldest) RETURNING id
), made AS (
  INSERT INTO sessions (id, zone, username, method, ip, user_agent, amr, auth_time, created_at, last_seen_at,
    idle_until, expires_at, origin, id_token_sealed)
  VALUES (:id, :zone, :username, :method, :ip, :user_agent, :amr, :now, :now, :now, :idle_until, :expires_at,
    cast(:origin AS jsonb), :id_token)
), kept AS (
  INSERT INTO refresh_tokens (hash, session_id, created_at) VALUES (:refresh, :id, :now)
)
SELECT id FROM ended ORDER BY id
"""  # noqa: S608 - ours


async def open_session(
    tx: Transaction,
    context: Context,
    identifier: str,
    username: str,
    *,
    event: Event,
    method: str,
    amr: Sequence[str],
    now: datetime,
    idle_until: datetime,
    expires_at: datetime,
    refresh: bytes,
    most: int,
    origin: Mapping[str, str] | None = None,
    id_token: bytes | None = None,
) -> Sequence[str]:
    """Write the row of a session that begins now, and the ``event`` that tells of it. The caller holds the user's row.

    With it the user has at most ``most``: answers the ids of his oldest ones, now ended, which the caller revokes.
    ``amr``: RFC 8176. ``refresh`` is the digest of its refresh token; ``origin`` is what an identity provider calls the
    session: `issuer`, `subject`, `sid`, `provider`, and ``id_token`` its ID token, sealed. Failed sign-ins are
    forgotten: the person has proved himself. All of it is one statement, as people sign in at the same hour.
    """
    rows = await tx.all(
        _OPEN,
        event=encode(event),
        refresh=refresh,
        others=most - 1,
        origin=json.dumps(dict(origin or {})),
        id_token=id_token,
        amr=[*amr],
        idle_until=idle_until,
        id=identifier,
        zone=context.zone,
        username=username,
        method=method,
        ip=context.network.ip,
        user_agent=printable(context.network.user_agent),
        now=now,
        expires_at=expires_at,
    )
    return [row["id"] for row in rows]


async def owner_of_session(tx: Transaction, zone: str, identifier: str) -> str | None:
    """The user whose session it is or was, None when it is not known any more."""
    owner = await tx.value("SELECT username FROM sessions WHERE zone = :zone AND id = :id", zone=zone, id=identifier)
    return None if owner is None else str(owner)


async def end_sessions(
    tx: Transaction, zone: str, username: str, *, now: datetime, reason: str, but: str = ""
) -> Sequence[str]:
    """End the live sessions of a user, all ``but`` one; answers their ids. Whoever calls revokes them."""
    rows = await tx.all(
        "UPDATE sessions SET ended_at = :now, end_reason = :reason WHERE zone = :zone AND username = :username"
        " AND ended_at IS NULL AND expires_at > :now AND id <> :but RETURNING id",
        zone=zone,
        username=username,
        now=now,
        reason=reason,
        but=but,
    )
    return sorted(row["id"] for row in rows)


async def tell_ended(
    tx: Transaction, recorder: Recorder, revocations: Revoke, context: Context, rows: Sequence[Row], reason: str
) -> int | None:
    """Record that the sessions of ``rows`` (``id``, ``username``) ended, and revoke them, last in the transaction.

    Answers the feed revision to settle, None for no rows.
    """
    for row in rows:
        await recorder.record(
            tx,
            codes.AUTH_SESSION_ENDED,
            "success",
            context,
            subject=Subject(id=row["id"], type="session"),
            username=row["username"],
        )
    revision = None
    for row in rows:
        revision = await revocations.revoke(tx, context, "session", row["id"], reason)
    return revision


# how many sessions end in one transaction, which holds their rows
_BATCH = 200


class Sessions:
    """Lists and ends sessions."""

    def __init__(self, database: Database, clock: Clock, recorder: Recorder, revocations: Revoke) -> None:
        self._database = database
        self._clock = clock
        self._recorder = recorder
        self._revocations = revocations

    async def list(
        self, zone: str, username: str | None, before: str, limit: int, *, ended: bool = False
    ) -> tuple[list[Session], str | None]:
        """Sessions, newest first, with ids before ``before``, and the id the next page starts after.

        ``username`` None lists everybody's; ``ended`` includes those that are over.
        """
        async with self._database.begin() as tx:
            rows = await tx.all(
                "SELECT * FROM sessions WHERE zone = :zone AND id < :before"
                " AND (cast(:username AS text) IS NULL OR username = :username)"
                " AND (:ended OR (ended_at IS NULL AND least(idle_until, expires_at) > :now))"
                " ORDER BY id DESC LIMIT :limit",
                zone=zone,
                before=before,
                username=username,
                ended=ended,
                now=self._clock.now(),
                limit=limit + 1,
            )
        found = [_session(row) for row in rows[:limit]]
        return found, found[-1].id if len(rows) > limit else None

    async def end(self, context: Context, identifier: str, *, owner: str | None, sign_out: bool = False) -> None:
        """End one session; nothing it opened is accepted anywhere when this returns. Ending it twice is no error.

        ``owner`` restricts to that user's sessions; None may end anybody's. Raises ``NotFound``.
        """
        now = self._clock.now()
        async with self._database.begin() as tx:
            row = await tx.one(
                "SELECT * FROM sessions WHERE zone = :zone AND id = :id"
                " AND (cast(:owner AS text) IS NULL OR username = :owner) FOR UPDATE",
                zone=context.zone,
                id=identifier,
                owner=owner,
            )
            if row is None:
                raise NotFound("There is no such session.")
            if row["ended_at"] is None:
                await tx.run(
                    "UPDATE sessions SET ended_at = :now, end_reason = :reason WHERE id = :id",
                    now=now,
                    reason="signed out" if sign_out else "ended",
                    id=identifier,
                )
            await self._recorder.record(
                tx,
                codes.AUTH_LOGOUT if sign_out else codes.AUTH_SESSION_ENDED,
                "success",
                context,
                subject=Subject(id=identifier, type="session"),
                username=row["username"],
            )
            # again for one that has ended: the caller is told it is over only when every worker says so
            reason = "signed out" if sign_out else "session ended"
            revision = await self._revocations.revoke(tx, context, "session", identifier, reason)
        await self._revocations.settle(revision, context)

    async def end_all(self, context: Context, *, owner: str | None, but: str) -> int:
        """End the live sessions of ``owner``, everybody's for None, all ``but`` one; answers how many.

        Nothing they opened is accepted anywhere when this returns.
        """
        ended = 0
        revision: int | None = None
        while True:
            async with self._database.begin() as tx:
                now = self._clock.now()
                rows = await tx.all(
                    "UPDATE sessions SET ended_at = :now, end_reason = 'ended with others' WHERE id IN ("
                    " SELECT id FROM sessions WHERE zone = :zone AND ended_at IS NULL AND expires_at > :now"
                    " AND id <> :but AND (cast(:owner AS text) IS NULL OR username = :owner)"
                    " ORDER BY id LIMIT :most FOR UPDATE) RETURNING id, username",
                    zone=context.zone,
                    owner=owner,
                    now=now,
                    but=but,
                    most=_BATCH,
                )
                last = await tell_ended(tx, self._recorder, self._revocations, context, rows, "sessions ended")
            revision = last if last is not None else revision
            ended += len(rows)
            if len(rows) < _BATCH:
                break
        if revision is not None:
            await self._revocations.settle(revision, context)
        return ended


def printable(text: str, limit: int = 300) -> str:
    """Text of a caller's choosing, cut and without the characters that a database or a terminal would mind."""
    return "".join(char if char.isprintable() else "?" for char in text[:limit])


def _session(row: Row) -> Session:
    return Session(
        row["id"],
        row["zone"],
        row["username"],
        row["method"],
        row["ip"],
        row["user_agent"],
        tuple(row["amr"]),
        row["created_at"],
        row["last_seen_at"],
        row["idle_until"],
        row["expires_at"],
        row["ended_at"],
        row["end_reason"],
    )
