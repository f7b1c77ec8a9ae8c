"""A provider signs somebody out: what it names ends here, and what it vouched for before cannot begin afterwards.

Of a logout there stays a note for a while, since a sign-in may be under way when it comes. Sign-ins hold a lock of the
zone together, a logout alone: it waits for those that are being concluded, and later ones find its note.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from bailiwick.evidence.events import Context, Recorder
from bailiwick.identity.ports import Revoke
from bailiwick.identity.sessions import printable, tell_ended
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.errors import Unauthenticated

# how long a provider's word that somebody is signed out holds against sign-ins that were under way
LOGOUT_LIFE = timedelta(minutes=30)

_WHOSE = (
    "zone = :zone AND method = :method AND origin->>'issuer' = :issuer"
    " AND (:subject = '' OR origin->>'subject' = :subject) AND (:every OR origin->>'sid' = ANY(:sids))"
)
_LIVE = f"SELECT id, username FROM sessions WHERE {_WHOSE} AND ended_at IS NULL ORDER BY id FOR UPDATE"  # noqa: S608 - ours
_FORGET = f"DELETE FROM pending_sign_ins WHERE {_WHOSE}"  # noqa: S608 - ours
_END = "UPDATE sessions SET ended_at = :now, end_reason = 'signed out by provider' WHERE id = ANY(:ids)"
_NOTE = """
INSERT INTO provider_logouts (zone, method, issuer, token_hash, subject, sids, at, expires_at)
VALUES (:zone, :method, :issuer, :token, :subject, :sids, :now, :until) ON CONFLICT DO NOTHING
"""
_OVER = """
SELECT 1 FROM provider_logouts WHERE zone = :zone AND method = :method AND issuer = :issuer AND expires_at > :now
AND (subject = '' OR subject = :subject) AND (sids = '{}' OR :sid = ANY(sids))
AND (at >= :issued OR (:sid_is_one_s_own AND sids <> '{}')) LIMIT 1
"""


@dataclass(frozen=True, slots=True)
class Named:
    """Whom a provider signs out: ``subject``, everybody where that is empty; of ``sids`` alone where there are any.

    ``token`` identifies the message that says so, good until ``until``.
    """

    method: Literal["oidc", "saml"]
    issuer: str
    subject: str
    sids: Sequence[str]
    token: str
    until: datetime


class ProviderLogouts:
    """Ends sessions by a provider's word."""

    def __init__(self, clock: Clock, recorder: Recorder, revocations: Revoke) -> None:
        self._clock = clock
        self._recorder = recorder
        self._revocations = revocations

    async def require_none(
        self, tx: Transaction, zone: str, method: str, issuer: str, subject: str, sid: str, issued: datetime
    ) -> None:
        """Refuse (``session_ended``) a sign-in that the provider vouched for at ``issued`` and has ended since."""
        await tx.run("SELECT pg_advisory_xact_lock_shared(hashtext('bailiwick.logout'), hashtext(:zone))", zone=zone)
        over = await tx.value(
            _OVER,
            zone=zone,
            method=method,
            issuer=issuer,
            subject=subject,
            sid=sid,
            # an OpenID sid never comes again; a SessionIndex may
            sid_is_one_s_own=method == "oidc",
            issued=issued,
            now=self._clock.now(),
        )
        if over is not None:
            raise Unauthenticated("The provider signed the person out meanwhile.", reason="session_ended")

    async def end(self, tx: Transaction, context: Context, named: Named) -> tuple[int, int | None] | None:
        """End what is named; answers how many sessions, and a feed revision to settle if any. None: it came before."""
        zone, now = context.zone, self._clock.now()
        await tx.run("SELECT pg_advisory_xact_lock(hashtext('bailiwick.logout'), hashtext(:zone))", zone=zone)
        sids = [printable(sid, 500) for sid in named.sids]
        fresh = await tx.run(
            _NOTE,
            zone=zone,
            method=named.method,
            issuer=named.issuer,
            token=hashlib.sha256(named.token.encode("utf-8", "surrogatepass")).digest(),
            subject=named.subject,
            sids=sids,
            now=now,
            until=max(now + LOGOUT_LIFE, named.until.astimezone(UTC)),
        )
        if not fresh:
            return None
        whose = {
            "zone": zone,
            "method": named.method,
            "issuer": named.issuer,
            "subject": named.subject,
            "every": not sids,
            "sids": sids,
        }
        rows = await tx.all(_LIVE, **whose)
        await tx.run(_FORGET, **whose)
        await tx.run(_END, now=now, ids=[row["id"] for row in rows])
        told = (self._recorder, self._revocations, context, rows, "signed out by provider")
        return len(rows), await tell_ended(tx, *told)
