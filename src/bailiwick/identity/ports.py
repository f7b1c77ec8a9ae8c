"""What identity needs from the authority room above it; the composition root hands it in."""

from __future__ import annotations

from typing import Literal, Protocol

from bailiwick.evidence.events import Context
from bailiwick.kernel.db import Transaction

RevocationKind = Literal["session", "application", "user"]


class SessionTokens(Protocol):
    """Signs people's API tokens."""

    def session_token(
        self, zone: str, username: str, session_id: str, expires_at: float, amr: tuple[str, ...], auth_time: int
    ) -> str:
        """A token (``typ: bw-session+jwt``) for a session of ``username``, good until ``expires_at`` (epoch seconds).

        ``amr`` are the ways by which the person proved himself (RFC 8176), the last time at ``auth_time``. It is called
        while the user's row is locked, so that a revocation of the user is either seen before or covers the token.
        """
        ...


class Revoke(Protocol):
    """Ends authority everywhere."""

    async def revoke(self, tx: Transaction, context: Context, kind: RevocationKind, key: str, reason: str) -> int:
        """Write a revocation in ``tx`` and announce it; answers the feed revision. Called last in a transaction.

        ``key`` is a session id, an application's id (its ``client_id``) or a user name.
        """
        ...

    async def settle(self, revision: int, context: Context) -> object:
        """Return when nothing that ``revision`` ended is accepted anywhere."""
        ...
