"""What goes on, for those who ask whether anything is on fire."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from bailiwick.handover.incidents.records import incident_of, select_all
from bailiwick.handover.ports import OpenIncident
from bailiwick.kernel.db import Row, Transaction


class StandingIncidents:
    """The port ``OpenIncidents``. Drills burn nothing and are not among them.

    Of a security incident nothing is told but that it is there: who asks is a gate, and its answer is read by many.
    """

    async def open(self, tx: Transaction, zone: str) -> Sequence[OpenIncident]:
        """Every incident that is not closed, the worst first, of one severity the oldest first."""
        rows = await tx.all(
            f"{select_all()} WHERE zone = :zone AND state <> 'closed' AND drill = '' ORDER BY severity, number",
            zone=zone,
        )
        return _told(rows)

    async def since(self, tx: Transaction, zone: str, moment: datetime) -> Sequence[OpenIncident]:
        """Every incident that was opened since, those that are closed by now among them, the oldest first."""
        rows = await tx.all(
            f"{select_all()} WHERE zone = :zone AND opened_at >= :moment AND drill = '' ORDER BY number",
            zone=zone,
            moment=moment,
        )
        return _told(rows)


def _told(rows: Sequence[Row]) -> list[OpenIncident]:
    found = [incident_of(row) for row in rows]
    return [OpenIncident(each.id, each.severity, each.heading, each.opened_at) for each in found]
