"""What an evidence pack of an incident is of."""

from __future__ import annotations

from datetime import timedelta

from bailiwick.evidence.pack import IncidentSelector, Selection, Window
from bailiwick.handover.incidents.records import Incident, find
from bailiwick.kernel.clock import Clock
from bailiwick.kernel.db import Transaction

BEFORE = timedelta(hours=1)
"""How long before it began what led to it is looked at."""


def selection(incident: Incident, clock: Clock) -> Selection:
    """Everything since an hour before it began, until it was over or until now, with what decisions were made from."""
    until = (incident.recovered_at or clock.now()) + timedelta(seconds=1)
    window = Window(incident.began_at - BEFORE, until)
    return Selection(incident.zone, (), (window,), f"{incident.name} {incident.title}"[:200], True)


def selector(clock: Clock) -> IncidentSelector:
    """Finds what a pack of an incident is of, by its name."""

    async def select(tx: Transaction, zone: str, name: str) -> Selection:
        return selection(await find(tx, zone, name), clock)

    return select
