"""The outbox: a mutation leaves its event in the same commit as the change it tells of.

The sequencer (``evidence``) moves the rows into the ledger and deletes them there in one transaction, so a row is
sequenced exactly once. This module knows bytes only; the event's form belongs to the evidence room.
"""

from __future__ import annotations

from collections.abc import Sequence

from bailiwick.kernel.db import Transaction

PUT = "INSERT INTO outbox (zone, event) VALUES (:zone, :event) RETURNING pg_notify('bailiwick_outbox', '')"
"""For the ``WITH`` of a statement that makes the change itself: ``event`` of ``zone`` is left for the sequencer."""


async def put(tx: Transaction, zone: str, event: bytes) -> None:
    """Leave one encoded event of ``zone`` for the sequencer."""
    await tx.run(
        PUT,
        zone=zone,
        event=event,
    )


async def put_all(tx: Transaction, events: Sequence[tuple[str, bytes]]) -> None:
    """Leave several, each with its zone, in their order."""
    await tx.run(
        "WITH kept AS (INSERT INTO outbox (zone, event) SELECT zone, event"
        " FROM unnest(cast(:zones AS text[]), cast(:events AS bytea[])) WITH ORDINALITY AS e (zone, event, place)"
        " ORDER BY place) SELECT pg_notify('bailiwick_outbox', '')",
        zones=[zone for zone, _ in events],
        events=[event for _, event in events],
    )
