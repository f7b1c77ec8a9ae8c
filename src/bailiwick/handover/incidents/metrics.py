"""How soon incidents were detected, acknowledged, contained and recovered. Drills count apart."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from statistics import median
from typing import Any

from bailiwick.handover.incidents.records import Incident, incident_of, select_all, times
from bailiwick.kernel.db import Transaction
from bailiwick.kernel.severity import Severity

NAMES = ("detect_s", "acknowledge_s", "contain_s", "recover_s")


async def figures(tx: Transaction, zone: str, now: datetime, days: int) -> dict[str, Any]:
    """The figures of ``days`` before ``now``, by severity: how many, and of each time the median and the worst.

    A time that no incident has is null, never 0.
    """
    rows = await tx.all(
        f"{select_all()} WHERE zone = :zone AND opened_at > :since ORDER BY id", zone=zone, since=now - timedelta(days)
    )
    found = [incident_of(row) for row in rows]
    told: dict[str, Any] = {"days": days, "drills": sum(1 for each in found if each.drill)}
    for severity in Severity:
        those = [each for each in found if each.severity is severity and not each.drill]
        measured: dict[str, Any] = {"opened": len(those), "ongoing": sum(each.ongoing for each in those)}
        measured |= medians(those)
        measured["updates_missed"] = sum(each.updates_missed for each in those)
        measured["reviewed_late"] = sum(bool(each.review and each.review.get("late")) for each in those)
        told[severity.value] = measured
    return told


def medians(incidents: Sequence[Incident]) -> dict[str, dict[str, int] | None]:
    """Of each time the median and the worst, in seconds; None where no incident has it yet."""
    told: dict[str, dict[str, int] | None] = {}
    for name in NAMES:
        values = [value for each in incidents if (value := times(each)[name]) is not None]
        told[name] = {"median": int(median(values)), "worst": max(values)} if values else None
    return told
