"""Rotating a zone's key, and in an emergency telling which live mandates die with it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Protocol

from bailiwick.authority.keys import KeyStore, Purpose
from bailiwick.authority.revocation import Revocations
from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Event
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Database, Transaction

_MAX_LISTED = 10_000


class IssuedEvents(Protocol):
    """What the rotation asks the evidence room."""

    async def issued_by_key(self, zone: str, code: str, kid: str, since: float) -> Sequence[Event]:
        """Events of ``code`` whose details name ``kid``, not older than ``since`` (epoch seconds)."""
        ...


class EmergencyRotation:
    """Rotates keys.

    ``drained()`` waits until the events already acknowledged stand in the ledger; ``count(kind)`` feeds the metrics.
    """

    def __init__(
        self,
        database: Database,
        keys: KeyStore,
        revocations: Revocations,
        events: IssuedEvents,
        clock: Clock,
        *,
        mandate_ttl_s: int,
        drained: Callable[[], Awaitable[bool]],
        count: Callable[[str], None] = lambda kind: None,
    ) -> None:
        self._database = database
        self._keys = keys
        self._revocations = revocations
        self._events = events
        self._clock = clock
        self._mandate_ttl_s = mandate_ttl_s
        self._drained = drained
        self._count = count

    async def rotate(
        self,
        context: Context,
        purpose: Purpose,
        *,
        emergency: bool,
        reason: str,
        within: Callable[[Transaction], Awaitable[None]] | None = None,
    ) -> dict[str, Any]:
        """Replace the key and wait until every worker has; the answer is what the API shows.

        ``complete`` is False when the ledger had not caught up, so that the list of mandates may be short. ``within``
        is called first in the transaction that does it; what it raises stops it.
        """
        async with self._database.begin() as tx:
            if within is not None:
                await within(tx)
            old, new, revision = await self._keys.rotate(tx, context, purpose, emergency=emergency, reason=reason)
        if emergency:
            self._count("key")
        settlement = await self._revocations.settle(revision, context)
        answer: dict[str, Any] = {
            "purpose": purpose,
            "old_kid": old,
            "new_kid": new,
            "emergency": emergency,
            "revision": revision,
            "confirmed_by": list(settlement.confirmed),
            "fenced": list(settlement.fenced),
            "took_ms": settlement.took_ms,
        }
        if emergency and purpose == "mandate":
            complete = await self._drained()
            answer["affected_mandates"] = await self._affected(context.zone, old)
            answer["complete"] = complete and len(answer["affected_mandates"]) < _MAX_LISTED
        return answer

    async def _affected(self, zone: str, kid: str) -> list[dict[str, Any]]:
        now = self._clock.time()
        issued = await self._events.issued_by_key(zone, codes.MANDATE_ISSUED.code, kid, now - self._mandate_ttl_s)
        return [
            {
                "jti": event.subject.id if event.subject else "",
                "application": event.actor.application,
                "user": event.actor.user,
                "server": event.server,
                "scope": event.details.get("scope", ""),
                "expires_at": event.details.get("expires_at", 0),
            }
            for event in issued[:_MAX_LISTED]
            if int(str(event.details.get("expires_at", 0))) > now
        ]
