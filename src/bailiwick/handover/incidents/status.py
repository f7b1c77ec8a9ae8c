"""What everybody may know of a zone's incidents: that something is wrong, since when, and what was said in public.

Nothing else leaves: no title, no cause, no name, and of a security incident not even its severity.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from bailiwick.evidence.events import rfc3339
from bailiwick.handover.incidents.records import Incident, incident_of, select_all
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.severity import Severity

PAST = timedelta(days=14)
_STATES = {
    "open": "being looked at",
    "contained": "contained",
    "recovered": "over",
    "reviewed": "over",
    "closed": "over",
}


async def standing(tx: Transaction, zone: str, now: datetime) -> dict[str, Any]:
    """How a zone stands: ``operational``, ``degraded`` or ``down``, and its incidents. Drills are not told of."""
    rows = await tx.all(
        f"{select_all()} WHERE zone = :zone AND drill = '' AND (state IN ('open', 'contained')"
        " OR recovered_at > :since) ORDER BY id DESC LIMIT 100",
        zone=zone,
        since=now - PAST,
    )
    found = [incident_of(row) for row in rows]
    ongoing = [each for each in found if each.ongoing]
    worst = min((each.severity for each in ongoing), default=None)
    status = "operational" if worst is None else "down" if worst is Severity.P0 else "degraded"
    told = {each.id: await _told(tx, each) for each in found}
    return {
        "at": rfc3339(now),
        "zone": zone,
        "status": status,
        "incidents": [told[each.id] for each in ongoing],
        "past": [told[each.id] for each in found if not each.ongoing],
    }


async def _told(tx: Transaction, incident: Incident) -> dict[str, Any]:
    rows = await tx.all(
        "SELECT at FROM incident_entries WHERE incident = :id AND what = 'update' ORDER BY at", id=incident.id
    )
    return {
        "name": incident.name,
        "title": incident.public or "Something is wrong and is being looked at",
        "state": _STATES[incident.state],
        "severity": None if incident.class_ == "security" else incident.severity.value,
        "since": rfc3339(incident.opened_at),
        "over": rfc3339(incident.recovered_at) if incident.recovered_at else None,
        "updates": [rfc3339(row["at"]) for row in rows],
    }
