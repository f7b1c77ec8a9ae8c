"""Letting in whom a provider vouches for: a directory, an OpenID or a SAML provider alike.

Each kind proves the person in its own way; from there on there is this one way, in one transaction: the account is
found or made, and :meth:`SignIns.conclude` decides what it leads to. What comes to nothing leaves its event.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import structlog

from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.identity.login.outcomes import NOTHING_PROVIDED, Provided
from bailiwick.identity.login.sign_ins import FactorDue, Method, SignedIn, SignIns
from bailiwick.identity.ports import Revoke
from bailiwick.identity.provisioning import Arrival, provision
from bailiwick.identity.sessions import printable
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Row, Transaction
from bailiwick.kernel.errors import BailiwickError
from bailiwick.kernel.ids import Ids

Before = Callable[[Transaction], Awaitable[None]]
"""What a kind looks at first in the transaction of a sign-in; it raises to refuse."""

After = Callable[[Transaction, Row], Awaitable[None]]
"""The same of the account, which is locked then."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Admitted:
    """By which provider somebody comes, and what it may do: ``create`` accounts, ``link_by_id`` to those of SCIM."""

    provider: str
    method: Method
    create: bool
    link_by_id: bool


async def _nothing(tx: Transaction) -> None:
    return None


async def _nothing_more(tx: Transaction, user: Row) -> None:
    return None


class Admissions:
    """Lets in who comes by a provider, and records who does not get in."""

    def __init__(
        self,
        database: Database,
        clock: Clock,
        ids: Ids,
        recorder: Recorder,
        sign_ins: SignIns,
        revocations: Revoke,
    ) -> None:
        self._database = database
        self._clock = clock
        self._ids = ids
        self._recorder = recorder
        self._sign_ins = sign_ins
        self._revocations = revocations

    async def admit(
        self,
        context: Context,
        by: Admitted,
        arrival: Arrival,
        amr: Sequence[str],
        *,
        provided: Provided = NOTHING_PROVIDED,
        before: Before = _nothing,
        after: After = _nothing_more,
    ) -> SignedIn:
        """Open a session for ``arrival``. ``amr`` and ``provided`` are :meth:`SignIns.conclude`'s.

        Raises ``Denied`` (``not_provisioned``, ``account_not_linked``), ``Unauthenticated`` (``account_disabled``,
        ``mfa_required``, ``mfa_enrolment_required``), and what ``before`` and ``after`` raise.
        """
        try:
            async with self._database.begin() as tx:
                await before(tx)
                found = await provision(
                    tx,
                    context,
                    arrival,
                    now=self._clock.now(),
                    ids=self._ids,
                    recorder=self._recorder,
                    create=by.create,
                    link_by_id=by.link_by_id,
                )
                await after(tx, found.user)
                outcome = await self._sign_ins.conclude(tx, context, found.user, by.method, amr, provided)
        except BailiwickError as error:
            if error.status < 500:
                await self.refused(context, by.method, by.provider, error.reason, username=arrival.username)
            raise
        if found.revision is not None:
            await self._revocations.settle(found.revision, context)
        if isinstance(outcome, FactorDue):
            raise outcome.error()
        return outcome

    async def id_token(self, zone: str, session_id: str) -> str:
        """The ID token that a provider gave with the session; empty without one, or when the session is over."""
        return await self._sign_ins.id_token(zone, session_id)

    async def refused(
        self, context: Context, method: Method, provider: str, reason: str, *, username: str = "", cause: str = ""
    ) -> None:
        """Record a sign-in that came to nothing. ``cause``: what was wrong, which the caller is not told."""
        async with self._database.begin() as tx:
            await self.record_refusal(tx, context, method, provider, reason, username=username, cause=cause)

    async def record_refusal(
        self,
        tx: Transaction,
        context: Context,
        method: Method,
        provider: str,
        reason: str,
        *,
        username: str = "",
        cause: str = "",
    ) -> None:
        """The same within a transaction of the caller's."""
        name = printable(username, 100)
        await self._recorder.record(
            tx,
            codes.AUTH_LOGIN_FAILURE,
            "failure",
            context,
            subject=Subject(id=name, type="user") if name else None,
            reasons=(reason,),
            method=method,
            provider=provider,
            cause=printable(cause, 200),
        )
        log.warning(
            "authentication failed",
            zone=context.zone,
            username=name,
            ip=context.network.ip,
            reason=reason,
            provider=provider,
            cause=printable(cause, 200),
        )
