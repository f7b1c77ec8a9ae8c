"""What goes on, for those who ask whether anything is on fire."""

from __future__ import annotations

from collections.abc import Sequence

from bailiwick.handover.incidents.records import incident_of, select_all
from bailiwick.handover.ports import OpenIncident
from bailiwick.kernel.db import Transaction


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
        found = [incident_of(row) for row in rows]
        return [OpenIncident(each.id, each.severity, each.heading, each.opened_at) for each in found]
