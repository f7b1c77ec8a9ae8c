"""The gateway's fail-closed switch: while a zone is closed the check denies everything with ``gateway_closed``.

Closing narrows, so one person may; opening again takes two (``gateway.open`` among the overrides).
"""

from __future__ import annotations

from typing import Any, Protocol

from bailiwick.evidence import codes
from bailiwick.evidence.events import Context, Recorder, Subject
from bailiwick.kernel import feed
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.ids import Ids


class Settle(Protocol):
    """Waits until every worker knows."""

    async def settle(self, revision: int, context: Context) -> Any:
        """Wait for ``revision``."""
        ...


class GatewaySwitch:
    """Closes and opens the gateway of a zone."""

    def __init__(self, clock: Clock, ids: Ids, recorder: Recorder) -> None:
        self._clock = clock
        self._ids = ids
        self._recorder = recorder

    async def standing(self, tx: Transaction, zone: str) -> dict[str, Any] | None:
        """The closure that stands; None while the gateway is open."""
        row = await tx.one(
            "SELECT id, closed_by, closed_at, reason FROM gateway_closures WHERE zone = :zone AND opened_at IS NULL",
            zone=zone,
        )
        return dict(row) if row is not None else None

    async def close(self, tx: Transaction, context: Context, reason: str, by: str) -> int:
        """Close it, unless it is; the feed's revision that every worker must have."""
        await tx.run(
            "INSERT INTO gateway_closures (id, zone, closed_by, closed_at, reason) VALUES (:id, :zone, :by, :now,"
            " :reason) ON CONFLICT DO NOTHING",
            id=self._ids(),
            zone=context.zone,
            by=by,
            now=self._clock.now(),
            reason=reason,
        )
        subject = Subject(id=context.zone, type="gateway")
        await self._recorder.record(tx, codes.GATEWAY_CLOSED, "success", context, subject=subject, reason=reason)
        return await feed.announce(tx, context.zone, "zone", context.zone)

    async def open(self, tx: Transaction, context: Context, reason: str, override: str) -> int:
        """Open it by an override that is being done; the feed's revision."""
        await tx.run(
            "UPDATE gateway_closures SET opened_at = :now, opened_by = :override"
            " WHERE zone = :zone AND opened_at IS NULL",
            now=self._clock.now(),
            override=override,
            zone=context.zone,
        )
        subject = Subject(id=context.zone, type="gateway")
        await self._recorder.record(tx, codes.GATEWAY_OPENED, "success", context, subject=subject, reason=reason)
        return await feed.announce(tx, context.zone, "zone", context.zone)
