"""The gateway's fail-closed switch: while a zone is closed the check denies everything with ``gateway_closed``, while a
server of it is, everything to that server with ``server_closed``. Streams that are open are cut.

Closing narrows, so one person may; opening again takes two (``gateway.open`` among the overrides).
"""

from __future__ import annotations

from typing import Any, Protocol

from bailiwick.evidence import codes
from bailiwick.evidence.codes import EventType
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
    """Closes and opens the gateway of a zone, or the way to one of its servers (``server``; empty: to all)."""

    def __init__(self, clock: Clock, ids: Ids, recorder: Recorder) -> None:
        self._clock = clock
        self._ids = ids
        self._recorder = recorder

    async def standing(self, tx: Transaction, zone: str) -> dict[str, dict[str, Any]]:
        """The closures that stand, by server (empty: the whole zone)."""
        rows = await tx.all(
            "SELECT server, id, closed_by, closed_at, reason FROM gateway_closures WHERE zone = :zone"
            " AND opened_at IS NULL ORDER BY server",
            zone=zone,
        )
        return {row["server"]: dict(row) for row in rows}

    async def close(self, tx: Transaction, context: Context, reason: str, by: str, server: str = "") -> int:
        """Close it, unless it is; the feed's revision that every worker must have."""
        await tx.run(
            "INSERT INTO gateway_closures (id, zone, server, closed_by, closed_at, reason) VALUES (:id, :zone, :server,"
            " :by, :now, :reason) ON CONFLICT DO NOTHING",
            id=self._ids(),
            zone=context.zone,
            server=server,
            by=by,
            now=self._clock.now(),
            reason=reason,
        )
        return await self._tell(tx, codes.GATEWAY_CLOSED, context, reason, server)

    async def open(self, tx: Transaction, context: Context, reason: str, override: str, server: str = "") -> int:
        """Open it by an override that is being done; the feed's revision."""
        await tx.run(
            "UPDATE gateway_closures SET opened_at = :now, opened_by = :override"
            " WHERE zone = :zone AND server = :server AND opened_at IS NULL",
            now=self._clock.now(),
            override=override,
            zone=context.zone,
            server=server,
        )
        return await self._tell(tx, codes.GATEWAY_OPENED, context, reason, server)

    async def _tell(self, tx: Transaction, kind: EventType, context: Context, reason: str, server: str) -> int:
        subject = Subject(id=server or context.zone, type="server" if server else "gateway")
        await self._recorder.record(tx, kind, "success", context, subject=subject, reason=reason)
        return await feed.announce(tx, context.zone, "server" if server else "zone", server or context.zone)
